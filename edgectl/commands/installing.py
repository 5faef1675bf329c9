"""One run of `edgectl install` or `uninstall`: facts, decision, question, deed, proof, in that order."""

from __future__ import annotations

import getpass
import os
import sys
from os.path import lexists
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import structs

from edgectl.client.edge_client import EdgeClient
from edgectl.client.target import of_config
from edgectl.demo.session import require_daemon
from edgectl.errors import (
    CommandFailed,
    ConfirmationNeeded,
    DeviceUnsupported,
    EdgeError,
    NotFound,
    Unhealthy,
    exit_code,
)
from edgectl.install import prepare, uninstaller
from edgectl.install.change import carry_out, exclusive, recover
from edgectl.install.code import require_lasting, require_readable, running_code
from edgectl.install.desired import Chosen, desired
from edgectl.install.host import Host
from edgectl.install.installer import Installed, Wanted, compare, look, operations, start_steps
from edgectl.install.manifest import computer_of
from edgectl.install.places import places
from edgectl.install.runner import run
from edgectl.install.systemd import Systemd, UnitState
from edgectl.models.fetch import Listener
from edgectl.models.store import Store
from edgectl.output import installation
from edgectl.output.outcome import told_if_read
from edgectl.output.transfer import transfer_report
from edgectl.probe import find_profile, load_profiles, probe_device
from edged.host.config import load

if TYPE_CHECKING:
    from edgectl.device import Device
    from edgectl.install.manifest import Options
    from edgectl.install.prepare import Choice

STATUS_S = 10.0  # a status needs no token, so a slow board answers as quickly as any
UNKNOWN_VERSION = 252  # the oldest supported; what a dry run assumes where no systemd runs
NOT_THERE = UnitState(load="not-found", active="inactive", sub="dead", enabled="", result="", restarts=0)


