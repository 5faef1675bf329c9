"""`edgectl keys`: make, list and remove the API keys that edged asks its HTTP clients for."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgectl.client.target import local_config_path, read_key
from edgectl.errors import EdgeError, NeedsRoot, NotFound, StorageFailed, Usage
from edgectl.output.terminal import emit_json, json_option
from edged.api.errors import ConfigInvalid
from edged.host.keys import MAX_KEYS, MOST, NAME_PATTERN, own_key_path, read_keys, write_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edged.host.keys import StoredKey

OWN = "edgectl"  # the name of the key that edgectl on this computer uses
MIN_ADOPTED_CHARS = 32  # a key from elsewhere is trusted to be random, but not to be short


def _file_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "The file of hashes (default: http.keys_file, else keys.toml beside edged.toml)."
    return click.option("--file", "file", type=click.Path(path_type=Path), help=text)(command)


def _limit_option(name: str, text: str) -> Callable[..., Any]:
    most = MOST[name.removeprefix("--").replace("-", "_")]
    return click.option(name, type=click.IntRange(1, most), metavar="N", help=text)


@click.group(
    epilog="""\b
Examples:
  sudo edgectl keys add phone                      make a key and show it, once
  sudo edgectl keys add door --per-minute 30       one that may ask 30 times a minute
  edgectl keys list
  sudo edgectl keys remove phone"""
)
def command() -> None:
    """Make, list and remove the API keys of this computer.

    Only salted hashes are stored. edged notices a change within a second, without a restart.
    """


@command.command(
    epilog="""\b
Examples:
  sudo edgectl keys add phone                            the key is the only line on standard output
  sudo edgectl keys add door --per-minute 30 --at-once 1 --max-tokens 256
  sudo edgectl keys add old --from /etc/edged/old.key    take over a key that clients have

Exit status: 0 · 2 there is such a key already, or the file is broken · 10 it belongs to root."""
)
@click.argument("name")
@_limit_option("--per-minute", "Requests it may make in a minute (default: no limit of its own).")
@_limit_option("--at-once", "Requests it may have unanswered at the same time.")
@_limit_option("--max-tokens", "Tokens that one of its answers may have.")
@click.option(
    "--from", "source", type=click.Path(path_type=Path), metavar="FILE", help="Take the key in FILE over."
)
@_file_option
@json_option
def add(name: str, source: Path | None, file: Path | None, *, as_json: bool, **limits: int | None) -> None:
    """Make a key called NAME and show it; nothing can show it again.

    NAME is who its requests come from: in the log, and where places in the queue are shared out.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise Usage(f"{name[:60]!r} cannot be a name: 1 to 48 characters of A-Z a-z 0-9 _ -")
    path = keys_path(file)
    key = _adopted(source) if source else _new_key()
    given = {limit: value for limit, value in limits.items() if value is not None}
    own_path = own_key_path(path)
    with contextlib.ExitStack() as undo:
        with _changing(path) as keys:
            if name in keys:
                hint = f"`edgectl keys remove {name}` removes it"
                raise Usage(f"there is a key {name!r} already", hint=hint)
            if len(keys) + (OWN not in keys) >= MAX_KEYS:
                raise Usage(f"there are {len(keys)} keys; more than {MAX_KEYS} are not allowed")
            keys[name] = _stored(key, **given)
            if name == OWN or OWN not in keys:
                own = key if name == OWN else _new_key()
                undo.callback(own_path.unlink, missing_ok=True)  # a key whose hash is nowhere opens nothing
                _write_own(own_path, own)
                keys.setdefault(OWN, _stored(own))
        undo.pop_all()
    if as_json:
        emit_json({"name": name, "key": None if source else key, "file": str(path), **given})
    elif not source:
        click.echo(key)
    click.echo(f"Key {name!r} is in {path} as a hash." + _next_step(path), err=True)


