"""The configuration tree: every key, its type, its default and its rule."""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct, field

from edged.api.requests import Sampling

NODE_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,48}")
TEMPLATE_NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,48}")  # needs no quotes in TOML
MIB = 1 << 20


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of edged.toml; a TOML key is the field's name."""


class Model(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is loaded and how. ``context`` counts tokens per slot."""

    path: str = ""
    name: str = "model"
    quant: str = ""
    sha256: str = ""
    backend: Literal["llama", "fake"] = "llama"
    context: int = 4096
    slots: int = 2  # concurrent sequences in one batch
    ubatch: int = 64  # tokens of one compute step; bounds logits memory and cancel latency
    threads: int = 0  # 0: found by trying, up to one per fast core this process may use
    kv_type: Literal["f16", "q8_0"] = "f16"
    embeddings: bool = False  # loaded to make vectors of texts (embed) and for nothing else
    mmap: bool = True
    repack: Literal["auto", "on", "off"] = "auto"  # extra buffer types; auto: the self-test decides
    speculate: Literal["auto", "on", "off"] = "auto"  # drafts of what repeats; auto: measured at each load
    thinking: bool = False
    thinking_budget: int = 0  # tokens of one thought; 0: three quarters of what the answer may have
    system: str = ""  # the system message of a chat that brings none
    sampling: Sampling = Sampling()
    sampling_thinking: Sampling = Sampling()  # what is different when the model thinks


class Limits(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds on what clients may ask."""

    queue: int = 32  # requests waiting for a slot
    max_prompt_bytes: int = 65536
    max_tokens: int = 2048
    default_max_tokens: int = 256
    default_ttl_s: float = 600.0
    max_reply_bytes: int = 131072  # an MQTT reply above this is split
    stream_interval_ms: int = 40  # a film shows no more; each message wakes two processes


class Memory(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``budget_mib`` bounds RssAnon + swap of the worker, cache included; 0 measures without enforcing."""

    budget_mib: int = 0
    cache_mib: int = 64  # beginnings of prompts; 500 tokens take from 11 MiB (SmolLM2) to 66 (Qwen3.5-4B)
    keep_prefixes: int = 0  # system messages whose evaluation is kept on disk over restarts
    cgroup_max_mib: int = 0  # memory.max of the worker's own cgroup leaf, file pages included; 0: none
    min_available_mib: int = 64  # of the host; below it new requests are shed


class Engine(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Patience with the worker, in seconds; each is generous on the slowest supported board."""

    hang_timeout_s: float = 30.0  # no heartbeat: the process is stopped or starved
    step_timeout_s: float = 120.0  # one compute step of ubatch tokens
    load_timeout_s: float = 900.0  # a 9B file from an SD card at 20 MB/s takes 5 minutes
    selftest: bool = True


class Mqtt(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 1883
    version: Literal["5", "3.1.1"] = "5"
    base: str = "edged"
    username: str = ""
    password_file: str = ""
    ca_file: str = ""  # set: TLS
    cert_file: str = ""  # ours, where the broker asks for one
    key_file: str = ""
    reply_prefixes: tuple[str, ...] = ()  # topics that reply_to and response topics may name, besides our own
    response_topic: bool = True  # honour MQTT 5 response topics below reply_prefixes
    ordinary_response: bool = True  # answer on response/<client>/<op> even when there is a response topic
    ask_template: str = ""  # the template of plain-text questions; empty: the model's system message
    ask_max_tokens: int = 0  # of an answer to one; 0: limits.default_max_tokens
    keepalive_s: int = 30
    duplicates: int = 256  # answers remembered for repeated ids
    jobs: bool = False  # whoever may publish below .../job could change the model
    job_types: tuple[Literal["pull", "switch", "update", "bench"], ...] = (
        "pull",
        "switch",
        "update",
        "bench",
    )
    home_assistant: bool = False  # publishes outside base, and its buttons unload the model
    last_answer: bool = False  # shows everybody's answers to who may read that topic
    outbox: int = 128  # answers that wait for a broker that is away; the oldest goes first
    outbox_kib: int = 1024  # of them all together
    outbox_ttl_s: float = 600.0  # a device that waited longer has asked again


class Http(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 8642
    names: tuple[str, ...] = ()  # by which clients call this computer, besides its own
    keys_file: str = ""
    max_body_bytes: int = 1 * MIB
    max_connections: int = 64


class Pool(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Boxes on one broker that share the work of one set of topics."""

    enabled: bool = False
    name: str = "pool"  # <mqtt.base>/<name>/request/... is where requests come from


class Discovery(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enabled: bool = True


class Template(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt that lives on the box: requests name it instead of sending it."""

    system: str = ""  # must be there


class Log(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    level: Literal["debug", "info", "warning", "error"] = "info"


class Plan(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the planner promised of this box; 0 where it promised nothing. Estimates begin with it."""

    decode_tps: float = 0.0
    first_token_500_s: float = 0.0
    worker_mib: int = 0  # without repacked weights
    speed: Literal["", "measured", "estimated"] = ""


class Config(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of edged.toml."""

    node: str = ""  # empty: the host name
    board: str = ""  # for people: what `edgectl probe` found
    state_dir: str = ""  # empty: $STATE_DIRECTORY, else the default place
    model: Model = field(default_factory=Model)
    limits: Limits = field(default_factory=Limits)
    memory: Memory = field(default_factory=Memory)
    engine: Engine = field(default_factory=Engine)
    mqtt: Mqtt = field(default_factory=Mqtt)
    pool: Pool = field(default_factory=Pool)
    http: Http = field(default_factory=Http)
    discovery: Discovery = field(default_factory=Discovery)
    log: Log = field(default_factory=Log)
    plan: Plan = field(default_factory=Plan)
    templates: dict[str, Template] = field(default_factory=dict)
