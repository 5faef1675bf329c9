"""The service manager as an installation needs it: facts about the unit, and changes to its state."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from edgectl.errors import CommandFailed, DeviceUnsupported
from edgectl.install.runner import Completed, ProgramMissing, require
from edgectl.install.unit import UNIT_NAME

if TYPE_CHECKING:
    from edgectl.install.runner import Runner

BOOTED = Path("/run/systemd/system")  # sd_booted(3)
QUICK_S = 60.0  # a reload on a small board with a busy card
STOP_S = 90.0  # TimeoutStopSec of the unit, and the kill after it
LOG_IN = "log in as that user (not with su or sudo), or set XDG_RUNTIME_DIR=/run/user/$(id -u)"
ALONE = "without systemd, run `edged --config FILE` under a supervisor of your own"


class UnitState(Struct, frozen=True, kw_only=True):
    """What systemd says about the unit, in its words ("active", "enabled", "failed", ...)."""

    load: str
    active: str
    sub: str
    enabled: str
    result: str
    restarts: int
    status_text: str = ""
    control_group: str = ""
    has_job: bool = False  # a start or stop is queued

    @property
    def is_active(self) -> bool:
        return self.active in {"active", "activating", "reloading"}

    @property
    def is_enabled(self) -> bool:
        return self.enabled == "enabled"


class Systemd:
    """One service manager, of the system or of this user."""

    def __init__(self, run: Runner, *, user: bool) -> None:
        self._run = run
        self._scope = ("--user",) if user else ()

    # --- facts -----------------------------------------------------------------------------

    def version(self) -> int:
        """The version of the running manager. Raises DeviceUnsupported when there is none to talk to."""
        try:
            done = self._run(("systemctl", *self._scope, "show", "--property=Version", "--value"), QUICK_S)
        except ProgramMissing as error:
            raise DeviceUnsupported(error.message, hint=ALONE) from None
        found = re.match(r"\d+", done.output.strip())
        if done.status != 0 or not found:
            whose = "your service manager" if self._scope else "systemd"
            said = done.errors.strip() or done.output.strip()
            raise DeviceUnsupported(f"{whose} does not answer: {said}", hint=LOG_IN if self._scope else ALONE)
        return int(found.group())

    def state(self) -> UnitState:
        keys = (
            "LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "NRestarts", "StatusText",
            "ControlGroup", "Job",
        )  # fmt: skip
        done = self._must("show", UNIT_NAME, f"--property={','.join(keys)}", timeout_s=QUICK_S)
        found = dict(line.split("=", 1) for line in done.output.splitlines() if "=" in line)
        return UnitState(
            load=found.get("LoadState", ""),
            active=found.get("ActiveState", ""),
            sub=found.get("SubState", ""),
            enabled=found.get("UnitFileState", ""),
            result=found.get("Result", ""),
            restarts=int(found.get("NRestarts") or 0),
            status_text=found.get("StatusText", ""),
            control_group=found.get("ControlGroup", ""),
            has_job=found.get("Job", "") not in {"", "0"},
        )

    def lingers(self, name: str) -> bool:
        """Whether the services of user ``name`` run without a login (loginctl(1), enable-linger)."""
        try:
            done = self._run(("loginctl", "show-user", name, "--property=Linger", "--value"), QUICK_S)
        except ProgramMissing:
            return False
        return done.output.strip() == "yes"

    @property
    def journal(self) -> tuple[str, str]:
        """The command that shows the whole log, of a unit that is not there any more, too."""
        return "journalctl", f"--user-unit={UNIT_NAME}" if self._scope else f"--unit={UNIT_NAME}"

    def log_tail(self, lines: int = 8) -> str:
        """The last lines the service wrote; empty when nobody may say."""
        command = (*self.journal, f"--lines={lines}", "--output=cat", "--no-pager", "--quiet")
        try:
            return self._run(command, QUICK_S).output.strip()
        except CommandFailed:
            return ""

    # --- changes ---------------------------------------------------------------------------

    def reload(self) -> None:
        self._must("daemon-reload", timeout_s=QUICK_S)

    def enable(self) -> None:
        self._must("enable", UNIT_NAME, timeout_s=QUICK_S)

    def disable(self) -> None:
        self._must("disable", UNIT_NAME, timeout_s=QUICK_S)

    def start(self) -> None:
        """Have the unit started; nothing is waited for."""
        self._must("start", "--no-block", UNIT_NAME, timeout_s=QUICK_S)

    def stop(self) -> None:
        """Stop the unit and forget its failures."""
        self._must("stop", UNIT_NAME, timeout_s=STOP_S)
        self._run(("systemctl", *self._scope, "reset-failed", UNIT_NAME), QUICK_S)  # fails when none failed

    def set_linger(self, name: str, *, on: bool) -> None:
        """Raises CommandFailed where the system leaves that to root."""
        command = ("loginctl", "enable-linger" if on else "disable-linger", name)
        require(command, self._run(command, QUICK_S))

    def _must(self, *words: str, timeout_s: float) -> Completed:
        command = ("systemctl", *self._scope, *words)
        return require(command, self._run(command, timeout_s))
