"""Reads edged.toml: every problem of a file at once, each with its key, rule and nearest name."""

from __future__ import annotations

import difflib
import ipaddress
import re
import socket
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct, structs

from edged.api.config import NODE_PATTERN, TEMPLATE_NAME_PATTERN, Config
from edged.api.errors import ConfigInvalid
from edged.api.requests import SAMPLING_RANGES, in_range

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CONFIG_BYTES = 256 * 1024
MAX_MIB = 1 << 24  # 16 TiB; in bytes it still fits the integers of JSON and msgpack
MAX_TEMPLATES = 64
# Keys of versions before the first release → what has taken their place.
RETIRED = {
    "http.api_key_file": (
        "keys are kept as hashes now: remove this line, run `edgectl keys add NAME --from FILE` with the file"
        " that it named, and set http.keys_file as that command says"
    )
}
MEMORY_RULE = f"must be between 0 and {MAX_MIB} MiB"
HOST_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,253}")


def load(path: Path) -> Config:
    """The configuration in ``path``; raises ConfigInvalid with all problems."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise ConfigInvalid(str(path), ("the file does not exist; `edgectl install` writes it",)) from None
    except OSError as error:
        raise ConfigInvalid(str(path), (f"cannot be read: {error.strerror}",)) from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigInvalid(str(path), (f"has more than the {MAX_CONFIG_BYTES} bytes that make sense",))
    try:
        tree = tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise ConfigInvalid(str(path), (f"is not UTF-8 text (byte {error.start})",)) from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise ConfigInvalid(str(path), (f"is not TOML: {error}",)) from None
    except RecursionError:
        raise ConfigInvalid(str(path), ("is not TOML of ours: it is nested too deep",)) from None
    return parse(tree, str(path))


def parse(tree: dict[str, Any], source: str = "the configuration") -> Config:
    """A checked Config from a TOML tree; raises ConfigInvalid with all problems."""
    problems: list[str] = []
    values = _section(tree, Config, "", problems)
    config: Config = Config(**values)
    problems += broken_rules(config)
    if problems:
        raise ConfigInvalid(source, tuple(problems))
    return config if config.node else structs.replace(config, node=default_node())


def broken_rules(config: Config) -> list[str]:
    """What is wrong with the values of ``config``, each with its key."""
    return [f"{key}: {rule}" for key, rule, holds in RULES if not holds(config)]


def default_node() -> str:
    """The host name, with what a topic segment cannot hold replaced."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().split(".")[0])[:48] or "edged"


def _section(tree: dict[str, Any], kind: type[Struct], prefix: str, problems: list[str]) -> dict[str, Any]:
    """Keyword arguments for ``kind`` from ``tree``; what breaks a rule is noted and left out."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{_shown(key)}"
        wanted = hints.get(key)
        if wanted is None:
            problems.append(_unknown(name, key, list(hints), prefix))
        elif isinstance(wanted, type) and issubclass(wanted, Struct):
            if isinstance(value, dict):
                values[key] = wanted(**_section(value, wanted, f"{name}.", problems))
            else:
                problems.append(f"{name}: is a table, write [{name}]")
        elif get_origin(wanted) is dict:
            values[key] = _named_tables(value, get_args(wanted)[1], name, problems)
        else:
            try:
                values[key] = msgspec.convert(value, wanted)
            except msgspec.ValidationError as error:
                problems.append(f"{name} = {masked(name, value)}: {str(error).split(' - at')[0]}")
    return values


def _named_tables(value: Any, kind: type[Struct], name: str, problems: list[str]) -> dict[str, Struct]:
    """The tables below ``name``, whose own names are the user's."""
    if not isinstance(value, dict):
        problems.append(f"{name}: is a table of tables, write [{name}.NAME]")
        return {}
    tables = {}
    for inner, table in value.items():
        shown = f"{name}.{_shown(inner)}"
        if not isinstance(table, dict):
            problems.append(f"{shown}: is a table, write [{shown}]")
            continue
        tables[inner] = kind(**_section(table, kind, f"{shown}.", problems))
    return tables


