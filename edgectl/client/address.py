"""Reads the addresses a client can be given: http(s)://host:port and mqtt(s)://user@host:port/base/node."""

from __future__ import annotations

import re
from typing import TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct

from edgectl.errors import Usage

FORMS = "an address is http://HOST:PORT, https://HOST, mqtt://[USER@]HOST[:PORT][/BASE/NODE] or mqtts://"
DEFAULT_BASE = "edged"


class HttpAddress(Struct, frozen=True):
    """``url`` has no slash at its end and no /v1."""

    url: str


class MqttAddress(Struct, frozen=True):
    """``node`` is empty when the one node below ``base`` is meant."""

    host: str
    port: int
    tls: bool = False
    username: str = ""
    base: str = DEFAULT_BASE
    node: str = ""

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


Address: TypeAlias = HttpAddress | MqttAddress


def parse(url: str) -> Address:
    """The address in ``url``; raises Usage, never showing what may be a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Usage(f"the address is malformed: {error}", hint=FORMS) from None
    if parts.password is not None:
        raise Usage(
            "the address holds a password, which other users could see",
            hint="put it into a file of mode 0600 and name that (--key-file), or pass password= from Python",
        )
    if not parts.hostname or re.search(r"[\s\x00-\x1f]", url):
        raise Usage(f"{url!r} is no address", hint=FORMS)
    if "?" in url or "#" in url:
        raise Usage(f"{url!r}: an address has no ?query and no #fragment", hint=FORMS)
    if parts.scheme in {"http", "https"}:
        return _http(parts)
    if parts.scheme in {"mqtt", "mqtts"}:
        return _mqtt(parts, port)
    raise Usage(f"{url!r} does not start with http://, https://, mqtt:// or mqtts://", hint=FORMS)


def _http(parts: SplitResult) -> HttpAddress:
    if parts.username:
        raise Usage("an http address takes no user name; the key is enough", hint=FORMS)
    # People copy the base URL of OpenAI clients, which ends in /v1.
    path = parts.path.rstrip("/").removesuffix("/v1")
    return HttpAddress(f"{parts.scheme}://{parts.netloc}{path}")


def _mqtt(parts: SplitResult, port: int | None) -> MqttAddress:
    tls = parts.scheme == "mqtts"
    path = unquote(parts.path).removeprefix("/")
    if re.search(r"[+#\x00]", path) or "//" in path or path.startswith("/"):
        raise Usage(f"{path!r} is no plain topic: + # and empty levels are not allowed", hint=FORMS)
    base, _, node = path.rpartition("/")
    if not base:  # one level alone is the base
        base, node = node, ""
    return MqttAddress(
        host=parts.hostname or "",
        port=port or (8883 if tls else 1883),
        tls=tls,
        username=unquote(parts.username or ""),
        base=base or DEFAULT_BASE,
        node=node,
    )
