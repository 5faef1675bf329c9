"""A service manager at the port: obeys systemctl's words, keeps real links, fails on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.install.runner import Completed

if TYPE_CHECKING:
    from pathlib import Path


class FakeManager:
    """Stands for ``systemctl`` and ``loginctl``; ``calls`` records what was asked.

    A started service is ready at once, unless ``fails`` says in which state it ends instead. At its first
    start it moves the state folder, as systemd does for DynamicUser= services.
    """

    def __init__(self, unit: Path, state: Path | None = None, private: Path | None = None) -> None:
        self.unit = unit
        self.state, self.private = state, private
        self.active = False
        self.failed = ""
        self.activating = False
        self.fails = ""  # "exit-code": every start ends so; "never-ready": it goes on for ever
        self.fails_with: str | None = None  # only units or configurations with this text fail
        self.loaded: str | None = None
        self.linger = False
        self.may_linger = True
        self.calls: list[tuple[str, ...]] = []
        self.config: Path | None = None
        self.running: str | None = None  # the configuration that the running service was started with

    @property
    def link(self) -> Path:
        return self.unit.parent / "multi-user.target.wants" / self.unit.name

    def __call__(self, command, timeout_s):
        words = [word for word in command if not word.startswith("--")]
        self.calls.append(tuple(command))
        if words[0] == "loginctl":
            return self._loginctl(words, command)
        if words[0] == "journalctl":
            return Completed(status=0, output="the last words\n")
        return getattr(self, "_" + words[1].replace("-", "_"))()

    def _loginctl(self, words, command):
        if words[1] == "show-user":
            return Completed(status=0, output="yes\n" if self.linger else "no\n")
        if not self.may_linger:
            return Completed(status=1, errors="Could not enable linger: Access denied\n")
        self.linger = words[1] == "enable-linger"
        return Completed(status=0)

    def _show(self):
        if "--property=Version" in self.calls[-1]:
            return Completed(status=0, output="252.39-1~deb12u2\n")
        known = self.loaded is not None
        running = "activating" if self.activating else "active" if self.active else ""
        active = running or ("failed" if self.failed else "inactive")
        lines = [
            f"LoadState={'loaded' if known else 'not-found'}",
            f"ActiveState={active}",
            f"SubState={'running' if self.active else (self.failed and 'failed') or 'dead'}",
            f"UnitFileState={'enabled' if self.link.is_symlink() else 'disabled' if known else ''}",
            f"Result={self.failed or 'success'}",
            "NRestarts=0",
            "StatusText=",
            "ControlGroup=",
        ]
        return Completed(status=0, output="\n".join(lines) + "\n")

    def _daemon_reload(self):
        self.loaded = self.unit.read_text() if self.unit.is_file() else None
        return Completed(status=0)

    def _enable(self):
        self.link.parent.mkdir(exist_ok=True)
        self.link.symlink_to(self.unit)
        return Completed(status=0)

    def _disable(self):
        self.link.unlink()
        self.link.parent.rmdir()
        return Completed(status=0)

    def _start(self):
        if self.loaded is None:
            return Completed(status=5, errors="Unit edged.service not found.\n")
        said = self.loaded + (self.config.read_text() if self.config else "")
        if self.fails and (self.fails_with is None or self.fails_with in said):
            if self.fails == "never-ready":
                self.activating, self.running = True, said
                waits = "--no-block" not in self.calls[-1]
                return Completed(status=int(waits), errors="systemctl waited until it was ended\n")
            self.failed = self.fails
            return Completed(status=0 if "--no-block" in self.calls[-1] else 1, errors="Job failed.\n")
        self._move_state()
        self.active, self.running = True, said
        return Completed(status=0)

    def _move_state(self):
        if self.state is None or self.private is None or self.state.is_symlink():
            return
        self.private.parent.mkdir(exist_ok=True)
        if self.state.is_dir():
            self.state.rename(self.private)
        else:
            self.private.mkdir()
        self.state.symlink_to(self.private)
        (self.private / "selftest.json").write_text("{}")

    def _stop(self):
        self.active, self.activating, self.failed, self.running = False, False, "", None
        return Completed(status=0)

    def _reset_failed(self):
        self.failed = ""
        return Completed(status=0)
