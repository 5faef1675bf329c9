"""Runs the programs an installation needs: bounded in time, their words kept for the error."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from edgectl.errors import CommandFailed

SHOWN_CHARS = 2000  # of what a failed program said; the end says why


class Completed(Struct, frozen=True, kw_only=True):
    status: int
    output: str = ""
    errors: str = ""


class ProgramMissing(CommandFailed):
    """The program is not on this computer."""


Runner = Callable[[Sequence[str], float], Completed]


def run(command: Sequence[str], timeout_s: float) -> Completed:
    """Run ``command`` to its end. Raises ProgramMissing, or CommandFailed when it takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env=_environment(),
            check=False,
        )
    except FileNotFoundError:
        raise ProgramMissing(
            f"{command[0]} is not on this computer", hint="an installation needs systemd"
        ) from None
    except subprocess.TimeoutExpired:
        raise CommandFailed(
            f"`{' '.join(command)}` did not end within {timeout_s:.0f} s",
            hint="`systemctl list-jobs` shows what waits",
        ) from None
    return Completed(
        status=done.returncode,
        output=done.stdout.decode(errors="replace"),
        errors=done.stderr.decode(errors="replace"),
    )


def require(command: Sequence[str], done: Completed) -> Completed:
    """``done`` when it succeeded. Raises CommandFailed with what the program said."""
    if done.status == 0:
        return done
    said = (done.errors.strip() or done.output.strip() or "it said nothing")[-SHOWN_CHARS:]
    raise CommandFailed(f"`{' '.join(command)}` failed with status {done.status}: {said}")


def _environment() -> dict[str, str]:
    """Ours, in plain English, without pager and colour, and with the way to a user's service manager."""
    environment = os.environ | {"LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    runtime = Path(f"/run/user/{os.geteuid()}")
    if not environment.get("XDG_RUNTIME_DIR") and runtime.is_dir():
        environment["XDG_RUNTIME_DIR"] = str(runtime)
    return environment
