"""What a box says of itself on the local network: the TXT records of its DNS-SD services. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edged.host.config import is_loopback

if TYPE_CHECKING:
    from edged.api.config import Config
    from edged.api.status import Status

EDGED = "_edged._tcp.local."
OPENAI = "_openai._tcp.local."  # for clients that look for any server of this dialect
MAX_TXT_BYTES = 255  # of one key=value pair (RFC 6763, section 6.1)
LOAD_STEP_PERCENT = 25  # coarse, so that a busy box does not keep the network busy
VOLATILE = frozenset({"tok_s"})  # told along with something else, and no news by itself

Facts = dict[str, str]


def announcements(config: Config, status: Status, http_port: int | None) -> dict[str, Facts]:
    """Service type → TXT record (RFC 6763, section 6): what a client needs to know before it connects.

    In both: ``node``, ``version``, ``model``, ``context`` (tokens), ``load`` (percent of the places for
    requests that are taken, in steps of 25), ``health`` (ok, degraded, loading, overloaded), ``tok_s`` (of
    one answer), ``pool`` where the box belongs to one; ``path`` and ``auth`` of its HTTP interface.
    ``_edged._tcp`` has ``http`` besides: ``no``, ``loopback`` (only the box itself can use it) or ``yes``;
    ``mqtt``, the broker as the box reaches it, and ``topic``, the root of its topics. ``_openai._tcp`` is
    there only where others can use it.
    """
    http = _http(config, http_port)
    found = {EDGED: {**_about(config, status), "http": http, **_reach(config, http), **_mqtt(config)}}
    if http == "yes":
        found[OPENAI] = {**_about(config, status), **_reach(config, http)}
    return {
        service: {key: _cut(value, MAX_TXT_BYTES - len(key) - 1) for key, value in facts.items()}
        for service, facts in found.items()
    }


def is_news(before: Facts, now: Facts) -> bool:
    """Whether what changed is worth a multicast."""
    return any(before.get(key) != now.get(key) for key in (before.keys() | now.keys()) - VOLATILE)


def _about(config: Config, status: Status) -> Facts:
    steps = math.ceil(status.load * 100 / LOAD_STEP_PERCENT)
    facts = {
        "node": config.node,
        "version": status.version,
        "model": f"{status.model.name} {status.model.quant}".strip(),
        "context": str(status.model.context_tokens),
        "load": str(min(100, steps * LOAD_STEP_PERCENT)),
        "health": status.health,
    }
    if status.decode_tps is not None:
        facts["tok_s"] = f"{status.decode_tps:.3g}"
    if config.pool.enabled:
        facts["pool"] = config.pool.name
    return facts


def _http(config: Config, http_port: int | None) -> str:
    if http_port is None:
        return "no"
    return "loopback" if is_loopback(config.http.host) else "yes"


def _reach(config: Config, http: str) -> Facts:
    return {} if http == "no" else {"path": "/v1", "auth": "yes" if config.http.keys_file else "no"}


def _mqtt(config: Config) -> Facts:
    if not config.mqtt.enabled:
        return {}
    return {
        "mqtt": f"{config.mqtt.host}:{config.mqtt.port}",
        "topic": f"{config.mqtt.base}/{config.node}",
    }


def _cut(text: str, limit_bytes: int) -> str:
    return text.encode()[:limit_bytes].decode("utf-8", "ignore")
