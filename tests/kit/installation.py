"""An installation in a folder: real files below a root, a fake service manager, a client that answers."""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path

from msgspec.structs import replace

from edgectl.client.answer import Answer, Embeddings
from edgectl.install.change import carry_out, exclusive, recover
from edgectl.install.code import Code
from edgectl.install.desired import Chosen, desired
from edgectl.install.host import Host
from edgectl.install.installer import Wanted, look, operations
from edgectl.install.manifest import Computer, Options
from edgectl.install.places import places
from edgectl.install.systemd import Systemd
from edgectl.planning.catalog import load_catalog
from edgectl.planning.plan import Plan, Wishes, plan, require_choice
from edgectl.probe import find_profile, load_profiles, planned_device
from edged.api.errors import BadRequest
from edged.api.events import Timings, Usage
from edged.api.status import Counters, EngineState, MemoryStatus, ModelInfo, ServiceState, Status
from tests.kit.service_manager import FakeManager

COMPUTER = Computer(cpu="aarch64 Cortex-A76", usable_cpus=4, memory_bytes=8 << 30)
CODE = Code(command=("/opt/edged/bin/edged",), places=(Path("/opt/edged"),))


@functools.cache
def demo_plan(context_tokens: int) -> Plan:
    """The demo model on a Raspberry Pi 5."""
    profiles = load_profiles()
    wishes = Wishes(model="smollm2-135m-instruct", context_tokens=context_tokens)
    device, profile = planned_device("pi5-8gb", profiles), find_profile("pi5-8gb", profiles)
    return require_choice(plan(device, profile, load_catalog(), wishes))


def tree(root: Path) -> dict[str, tuple]:
    """Everything below ``root``: path → kind, mode and content."""
    found = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (stat.S_IFMT(mode), stat.S_IMODE(mode), content)
    return found


class AnsweringClient:
    """Stands for EdgeClient; ``broken`` raises from the question instead, ``refusals`` from the first ones.

    With ``embeds`` it makes vectors and nothing else.
    """

    def __init__(self, broken=None, engine=EngineState.READY):
        self.broken, self.engine = broken, engine
        self.refusals, self.embeds = [], False

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    def generate(self, prompt, **options):
        if self.broken is not None:
            raise self.broken
        if self.refusals:
            raise self.refusals.pop()
        if self.embeds:
            raise BadRequest("this model makes vectors of texts and answers nothing")
        usage = Usage(prompt_tokens=5, completion_tokens=5)
        timings = Timings(queue_ms=0.0, first_ms=10.0, total_ms=50.0)
        return Answer(text="Hello there to you all", finish="stop", usage=usage, timings=timings)

    def embed(self, texts, **terms):
        usage = Usage(prompt_tokens=5, completion_tokens=0)
        timings = Timings(queue_ms=0.0, first_ms=10.0, total_ms=50.0)
        return Embeddings(vectors=((0.6, 0.8),), usage=usage, timings=timings)

    def status(self):
        model = ModelInfo(name="m", quant="Q4_1", file_bytes=1, context_tokens=2048, slots=2)
        return Status(
            node="box", version="0", pid=1, worker_pid=2, state=ServiceState.READY, engine=self.engine,
            uptime_s=1.0, model=model, queue=0, running=0, decode_tps=30.0, first_token_ms=10.0,
            memory=MemoryStatus(budget_bytes=1), counters=Counters(),
        )  # fmt: skip


class Box:
    """A computer with systemd whose root is ``root``; ``install`` does what the command does to files."""

    def __init__(self, root: Path, *, system: bool = True) -> None:
        self.root = root
        for folder in ("etc/systemd/system", "var/lib"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        self.places = places(user=False, root=root)
        self.manager = FakeManager(self.places.unit, self.places.state, self.places.private)
        self.manager.config = self.places.config
        self.client = AnsweringClient()
        self.said: list[str] = []
        self.say = self.said.append
        self.slept: list[float] = []
        self.model = root / "opt/model.gguf"
        self.model.parent.mkdir(exist_ok=True)
        self.model.write_bytes(b"weights")

    @property
    def host(self) -> Host:
        return Host(
            Systemd(self.manager, user=False),
            lambda: self.client,
            say=self.say,
            sleep=self.slept.append,
        )

    def steps(self, options: Options | None = None, **changes):
        installed = look(self.places)
        asked = options or Options()
        options = asked.over(installed.manifest.options if installed.manifest else Options())
        choice = demo_plan(options.context_tokens or 2048)
        chosen = Chosen(plan=choice, model_path=self.model, sha256="", board="Pi 5")
        wanted = Wanted(
            options=options,
            computer=COMPUTER,
            desired=desired(asked, chosen, self.places, CODE, installed.before, systemd_version=252),
            command=CODE.command,
            model_bytes=7,
        )
        state = Systemd(self.manager, user=False).state()
        return operations(replace(wanted, **changes), installed, self.places, state)

    def install(self, options: Options | None = None, **changes) -> None:
        with exclusive(self.places.record):
            recover(self.places.record, self.host, self.say)
            carry_out(self.steps(options, **changes), self.places.record, self.host, self.say)

    def recover(self) -> bool:
        with exclusive(self.places.record):
            return recover(self.places.record, self.host, self.say)

    def everything(self) -> tuple:
        """All that an installation may change."""
        manager = self.manager
        return (
            tree(self.root), manager.active, manager.activating, manager.running, manager.loaded,
            manager.linger,
        )  # fmt: skip


class Killed(BaseException):
    """The process is dead: nothing it still tries has an effect."""


class Faults:
    """Counts effects on disk and service manager; the ``at``-th fails, and with ``dead`` all after it too."""

    CALLS = ("fsync", "mkdir", "rename", "replace", "rmdir", "unlink", "fchmod")

    def __init__(self, monkeypatch, manager, at: int, *, dead: bool) -> None:
        self.count, self.at, self.dead, self.fired = 0, at, dead, False
        self._monkeypatch = monkeypatch
        for name in self.CALLS:
            monkeypatch.setattr(
                os, name, self._guarded(getattr(os, name), OSError(28, "No space left on device"))
            )
        self.manager = self._guarded(manager, OSError(5, "Input/output error"))

    def _guarded(self, call, error):
        def guarded(*args, **kwargs):
            self.count += 1
            if self.count == self.at or (self.fired and self.dead):
                self.fired = True
                raise Killed if self.dead else error
            return call(*args, **kwargs)

        return guarded