def _shown(key: str) -> str:
    """A key as TOML would need it written; line ends and terminal codes in it stay harmless."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key) else repr(key)[:80]


def masked(key: str, value: object) -> str:
    """``value`` as shown to people; anything that may be a secret is not."""
    secret = re.search(r"password|secret|key|token(?!s)", key) and not key.endswith("_file")
    return "***" if secret else repr(value)[:80]


def _unknown(name: str, key: str, known: list[str], prefix: str) -> str:
    if name in RETIRED:
        return f"{name}: {RETIRED[name]}"
    close = difflib.get_close_matches(key, known, n=1)
    return f"{name}: there is no such key" + (f"; did you mean {prefix}{close[0]}?" if close else "")


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches ``host``; a name that merely begins with 127. may be anywhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _topic_ok(topic: str) -> bool:
    return (
        bool(topic) and not re.search(r"[+#$\x00]", topic) and not topic.startswith("/") and len(topic) <= 128
    )


# (key, rule for people, check): each is looked at, so that one run shows every broken rule.
RULES: tuple[tuple[str, str, Callable[[Config], bool]], ...] = (
    (
        "node",
        "1 to 48 characters of A-Z a-z 0-9 . _ -",
        lambda c: not c.node or bool(NODE_PATTERN.fullmatch(c.node)),
    ),
    ("model.path", "is needed: the model file to serve", lambda c: bool(c.model.path)),
    ("model.path", "must be absolute", lambda c: not c.model.path or Path(c.model.path).is_absolute()),
    ("model.path", "must not hold a NUL", lambda c: "\0" not in c.model.path),
    (
        "model.sha256",
        "64 hexadecimal digits in lower case, or empty",
        lambda c: not c.model.sha256 or bool(re.fullmatch(r"[0-9a-f]{64}", c.model.sha256)),
    ),
    ("model.context", "must be between 128 and 1048576 tokens", lambda c: 128 <= c.model.context <= 1 << 20),
    ("model.slots", "must be between 1 and 64", lambda c: 1 <= c.model.slots <= 64),
    ("model.ubatch", "must be between 8 and 2048 tokens", lambda c: 8 <= c.model.ubatch <= 2048),
    ("model.ubatch", "must be at least model.slots", lambda c: c.model.ubatch >= c.model.slots),
    ("model.threads", "must be between 0 and 256", lambda c: 0 <= c.model.threads <= 256),
    ("limits.queue", "must be between 1 and 4096", lambda c: 1 <= c.limits.queue <= 4096),
    (
        "limits.max_prompt_bytes",
        "must be between 64 and 8388608",
        lambda c: 64 <= c.limits.max_prompt_bytes <= 8 << 20,
    ),
    (
        "limits.max_tokens",
        "must be between 1 and 1048576",  # the largest context
        lambda c: 1 <= c.limits.max_tokens <= 1 << 20,
    ),
    (
        "limits.default_max_tokens",
        "must be between 1 and limits.max_tokens",
        lambda c: 1 <= c.limits.default_max_tokens <= c.limits.max_tokens,
    ),
    ("limits.default_ttl_s", "must be above 0", lambda c: c.limits.default_ttl_s > 0),
    (
        "limits.max_reply_bytes",
        "must be between 256 and 268435455",  # the largest packet of MQTT
        lambda c: 256 <= c.limits.max_reply_bytes < 1 << 28,
    ),
    (
        "limits.stream_interval_ms",
        "must be between 0 and 1000",
        lambda c: 0 <= c.limits.stream_interval_ms <= 1000,
    ),
    ("memory.budget_mib", MEMORY_RULE, lambda c: 0 <= c.memory.budget_mib <= MAX_MIB),
    ("memory.cache_mib", MEMORY_RULE, lambda c: 0 <= c.memory.cache_mib <= MAX_MIB),
    (
        "memory.cache_mib",
        "must be smaller than memory.budget_mib",
        lambda c: c.memory.budget_mib <= 0 or c.memory.cache_mib < c.memory.budget_mib,
    ),
    ("memory.keep_prefixes", "must be between 0 and 64", lambda c: 0 <= c.memory.keep_prefixes <= 64),
    ("memory.cgroup_max_mib", MEMORY_RULE, lambda c: 0 <= c.memory.cgroup_max_mib <= MAX_MIB),
    ("memory.min_available_mib", MEMORY_RULE, lambda c: 0 <= c.memory.min_available_mib <= MAX_MIB),
    ("engine.hang_timeout_s", "must be at least 1", lambda c: c.engine.hang_timeout_s >= 1),
    ("engine.step_timeout_s", "must be at least 1", lambda c: c.engine.step_timeout_s >= 1),
    ("engine.load_timeout_s", "must be at least 1", lambda c: c.engine.load_timeout_s >= 1),
    ("mqtt.port", "must be between 1 and 65535", lambda c: 1 <= c.mqtt.port <= 65535),
    ("mqtt.host", "must not be empty", lambda c: bool(c.mqtt.host)),
    ("mqtt.base", "must be one plain topic without + # $", lambda c: _topic_ok(c.mqtt.base)),
    ("mqtt.keepalive_s", "must be between 5 and 3600", lambda c: 5 <= c.mqtt.keepalive_s <= 3600),
    ("mqtt.duplicates", "must be between 0 and 100000", lambda c: 0 <= c.mqtt.duplicates <= 100_000),
    (
        "mqtt.reply_prefixes",
        "must be plain topics without + # $",
        lambda c: all(_topic_ok(prefix) for prefix in c.mqtt.reply_prefixes),
    ),
    (
        "mqtt.username",
        "needs mqtt.password_file",
        lambda c: not c.mqtt.username or bool(c.mqtt.password_file),
    ),
    (
        "mqtt.key_file",
        "belongs to mqtt.cert_file: name both or neither",
        lambda c: bool(c.mqtt.cert_file) == bool(c.mqtt.key_file),
    ),
    (
        "mqtt.cert_file",
        "needs mqtt.ca_file: without TLS nobody asks for a certificate",
        lambda c: not c.mqtt.cert_file or bool(c.mqtt.ca_file),
    ),
    (
        "mqtt.ask_template",
        "must name one of the tables [templates.NAME]",
        lambda c: not c.mqtt.ask_template or c.mqtt.ask_template in c.templates,
    ),
    (
        "mqtt.ask_max_tokens",
        "must be from 0 to limits.max_tokens",
        lambda c: 0 <= c.mqtt.ask_max_tokens <= c.limits.max_tokens,
    ),
    ("mqtt.outbox", "must be between 1 and 10000", lambda c: 1 <= c.mqtt.outbox <= 10_000),
    ("mqtt.outbox_kib", "must be between 1 and 262144", lambda c: 1 <= c.mqtt.outbox_kib <= 1 << 18),
    ("mqtt.outbox_ttl_s", "must be above 0", lambda c: c.mqtt.outbox_ttl_s > 0),
    (
        "model.thinking_budget",
        "must be from 0 to limits.max_tokens",
        lambda c: 0 <= c.model.thinking_budget <= c.limits.max_tokens,
    ),
    (
        "pool.name",
        "1 to 48 characters of A-Z a-z 0-9 . _ -, and not the name of this box",
        lambda c: (
            bool(NODE_PATTERN.fullmatch(c.pool.name))
            and not (c.pool.enabled and c.pool.name == (c.node or default_node()))
        ),
    ),
    ("pool.enabled", "needs mqtt.enabled", lambda c: c.mqtt.enabled or not c.pool.enabled),
    ("http.port", "must be between 0 and 65535", lambda c: 0 <= c.http.port <= 65535),
    ("http.max_body_bytes", "must be at least 1024", lambda c: c.http.max_body_bytes >= 1024),
    ("http.max_connections", "must be between 1 and 4096", lambda c: 1 <= c.http.max_connections <= 4096),
    (
        "http.host",
        "anything wider than loopback needs http.keys_file; `edgectl keys add NAME` makes one",
        lambda c: is_loopback(c.http.host) or bool(c.http.keys_file) or not c.http.enabled,
    ),
    (
        "http.keys_file",
        "must be absolute",
        lambda c: not c.http.keys_file or Path(c.http.keys_file).is_absolute(),
    ),
    ("http.keys_file", "must not hold a NUL", lambda c: "\0" not in c.http.keys_file),
    (
        "http.names",
        "must be host names or addresses without a port",
        lambda c: all(HOST_PATTERN.fullmatch(name) for name in c.http.names),
    ),
    (
        "templates",
        "names have 1 to 48 characters of A-Z a-z 0-9 _ -",
        lambda c: all(TEMPLATE_NAME_PATTERN.fullmatch(name) for name in c.templates),
    ),
    (
        "templates",
        f"at most {MAX_TEMPLATES} are allowed, each with a system message",
        lambda c: len(c.templates) <= MAX_TEMPLATES and all(one.system for one in c.templates.values()),
    ),
    ("http.enabled", "HTTP and MQTT cannot both be off", lambda c: c.http.enabled or c.mqtt.enabled),
    *(
        (
            f"model.{preset}.{name}",
            f"must be {rule}",
            lambda c, preset=preset, name=name: in_range(getattr(c.model, preset), name),
        )
        for preset in ("sampling", "sampling_thinking")
        for name, (_, _, rule) in SAMPLING_RANGES.items()
    ),
)
