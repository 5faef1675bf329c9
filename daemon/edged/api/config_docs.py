"""One line on every key of edged.toml, for `edgectl config explain`."""

from __future__ import annotations

# Dotted key → what it does and what its unit is. A table's own line comes first.
# tests/unit/test_config_docs.py asserts that every key of edged.api.config is here and nothing else.
EXPLANATIONS: dict[str, str] = {
    "node": "Name of this box in MQTT topics, discovery and status; empty takes the host name.",
    "board": "What `edgectl probe` found; shown to people, decides nothing.",
    "state_dir": "Folder for models and verdicts; empty takes $STATE_DIRECTORY, else the default place.",
    "model": "What is loaded and how.",
    "model.path": "Absolute path of the model file to serve.",
    "model.name": "Name that clients see, and may ask for.",
    "model.quant": "Quantisation of the file (Q4_K_M, ...), shown in info and status.",
    "model.sha256": "Digest the file must have before it is loaded; empty loads it unchecked.",
    "model.backend": "Engine that runs the model; 'fake' answers without a model and is for tests.",
    "model.context": "Tokens of one conversation, prompt and answer together, for each slot.",
    "model.slots": "Requests decoded at the same time in one batch; each adds its own context memory.",
    "model.ubatch": (
        "Tokens of one compute step; smaller cancels sooner and takes less memory, larger reads faster."
    ),
    "model.threads": (
        "Threads of the engine; 0 tries which number is best here, and again when what else runs has changed."
    ),
    "model.kv_type": "Number format of the KV cache; q8_0 halves its memory against f16.",
    "model.embeddings": "Load the model to make vectors of texts (embed) and for nothing else.",
    "model.mmap": "Map the file instead of copying it, so that the kernel may drop and re-read its pages.",
    "model.repack": "Faster weight layout at the price of memory; auto lets the self-test decide.",
    "model.speculate": (
        "Draft text that repeats and check it in one step; auto measures whether that pays. A model with"
        " recurrent layers, such as every Qwen3.5, drafts only when it is on, which keeps their state three"
        " times more for each slot; where memory.budget_mib has no room for that, it drafts nothing."
    ),
    "model.thinking": "Whether models that can think aloud do so when a request does not say.",
    "model.thinking_budget": (
        "Tokens after which a thought is brought to its end; 0 is three quarters of max_tokens."
    ),
    "model.system": "System message of a chat that brings none; empty adds none.",
    "model.sampling": "How tokens are drawn when a request does not say; unset keys take the model's preset.",
    "model.sampling.temperature": "Randomness; 0 always takes the likeliest token.",
    "model.sampling.top_p": "Draw only from the likeliest tokens that together have this probability.",
    "model.sampling.top_k": "Draw only from this many likeliest tokens; 0 is no limit.",
    "model.sampling.min_p": "Leave out tokens less likely than this share of the likeliest one.",
    "model.sampling.presence_penalty": "Lowers tokens that occurred at all; positive values avoid repeats.",
    "model.sampling.frequency_penalty": "Lowers tokens by how often they occurred.",
    "model.sampling.repeat_penalty": "Divides the score of tokens that occurred lately; 1 does nothing.",
    "model.sampling.seed": "Makes draws repeatable.",
    "model.sampling_thinking": "What of model.sampling is different in a request that lets the model think.",
    "model.sampling_thinking.temperature": "Randomness while thinking; 0 always takes the likeliest token.",
    "model.sampling_thinking.top_p": "The share of probability to draw from while thinking.",
    "model.sampling_thinking.top_k": "Number of likeliest tokens to draw from while thinking; 0 is no limit.",
    "model.sampling_thinking.min_p": "Least share of the likeliest token that is drawn while thinking.",
    "model.sampling_thinking.presence_penalty": "Lowers tokens that occurred at all while thinking.",
    "model.sampling_thinking.frequency_penalty": "Lowers tokens by how often they occurred while thinking.",
    "model.sampling_thinking.repeat_penalty": "Divides the score of late tokens while thinking; 1 is off.",
    "model.sampling_thinking.seed": "Makes draws repeatable while thinking.",
    "limits": "Bounds on what clients may ask.",
    "limits.queue": (
        "Requests that may wait for a slot; the next one is told busy and when to come back."
        " A quarter is kept for clients of which nothing waits."
    ),
    "limits.max_prompt_bytes": "Longest prompt, in bytes of UTF-8 over all messages.",
    "limits.max_tokens": "Most tokens one answer may have.",
    "limits.default_max_tokens": "Tokens of an answer when the request does not say.",
    "limits.default_ttl_s": "Seconds a request stays worth answering when it does not say.",
    "limits.max_reply_bytes": "An MQTT answer above this many bytes is split into numbered parts.",
    "limits.stream_interval_ms": (
        "Least milliseconds between two pieces of a streamed answer: tokens that come faster leave together;"
        " 0 sends each by itself."
    ),
    "memory": "How much memory the engine may take.",
    "memory.budget_mib": (
        "Most MiB of the engine's own memory (anonymous + swap); above it work is shed, then the engine is"
        " restarted. 0 measures only."
    ),
    "memory.cache_mib": (
        "MiB, within the budget, for what prompts have in common, so that it is read once; 0 keeps nothing."
    ),
    "memory.keep_prefixes": "Evaluated system messages kept on disk, so that a restart need not read them.",
    "memory.cgroup_max_mib": (
        "memory.max in MiB of the engine's own control group, mapped model pages included; 0 sets none."
    ),
    "memory.min_available_mib": "Below this many MiB available on the host, new requests are shed.",
    "engine": "Patience with the engine process.",
    "engine.hang_timeout_s": "Seconds without a heartbeat before the engine counts as hung and is killed.",
    "engine.step_timeout_s": "Seconds one compute step may take.",
    "engine.load_timeout_s": "Seconds loading the model may take, reading it from slow storage included.",
    "engine.selftest": "Try the engine's options in a throw-away process before they are trusted.",
    "mqtt": "The MQTT side.",
    "mqtt.enabled": "Serve over MQTT.",
    "mqtt.host": "Address of the broker.",
    "mqtt.port": "Port of the broker; 8883 is usual with TLS.",
    "mqtt.version": "Protocol to speak first; a broker that refuses 5 is spoken to in 3.1.1.",
    "mqtt.base": "First part of every topic: <base>/<node>/...",
    "mqtt.username": "User name at the broker.",
    "mqtt.password_file": "File with the password, readable by edged alone.",
    "mqtt.ca_file": "Certificate authority of the broker, a PEM file; setting it switches TLS on.",
    "mqtt.cert_file": "Certificate (PEM) that this box shows to a broker that asks for one; needs TLS.",
    "mqtt.key_file": "Private key (PEM, without a password) of cert_file, readable by edged alone.",
    "mqtt.reply_prefixes": "Topics below which clients may have answers sent, besides edged's own.",
    "mqtt.response_topic": "Honour MQTT 5 response topics that lie below reply_prefixes.",
    "mqtt.ordinary_response": "Answer on <base>/<node>/response/... as well when there is a response topic.",
    "mqtt.ask_template": "Template whose system message plain-text questions get; empty takes model.system.",
    "mqtt.ask_max_tokens": "Most tokens of an answer to a plain-text question; 0 is default_max_tokens.",
    "mqtt.keepalive_s": "Seconds after which a silent connection counts as broken.",
    "mqtt.duplicates": "Recent answers kept, so that a repeated request is answered without computing again.",
    "mqtt.jobs": "Take jobs on <base>/<node>/job: fetch a model, serve another, measure.",
    "mqtt.job_types": "Jobs that are taken when mqtt.jobs is on.",
    "mqtt.home_assistant": "Show this box in Home Assistant, with buttons that unload and reload the model.",
    "mqtt.last_answer": (
        "Publish each answer that goes over MQTT on <base>/<node>/last_answer too, never retained."
    ),
    "mqtt.outbox": "Answers kept while the broker is away; above it the oldest is given up.",
    "mqtt.outbox_kib": "Memory that the answers kept for a broker that is away may take together.",
    "mqtt.outbox_ttl_s": "Seconds that an answer waits for a broker that is away.",
    "http": "The HTTP side, compatible with OpenAI clients.",
    "http.enabled": "Serve over HTTP.",
    "http.host": "Address to listen on; anything wider than this computer needs keys_file.",
    "http.port": "Port to listen on; 0 takes a free one.",
    "http.names": "Names by which clients may call this computer, besides its own (a proxy's, say).",
    "http.keys_file": "Hashes of the keys that clients send (`edgectl keys add`); empty asks for none.",
    "http.max_body_bytes": "Largest request body, in bytes.",
    "http.max_connections": "Connections open at the same time.",
    "pool": "Sharing work with other boxes on the same broker; docs/scaling.md.",
    "pool.enabled": "Take requests from the pool's topics, and work on of boxes of the pool that are gone.",
    "pool.name": "Which pool: <mqtt.base>/<name>/... are its topics. Boxes of one pool have the same.",
    "discovery": "Being found on the local network.",
    "discovery.enabled": "Announce this box over mDNS, for `edgectl discover`.",
    "plan": "What the plan predicted; `edgectl status` shows it beside what is measured.",
    "plan.decode_tps": "Predicted tokens a second of one request alone; 0 is no prediction.",
    "plan.first_token_500_s": "Predicted seconds to the first token of a 500-token prompt; 0 is none.",
    "plan.worker_mib": (
        "Predicted MiB of the engine's own memory with contexts and cache full, repacked weights not counted."
    ),
    "plan.speed": "Whether the predicted speed comes from a measurement of this computer or is an estimate.",
    "templates": "Prompts that live on the box: [templates.NAME] has a system message that requests name.",
    "log": "What is logged.",
    "log.level": "Least severity that is logged; prompts and answers never are.",
}