@command.command(
    name="list",
    epilog="""\b
Examples:
  edgectl keys list
  edgectl keys list --json | jq -r '.keys[].name'

Exit status: 0, or 2 when the file is broken.""",
)
@_file_option
@json_option
def list_command(file: Path | None, *, as_json: bool) -> None:
    """List the keys there are, with their limits. A key itself cannot be shown."""
    path = keys_path(file)
    keys = _read(path)
    if as_json:
        told = [{"name": name, "created": key.created, **_limits(key)} for name, key in keys.items()]
        emit_json({"file": str(path), "keys": told})
        return
    if not keys:
        click.echo(f"There are no keys in {path}; `edgectl keys add NAME` makes one.")
        return
    width = max(map(len, keys))
    for name, key in keys.items():
        limits = ", ".join(f"{limit} {value}" for limit, value in _limits(key).items() if value)
        own = f" (edgectl on this computer, {own_key_path(path)})" if name == OWN else ""
        click.echo(f"{name:<{width}}  {key.created}  {limits or 'no limits of its own'}{own}")


@command.command(
    epilog="""\b
Examples:
  sudo edgectl keys remove phone

Exit status: 0 · 2 there is no such key · 10 the file belongs to root."""
)
@click.argument("name")
@_file_option
@json_option
def remove(name: str, file: Path | None, *, as_json: bool) -> None:
    """Remove the key NAME. From the next second on its requests are refused."""
    path = keys_path(file)
    with _changing(path) as keys:
        if name not in keys:
            known = ", ".join(keys) or "none"
            raise NotFound(f"there is no key {name[:60]!r} in {path}", hint=f"there are: {known}")
        del keys[name]
        if name == OWN:
            own_key_path(path).unlink(missing_ok=True)
    if as_json:
        emit_json({"removed": name, "file": str(path), "left": list(keys)})
    else:
        click.echo(f"Key {name!r} is removed from {path}.")


def keys_path(file: Path | None) -> Path:
    """``file``, else that of the local configuration, else the place beside it."""
    if file is not None:
        return file.absolute()
    return _configured() or local_config_path().with_name("keys.toml")


def _configured() -> Path | None:
    from edged.host.config import load

    try:
        config = load(local_config_path())
    except ConfigInvalid:  # none yet, or one that this command is to mend
        return None
    return Path(config.http.keys_file) if config.http.keys_file else None


def _next_step(path: Path) -> str:
    if _configured() == path:
        return ""
    return (
        f"\nTo have edged ask for keys, put this below [http] in {local_config_path()} and restart it:\n"
        f'  keys_file = "{path}"'
    )


def _limits(key: StoredKey) -> dict[str, int]:
    return {limit: getattr(key, limit) for limit in MOST}


def _new_key() -> str:
    import secrets

    from edged.host.keys import KEY_BYTES, PREFIX

    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def _adopted(source: Path) -> str:
    key = read_key(source)
    if len(key) < MIN_ADOPTED_CHARS or not key.isascii() or " " in key:
        raise Usage(
            f"the key in {source} is too easy to guess: at least {MIN_ADOPTED_CHARS} characters of printable"
            " ASCII without blanks, from a generator of random numbers",
            hint="leave --from out, and edged's own key is made",
        )
    return key


def _stored(key: str, **limits: int) -> StoredKey:
    import datetime as dt

    from edged.host.keys import SALT_BYTES, stored

    today = dt.datetime.now(dt.UTC).date().isoformat()
    return stored(key, os.urandom(SALT_BYTES), created=today, **limits)


def _write_own(path: Path, key: str) -> None:
    from edged.host.files import write_atomic

    write_atomic(path, f"{key}\n", mode=0o600)


def _read(path: Path) -> dict[str, StoredKey]:
    try:
        return read_keys(path)
    except FileNotFoundError:
        return {}
    except ConfigInvalid as error:
        error.hint = f"mend {path} by hand, or remove it and make the keys anew"
        raise


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[dict[str, StoredKey]]:
    """The keys in ``path``, written back when the block ends well; one change at a time."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            keys = _read(path)
            yield keys
            write_keys(path, keys)
        finally:
            os.close(folder)
    except PermissionError:
        raise NeedsRoot(f"{path} is not yours to change", hint="run the same command with sudo") from None
    except EdgeError:
        raise
    except OSError as error:
        raise StorageFailed(f"{path} cannot be written: {error.strerror}") from None
