"""The text of the unit: the template of ``systemd/`` filled from a plan and the facts of the machine."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

from edgectl.errors import Usage
from edgectl.install.code import HIDDEN, Code, under
from edgectl.resources import data_dir

UNIT_NAME = "edged.service"
CREDENTIALS = f"/run/credentials/{UNIT_NAME}"  # where systemd puts what LoadCredential= names
SLOWEST_READ_BYTES_S = 10_000_000  # an SD card of class 10 promises 10 MB/s
FIRST_START_READS = 2  # once for the digest, once for the weights, where memory does not keep the file
START_SPARE_S = 120  # interpreter, self-test and first token on the slowest supported board
SUPERVISOR_TASKS = 96  # loop, bridge, mDNS, executor threads; measured below 40, the worker's own not counted
BACKOFF_SINCE = 254  # RestartSteps= and RestartMaxDelaySec= (systemd.service(5))

# systemd 252 mounts ProtectHome=tmpfs writable for everybody and without a size, unless told about it again.
EMPTY_HOMES = "TemporaryFileSystem=" + " ".join(f"{path}:ro,mode=0755" for path in HIDDEN)

_PLACEHOLDER = re.compile(r"@([A-Z_]+)@")
_PLAIN = re.compile(r"[A-Za-z0-9/._+=,~@-]+")
_NO_SOURCE = re.compile(r"[\x00-\x1f\x7f]|/\.\.(/|$)|[\s\\]$")


class UnitFacts(Struct, frozen=True, kw_only=True):
    """What the text depends on. ``secrets`` maps a credential's name to the file systemd reads as root."""

    code: Code
    config_path: Path
    model_path: Path
    model_bytes: int
    memory_max_bytes: int
    threads: int
    systemd_version: int
    user: bool = False
    secrets: tuple[tuple[str, Path], ...] = ()


def unit_text(facts: UnitFacts) -> str:
    """The whole unit file. Raises Usage for a path that a unit file cannot hold."""
    template = data_dir("systemd") / ("edged-user.service" if facts.user else UNIT_NAME)
    values = {
        "EXEC_START": " ".join(
            _argument(word) for word in (*facts.code.command, "--config", str(facts.config_path))
        ),
        "CREDENTIALS": "\n".join(f"LoadCredential={name}:{_source(path)}" for name, path in facts.secrets),
        "TIMEOUT_START_S": str(start_timeout_s(facts.model_bytes)),
        "RESTART_PACE": _restart_pace(facts.systemd_version),
        "MEMORY_MAX_BYTES": str(facts.memory_max_bytes),
        "TASKS_MAX": str(SUPERVISOR_TASKS + 2 * facts.threads),  # prefill and decode have a pool each
        "HOME": _home(facts),
    }
    return _fill(template.read_text(), values)


def start_timeout_s(model_bytes: int) -> int:
    """Seconds until READY=1 on slow storage."""
    return FIRST_START_READS * model_bytes // SLOWEST_READ_BYTES_S + START_SPARE_S


def credential_sources(text: str) -> dict[str, str]:
    """The files behind the credentials of a unit written earlier: name → path."""
    found = re.findall(r"^LoadCredential=([^:\n]+):(.+)$", text, re.MULTILINE)
    return {name: path.replace("%%", "%") for name, path in found}


def _fill(template: str, values: dict[str, str]) -> str:
    lines = []
    for line in template.splitlines():
        filled = _PLACEHOLDER.sub(lambda match: values[match.group(1)], line)
        if filled or not line:  # a line of nothing but an empty value goes
            lines.append(filled)
    return "\n".join(lines) + "\n"


def _restart_pace(version: int) -> str:
    if version < BACKOFF_SINCE:
        return "RestartSec=15"
    return "RestartSec=5\nRestartSteps=6\nRestartMaxDelaySec=300"


def _home(facts: UnitFacts) -> str:
    """Homes are empty, except for the code and the model when they lie there."""
    shown = list(facts.code.hidden)
    if under(facts.model_path, HIDDEN) and not under(facts.model_path, shown):
        shown.append(facts.model_path)
    if not shown:
        return "ProtectHome=yes"
    lines = ["ProtectHome=tmpfs", EMPTY_HOMES, *(f"BindReadOnlyPaths={_path(path)}" for path in shown)]
    return "\n".join(lines)


def _argument(word: str) -> str:
    """One word of ExecStart=, where a dollar would name a variable (systemd.service(5), "Command lines")."""
    if "$" in word:
        raise Usage(
            f"{word!r} has a dollar sign, which no unit file can hold there", hint="rename that folder"
        )
    return _quoted(word)


def _path(path: Path) -> str:
    """One path; quotes also keep a colon from separating source and target."""
    return _quoted(str(path))


def _source(path: Path) -> str:
    """The file of a credential: all behind the name's colon, where quotes would be part of the path."""
    if _NO_SOURCE.search(str(path)):
        raise Usage(
            f"{str(path)!r} has a control character, '..', or a space or backslash at its end, "
            "and systemd takes no credential from there",
            hint="name the file by another path",
        )
    return str(path).replace("%", "%%")


def _quoted(word: str) -> str:
    if re.search(r"[\x00-\x1f\x7f]", word):
        raise Usage(
            f"{word!r} has a control character, which no unit file can hold", hint="rename that folder"
        )
    word = word.replace("%", "%%")
    if _PLAIN.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