class Session:
    """What the two commands share; made once a run."""

    def __init__(self, *, user: bool) -> None:
        self.places = places(user=user)
        self.code = running_code()
        self.systemd = Systemd(run, user=user)
        self.host = Host(self.systemd, self._connect, say=say)
        self.store = Store(self.places.models)

    # --- install ---------------------------------------------------------------------------

    def install(self, options: Options, *, yes: bool, start: bool) -> None:
        """Install, reinstall, or say that there is nothing to change."""
        require_daemon()
        require_lasting(self.code)
        if not self.places.user:
            require_readable(self.code)
        version = self.systemd.version()
        with exclusive(self.places.record) as made:
            self._recover()
            installed, state, device = look(self.places), self.systemd.state(), probe_device()
            prepare.check(options, installed.before.options)
            verdict = compare(installed, options, computer_of(device), self.code.command, state)
            if verdict == "same" or (verdict in {"stopped", "starting"} and not start):
                say("edged is installed like this already; nothing was changed")
                return
            if verdict == "starting":
                raise self._not_ready(state)
            if verdict == "stopped":
                self._start_again(installed)
                return
            choice = self._choose(prepare.settled(options, installed.before.options), device, state)
            wanted = self._wanted(options, choice, installed, device, version)  # refuses before the question
            installation.show_plan(choice.plan, choice.model_path, download=choice.absent)
            installation.show_notes(device.notes)
            installation.show_replaced(installed.problems, self.places)
            _confirm("Install this?", yes=yes)
            self._bring(choice)
            wanted = structs.replace(wanted, start=start, made=made)
            steps = operations(wanted, installed, self.places, state)
            carry_out(steps, self.places.record, self.host, say)
        with told_if_read():
            if self.host.proof is not None:
                click.echo()
                installation.show_proof(self.host.proof, choice.plan)
            elif state.is_active:
                say(f"edged still runs as before, until the next boot or `{self._systemctl} restart edged`")
            else:
                say(f"edged starts with the next boot, or now with `{self._systemctl} start edged`")
            installation.show_next(wanted.desired, self.places)

    def show(self, options: Options, *, start: bool) -> None:
        """The dry run: every file and every step, nothing changed, no root needed."""
        try:
            require_daemon()
            require_lasting(self.code)
            if not self.places.user:
                require_readable(self.code)
        except EdgeError as error:
            say(f"note: a real installation would refuse: {error.message}")
        version, state = self._systemd_or_guess()
        installed, device = look(self.places), probe_device()
        prepare.check(options, installed.before.options)
        verdict = compare(installed, options, computer_of(device), self.code.command, state)
        if verdict != "different":
            what = ", and would be started" if verdict == "stopped" and start else ""
            say(f"edged is installed like this already{what}\n\nDry run: nothing was changed.")
            return
        if lexists(self.places.state) and not os.access(self.places.state, os.R_OK | os.X_OK):
            say(f"note: only root may look into {self.places.state}; a model that is there counts as missing")
        choice = self._choose(prepare.settled(options, installed.before.options), device, state)
        wanted = self._wanted(options, choice, installed, device, version)
        wanted = structs.replace(wanted, start=start)
        installation.show_plan(choice.plan, choice.model_path, download=choice.absent)
        installation.show_replaced(installed.problems, self.places)
        steps = operations(wanted, installed, self.places, state)
        pull = f"{choice.plan.model}:{choice.plan.quant}" if choice.absent else ""
        installation.show_dry_run(wanted.desired, steps, self.places, pull=pull)

    # --- uninstall -------------------------------------------------------------------------

    def show_removal(self, *, purge: bool) -> None:
        """The dry run: every step, nothing changed, no root needed."""
        _version, state = self._systemd_or_guess()
        self._list_removal(uninstaller.removal(self.places, self.host, state, purge=purge), purge=purge)
        say("Dry run: nothing was changed.")

    def uninstall(self, *, purge: bool, yes: bool) -> None:
        """Remove what `install` made; with ``purge`` models, state and edited configuration too."""
        self.systemd.version()
        with exclusive(self.places.record):
            self._recover()
            steps = uninstaller.removal(self.places, self.host, self.systemd.state(), purge=purge)
            if not steps:
                say("edged is not installed; nothing was changed")
                return
            self._list_removal(steps, purge=purge)
            _confirm("Remove this?", yes=yes)
            folders = uninstaller.folders(self.places)
            uninstaller.carry_out(steps, lambda _text: None)
        uninstaller.remove_empty(folders)  # now that the record is gone as well
        with told_if_read():
            say("edged is removed")

    def _list_removal(self, steps: list[uninstaller.Step], *, purge: bool) -> None:
        for step in steps:
            say(step.describe)
        for path in uninstaller.kept(self.places, purge=purge):
            say(f"keep {path}" + ("" if purge else " (--purge removes it)"))
        say(f"keep {self.code.command[0]}, this very program")

    # --- parts -----------------------------------------------------------------------------

    def _recover(self) -> None:
        if recover(self.places.record, self.host, say):
            say("what an earlier, killed run had begun is undone")

    def _start_again(self, installed: Installed) -> None:
        if installed.config is None:
            return
        path = Path(installed.config.model.path)
        say("edged is installed like this already, and stopped; starting it")
        embeds = installed.config.model.embeddings
        steps = start_steps(self.places, path.stat().st_size, embeds=embeds)
        carry_out(steps, self.places.record, self.host, say)

    def _not_ready(self, state: UnitState) -> Unhealthy:
        """The error for a service that is what it should be, and not ready, or not yet: it is left alone."""
        user = " --user" if self.places.user else ""
        return Unhealthy(
            "edged is installed like this already and is still starting"
            + (f": {state.status_text}" if state.status_text else "")
            + "; nothing was changed",
            hint=f"`edgectl logs{user}` says why, `edgectl models verify` checks the model file, and "
            f"`edgectl install{user} --model MODEL` takes another model",
        )

    def _choose(self, options: Options, device: Device, state: UnitState) -> Choice:
        device = prepare.with_running_service(device, state.control_group)
        profile = find_profile(device.profile, load_profiles()) if device.profile else None
        return prepare.choose(options, device, profile, self.places, self.store)

    def _bring(self, choice: Choice) -> None:
        """Fetch the model where it is missing, to the path that the plan has for it."""
        with transfer_report(f"{choice.plan.model}:{choice.plan.quant}") as report:
            prepare.bring(choice, self.store, Listener(progress=report.progress, say=report.say))

    def _wanted(
        self, options: Options, choice: Choice, installed: Installed, device: Device, version: int
    ) -> Wanted:
        """Raises what `desired` raises."""
        chosen = Chosen(
            plan=choice.plan,
            model_path=choice.model_path,
            sha256=choice.sha256,
            board=prepare.board_name(device),
        )
        name = getpass.getuser() if self.places.user else ""
        return Wanted(
            options=prepare.settled(options, installed.before.options),
            computer=computer_of(device),
            desired=desired(
                options, chosen, self.places, self.code, installed.before, systemd_version=version
            ),
            command=self.code.command,
            model_bytes=chosen.plan.file.bytes,
            lingering=name if name and not self.systemd.lingers(name) else "",
        )

    def _systemd_or_guess(self) -> tuple[int, UnitState]:
        try:
            return self.systemd.version(), self.systemd.state()
        except (CommandFailed, DeviceUnsupported):
            say("note: no service manager answers here; a real installation needs systemd")
            return UNKNOWN_VERSION, NOT_THERE

    def _connect(self) -> EdgeClient:
        """A client of the service as it is configured now. Raises NotFound before it is configured."""
        config = load(self.places.config)
        target = of_config(config, self.places.config)
        secret = _secret(target.key_file)
        return EdgeClient(
            target.url,
            api_key=secret,
            password=secret,
            ca_file=target.ca_file,
            cert_file=target.cert_file,
            cert_key_file=target.cert_key_file,
            timeout_s=STATUS_S,
        )

    @property
    def _systemctl(self) -> str:
        return "systemctl --user" if self.places.user else "systemctl"


def say(text: str) -> None:
    if text:
        click.echo(text)


def _secret(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text().strip()
    except OSError as error:
        raise NotFound(f"the key file {path} cannot be read: {error.strerror}") from None


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfirmationNeeded("nobody is there to say yes", hint="add --yes to go on without a question")
    if not click.confirm(question, default=True):
        say("nothing was changed")
        raise click.exceptions.Exit(exit_code(ConfirmationNeeded("")))
