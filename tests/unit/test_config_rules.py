"""edged.toml: every rule is kept, every problem is told at once, nothing else ever escapes."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.api.config import Config
from edged.api.errors import ConfigInvalid
from edged.host.config import MAX_CONFIG_BYTES, MEMORY_RULE, RULES, is_loopback, load, masked, parse

GOOD = {"model": {"path": "/m.gguf"}}

# Rule (key, text) → a value of its key that breaks it. A key with a dot inside is a table's.
BREAKING: dict[tuple[str, str], object] = {
    ("node", "1 to 48 characters of A-Z a-z 0-9 . _ -"): "a/b",
    ("model.path", "is needed: the model file to serve"): "",
    ("model.path", "must be absolute"): "m.gguf",
    ("model.path", "must not hold a NUL"): "/m\0.gguf",
    ("model.sha256", "64 hexadecimal digits in lower case, or empty"): "A" * 64,
    ("model.context", "must be between 128 and 1048576 tokens"): 127,
    ("model.slots", "must be between 1 and 64"): 0,
    ("model.ubatch", "must be between 8 and 2048 tokens"): 4096,
    ("model.ubatch", "must be at least model.slots"): (8, {"slots": 9}),
    ("model.threads", "must be between 0 and 256"): -1,
    ("limits.queue", "must be between 1 and 4096"): 0,
    ("limits.max_prompt_bytes", "must be between 64 and 8388608"): 8 << 21,
    ("limits.max_tokens", "must be between 1 and 1048576"): 10**30,
    ("limits.default_max_tokens", "must be between 1 and limits.max_tokens"): 4096,
    ("limits.default_ttl_s", "must be above 0"): math.nan,
    ("limits.max_reply_bytes", "must be between 256 and 268435455"): 10**30,
    ("limits.stream_interval_ms", "must be between 0 and 1000"): 1001,
    ("memory.budget_mib", MEMORY_RULE): -1,
    ("memory.cache_mib", MEMORY_RULE): 1 << 25,
    ("memory.cache_mib", "must be smaller than memory.budget_mib"): (200, {"budget_mib": 200}),
    ("memory.keep_prefixes", "must be between 0 and 64"): 65,
    ("memory.cgroup_max_mib", MEMORY_RULE): 10**30,
    ("memory.min_available_mib", MEMORY_RULE): 1 << 25,
    ("engine.hang_timeout_s", "must be at least 1"): 0.5,
    ("engine.step_timeout_s", "must be at least 1"): math.nan,
    ("engine.load_timeout_s", "must be at least 1"): -1,
    ("mqtt.port", "must be between 1 and 65535"): 0,
    ("mqtt.host", "must not be empty"): "",
    ("mqtt.base", "must be one plain topic without + # $"): "edged/#",
    ("mqtt.keepalive_s", "must be between 5 and 3600"): 4,
    ("mqtt.duplicates", "must be between 0 and 100000"): -1,
    ("mqtt.reply_prefixes", "must be plain topics without + # $"): ["ok", "$SYS"],
    ("mqtt.username", "needs mqtt.password_file"): "me",
    ("mqtt.key_file", "belongs to mqtt.cert_file: name both or neither"): "/k.pem",
    ("mqtt.cert_file", "needs mqtt.ca_file: without TLS nobody asks for a certificate"): (
        "/c.pem",
        {"key_file": "/k.pem"},
    ),
    ("mqtt.ask_template", "must name one of the tables [templates.NAME]"): "door",
    ("mqtt.ask_max_tokens", "must be from 0 to limits.max_tokens"): 4096,
    ("mqtt.outbox", "must be between 1 and 10000"): 0,
    ("mqtt.outbox_kib", "must be between 1 and 262144"): 1 << 20,
    ("mqtt.outbox_ttl_s", "must be above 0"): math.nan,
    ("pool.name", "1 to 48 characters of A-Z a-z 0-9 . _ -, and not the name of this box"): "a/b",
    ("pool.enabled", "needs mqtt.enabled"): True,
    ("http.port", "must be between 0 and 65535"): 65536,
    ("http.max_body_bytes", "must be at least 1024"): 0,
    ("http.max_connections", "must be between 1 and 4096"): 0,
    (
        "http.host",
        "anything wider than loopback needs http.keys_file; `edgectl keys add NAME` makes one",
    ): "0.0.0.0",
    ("http.keys_file", "must be absolute"): "keys.toml",
    ("http.keys_file", "must not hold a NUL"): "/k\0",
    ("http.names", "must be host names or addresses without a port"): ["box.lan/x"],
    ("templates", "names have 1 to 48 characters of A-Z a-z 0-9 _ -"): {"a b": {"system": "Be brief."}},
    ("templates", "at most 64 are allowed, each with a system message"): {"door": {}},
    ("http.enabled", "HTTP and MQTT cannot both be off"): False,
    ("model.thinking_budget", "must be from 0 to limits.max_tokens"): 4096,
    **{
        (f"model.{preset}.{name}", f"must be {rule}"): value
        for preset in ("sampling", "sampling_thinking")
        for name, rule, value in (
            ("temperature", "between 0 and 5", math.nan),
            ("top_p", "between 0 and 1", 1.5),
            ("min_p", "between 0 and 1", -0.1),
            ("top_k", "between 0 and 100000", 10**20),
            ("presence_penalty", "between -2 and 2", 3),
            ("frequency_penalty", "between -2 and 2", -3),
            ("repeat_penalty", "between 0.1 and 3", 0),
            ("seed", "between 0 and 4294967295", -1),
        )
    },
}


def tree_with(key: str, value: object) -> dict:
    """A good tree in which ``key`` has ``value``; a pair adds siblings."""
    value, siblings = value if isinstance(value, tuple) else (value, {})
    tree: dict = {"model": dict(GOOD["model"])}
    *tables, name = key.split(".")
    place = tree
    for table in tables:
        place = place.setdefault(table, {})
    place.update({name: value, **siblings})
    if key in {"http.enabled", "pool.enabled"}:
        tree["mqtt"] = {"enabled": False}
    return tree


def problems(tree: dict) -> tuple[str, ...]:
    with pytest.raises(ConfigInvalid) as caught:
        parse(tree)
    return caught.value.problems


def test_the_table_of_breaking_values_is_complete():
    assert set(BREAKING) == {(key, text) for key, text, _ in RULES}


@pytest.mark.parametrize(("key", "text"), BREAKING, ids=lambda part: part if "." in part else None)
def test_each_rule_is_told_with_its_key_when_it_alone_is_broken(key, text):
    assert problems(tree_with(key, BREAKING[key, text])) == (f"{key}: {text}",)


def test_templates_have_names_of_their_own_and_the_keys_of_a_template():
    tree = {**GOOD, "templates": {"door-camera": {"system": "Say who is at the door."}}}
    assert parse(tree).templates["door-camera"].system == "Say who is at the door."
    assert problems({**GOOD, "templates": {"door": {"sytem": "x"}, "gate": 5}}) == (
        "templates.door.sytem: there is no such key; did you mean templates.door.system?",
        "templates.gate: is a table, write [templates.gate]",
        "templates: at most 64 are allowed, each with a system message",
    )
    assert problems({**GOOD, "templates": []}) == ("templates: is a table of tables, write [templates.NAME]",)


def test_defaults_keep_every_rule_but_the_model_that_must_be_named():
    assert problems({}) == ("model.path: is needed: the model file to serve",)
    config = parse(GOOD)
    assert config.node
    assert config.limits == Config().limits


def test_all_problems_are_told_at_once():
    found = problems(
        {
            "colour": "blue",
            "http": {"port": "eighty", "host": "0.0.0.0", "max_conections": 3},
            "model": {"context": 1, "path": "/x", "sampling": {"temperature": "hot", "top_p": 7}},
            "mqtt": 5,
        }
    )
    told = [problem.split(":")[0].split(" =")[0] for problem in found]
    assert sorted(told) == sorted(
        [
            "colour", "http.port", "http.host", "http.max_conections", "model.context",
            "model.sampling.temperature", "model.sampling.top_p", "mqtt",
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tree", "guess"),
    [
        ({"modle": {}}, "did you mean model?"),
        ({"http": {"prot": 1}}, "did you mean http.port?"),
        ({"model": {"sampling": {"temprature": 1}}}, "did you mean model.sampling.temperature?"),
    ],
)
def test_a_misspelt_key_gets_the_nearest_name(tree, guess):
    assert any(guess in problem for problem in problems(tree))


def test_a_key_unlike_any_other_gets_no_guess():
    assert "zzzzzz: there is no such key" in problems({"zzzzzz": 1})


@pytest.mark.parametrize("key", ["password", "api_key", "mqtt.password", "some_secret", "token"])
def test_values_that_may_be_secret_are_not_shown(key):
    assert masked(key, "hunter2") == "***"


def test_a_secret_written_where_it_does_not_belong_is_not_repeated():
    found = problems(
        {"mqtt": {"password": "hunter2"}, "http": {"api_key": "hunter2"}, "api_key_file": "hunter2"}
    )
    assert not any("hunter2" in problem for problem in found)


def test_other_values_are_shown_cut_to_a_line():
    assert masked("http.keys_file", "/run/key") == "'/run/key'"
    assert masked("limits.max_tokens", 5) == "5"
    assert len(masked("node", "x" * 10_000)) <= 80


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("192.168.1.5", False), ("127.0.0.1.example.org", False),
        ("127.example.org", False), ("", False),
    ],
)  # fmt: skip
def test_loopback_is_what_only_this_computer_reaches(host, loopback):
    assert is_loopback(host) is loopback


# --- the file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"node = '\xff'", "not UTF-8"),
        (b"node = ", "not TOML"),
        (b"[model]\npath='/a'\n[model]\n", "not TOML"),
        (b"x = " + b"[" * 50_000, "nested"),
        (b"x = " + b"9" * 5_000, "not TOML"),
        (b"#" * (MAX_CONFIG_BYTES + 1), str(MAX_CONFIG_BYTES)),
    ],
    ids=["utf8", "syntax", "twice", "deep", "digits", "huge"],
)
def test_a_file_that_cannot_be_a_configuration_is_one_clear_problem(tmp_path, content, words):
    path = tmp_path / "edged.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=words) as caught:
        load(path)
    assert len(caught.value.problems) == 1
    assert str(path) in caught.value.message


def test_a_folder_a_missing_file_and_an_endless_one_are_told(tmp_path):
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(ConfigInvalid, match="does not exist"):
        load(tmp_path / "none.toml")
    endless = tmp_path / "endless.toml"
    endless.symlink_to("/dev/zero")
    with pytest.raises(ConfigInvalid, match=str(MAX_CONFIG_BYTES)):
        load(endless)


def test_a_good_file_is_read(tmp_path):
    path = tmp_path / "edged.toml"
    path.write_text('node = "box"\n[model]\npath = "/m.gguf"\nsampling = { temperature = 0, top_k = 5 }\n')
    config = load(path)
    assert (config.node, config.model.sampling.top_k) == ("box", 5)


# --- anything at all ----------------------------------------------------------------------

KEYS = [key for key, _, _ in RULES] + [
    "model",
    "http",
    "model.sampling",
    "nope",
    "model.nope",
    "mqtt.nope.deep",
]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 10**30, 10**400, math.inf, -math.inf, math.nan, 1e308]),
    st.text(max_size=20),
    st.dates(),
    st.datetimes(),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=6))
def test_whatever_is_written_the_answer_is_a_configuration_or_config_invalid(changes):
    tree: dict = {"model": dict(GOOD["model"])}
    for key, value in changes:
        *tables, name = key.split(".")
        place = tree
        for table in tables:
            if not isinstance(place.get(table), dict):
                place[table] = {}
            place = place[table]
        place[name] = value
    config, found = None, ()
    try:
        config = parse(tree)
    except ConfigInvalid as error:
        found = error.problems
    assert bool(config) != bool(found)
    assert not any("\n" in problem for problem in found)
    if config:
        assert all(holds(config) for _, _, holds in RULES)
        # These figures go to the worker, into `info` and into `status`.
        msgspec.msgpack.encode((config.limits, config.model))
        msgspec.json.encode([mib << 20 for mib in msgspec.structs.astuple(config.memory)])


def test_a_pool_has_another_name_than_the_box():
    assert parse({**GOOD, "node": "hall", "pool": {"enabled": True}}).pool.name == "pool"
    assert problems({**GOOD, "node": "pool", "pool": {"enabled": True}})[0].startswith("pool.name: ")
