"""Where a model file may come from: the Hub, mirrors, any web server, an installed package."""

from __future__ import annotations

import ipaddress
import os
import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct

from edgectl.errors import Usage
from edgectl.models.names import is_filename

HUB = "https://huggingface.co"
_PACKAGE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


class Source(Struct, frozen=True, kw_only=True):
    """One place that offers a file; ``label`` is what a person reads, without secrets of the URL."""

    url: str
    label: str


class Download(Struct, frozen=True, kw_only=True):
    """A file to fetch: what its bytes must be, and where to try, in that order.

    Without ``sha256`` nothing but the transport vouches for the bytes, and a broken download starts anew.
    """

    label: str
    sources: tuple[Source, ...]
    sha256: str | None = None
    size_bytes: int | None = None


def web_source(url: str) -> Source:
    """The source at ``url``. Raises Usage unless it is an http or https address."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or any(ord(letter) <= 32 for letter in url):
        raise Usage(f"{url[:200]!r} is not a web address", hint="addresses begin with https:// or http://")
    return Source(url=url, label=public_address(url))


def hub_source(repo: str, revision: str, filename: str) -> Source:
    """A file of a repository of the Hub, or of the mirror that ``HF_ENDPOINT`` names."""
    from huggingface_hub import hf_hub_url  # slow to import, and --help need not pay

    return web_source(hf_hub_url(repo, filename, revision=revision, endpoint=hub_endpoint()))


def hub_endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def hub_token(url: str) -> str | None:
    """The Hub's access token when ``url`` is on the Hub and nobody on the way can read it; else None."""
    parts, hub = urlsplit(url), urlsplit(hub_endpoint())
    same_host = (parts.scheme, parts.hostname, parts.port) == (hub.scheme, hub.hostname, hub.port)
    if not same_host or (parts.scheme != "https" and not is_loopback(parts.hostname or "")):
        return None
    from huggingface_hub import get_token  # slow to import, and other hosts need not pay

    return get_token()


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def public_address(url: str) -> str:
    """``url`` without user, password, query and fragment, which may be secrets."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit((parts.scheme, host + port, parts.path, "", ""))


def package_file(package: str, filename: str) -> Path | None:
    """The file that the installed Python package carries; None without the package or the file.

    The package is located, not imported: none of its code runs.
    """
    if not _PACKAGE.fullmatch(package) or not is_filename(filename):
        return None
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / filename
        if path.is_file():
            return path
    return None
