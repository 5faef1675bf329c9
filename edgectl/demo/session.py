"""One demo: what it found, what it planned, the processes it runs, the answer it got."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec
from msgspec import Struct, structs

from edgectl.demo.broker import start_broker
from edgectl.demo.device_client import DeviceClient
from edgectl.demo.processes import Child, choose_port, end_process, started_at
from edgectl.errors import IntegrityError, NotFound, Unhealthy, Usage
from edgectl.install.config_text import config_text
from edgectl.install.desired import Chosen, with_plan
from edgectl.planning.dryrun import INSTALL_COMMAND
from edgectl.planning.plan import Plan, plan, require_choice
from edgectl.planning.wishes import Wishes
from edged.api.config import Config
from edged.host.files import write_atomic
from edged.host.paths import user_paths
from edged.host.procfs import process_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgectl.demo.broker import BrokerKind
    from edgectl.device import Device
    from edgectl.planning.catalog import Catalog, ModelFile
    from edgectl.probe import DeviceProfile

MODEL = "smollm2-135m-instruct"
NODE = "demo"
QUESTION = "What is the capital of France?"
SYSTEM = "You are a helpful AI assistant."  # a model this small needs telling
WISHES = Wishes(model=MODEL, context_tokens=1024, slots=4)
LOAD_LIMIT_S = 180.0  # two self-test loads and the real one, from an SD card
ANSWER_LIMIT_S = 120.0


class Addresses(Struct, frozen=True, kw_only=True):
    mqtt_port: int
    http_port: int
    base: str = f"edged/{NODE}"


class Kept(Struct, frozen=True, kw_only=True):
    """A demo that was left running: (name, pid, start time) of its processes, and its folder."""

    processes: tuple[tuple[str, int, str], ...]
    folder: str
    addresses: Addresses


class Outcome(Struct, frozen=True, kw_only=True):
    """What the demo showed; times in milliseconds, sizes in bytes."""

    question: str
    answer: str
    completion_tokens: int
    first_token_ms: float
    tokens_per_second: float | None
    supervisor_bytes: int
    worker_anon_bytes: int
    worker_file_bytes: int
    budget_bytes: int
    predicted_tokens_per_second: float
    broker: str
    addresses: Addresses


def plan_demo(device: Device, profile: DeviceProfile | None, catalog: Catalog) -> tuple[Plan, Plan | None]:
    """The plan for the demo model, and what would be installed for work (None: nothing fits).

    Raises NothingFits when not even the demo model has room.
    """
    return require_choice(plan(device, profile, catalog, WISHES)), plan(device, profile, catalog).choice


def carried_model(file: ModelFile) -> Path:
    """The demo model inside its installed package, checked. Raises NotFound or IntegrityError."""
    import hashlib

    spec = importlib.util.find_spec(file.package or "")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    path = folder / file.package_path if folder and file.package_path else None
    if path is None or not path.is_file():
        raise NotFound(
            f"the demo model is not here: the package {file.distribution} is not installed",
            hint="`make demo` in the checkout installs it, or `pip install '.[demo]'` there",
        )
    with path.open("rb") as model:
        digest = hashlib.file_digest(model, "sha256").hexdigest()
    if digest != file.sha256:
        raise IntegrityError(
            f"{path} has SHA-256 {digest[:16]}…, not {(file.sha256 or '')[:16]}…",
            hint=f"pip install --force-reinstall {file.distribution}",
        )
    return path


class Demo:
    """Broker and daemon in a folder of their own; nothing is left behind unless ``keep`` is called."""

    def __init__(self, chosen: Chosen, broker: BrokerKind = "auto") -> None:
        self._chosen = chosen
        self._broker = broker
        self._stack = contextlib.ExitStack()
        self._children: list[Child] = []
        self.addresses = Addresses(mqtt_port=choose_port(1883), http_port=choose_port(8642))
        self.broker_name = ""

    def __enter__(self) -> Self:
        require_daemon()
        self.folder = Path(tempfile.mkdtemp(prefix="edged-demo-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start broker and daemon; raises NotFound or Unhealthy."""
        broker = start_broker(self.folder, self.addresses.mqtt_port, self._broker)
        self._own(broker)
        self.broker_name = broker.name
        config = self.folder / "edged.toml"
        config.write_text(self._config())
        command = [sys.executable, "-m", "edged", "--config", str(config)]
        self._own(Child("edged", command, self.folder / "edged.log"))

    def ask(self, on_online: Callable[[], None], on_text: Callable[[str], None]) -> Outcome:
        """Wait for the box, ask over the bus, stream the answer; raises Unhealthy."""
        with DeviceClient("127.0.0.1", self.addresses.mqtt_port, self.addresses.base) as device:
            if not device.wait_online(LOAD_LIMIT_S, self._check):
                raise Unhealthy(f"edged did not come online within {LOAD_LIMIT_S:.0f} s")
            on_online()
            reply = device.ask(QUESTION, on_text, ANSWER_LIMIT_S)
        if reply is None:
            raise Unhealthy(f"no answer came over the broker within {ANSWER_LIMIT_S:.0f} s")
        if not reply.get("ok"):
            raise Unhealthy(f"edged answered with an error: {reply.get('error')}")
        return self._outcome(reply)

    def keep(self) -> Kept:
        """Leave everything running after the block; how to find it again."""
        processes = tuple((child.name, child.pid, started_at(child.pid) or "") for child in self._children)
        kept = Kept(processes=processes, folder=str(self.folder), addresses=self.addresses)
        path = kept_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.encode(kept))
        self._stack.pop_all()
        return kept

    def _own(self, child: Child) -> None:
        self._children.append(child)
        self._stack.callback(child.stop)

    def _check(self) -> None:
        for child in self._children:
            child.check()

    def _config(self) -> str:
        base = Config(node=NODE, state_dir=str(self.folder / "state"))
        config = with_plan(base, self._chosen)
        # As planned: trying what is best takes some seconds, which pay off in months, not in minutes.
        model = structs.replace(config.model, system=SYSTEM, threads=self._chosen.plan.threads)
        return config_text(
            structs.replace(
                config,
                model=model,
                mqtt=structs.replace(
                    config.mqtt, port=self.addresses.mqtt_port, version=self._mqtt_version()
                ),
                http=structs.replace(config.http, port=self.addresses.http_port),
                discovery=structs.replace(config.discovery, enabled=False),  # loopback is all it needs
            )
        )

    def _mqtt_version(self) -> Literal["5", "3.1.1"]:
        """Version 3.1.1 for amqtt: it never answers a CONNECT of version 5."""
        return "3.1.1" if self.broker_name == "amqtt" else "5"

    def _outcome(self, reply: dict[str, Any]) -> Outcome:
        from edgectl.client import EdgeClient

        with EdgeClient(f"http://127.0.0.1:{self.addresses.http_port}") as client:
            status = client.status()
        worker = process_memory(status.worker_pid) if status.worker_pid else None
        supervisor = process_memory(status.pid)
        return Outcome(
            question=QUESTION,
            answer=str(reply["text"]),
            completion_tokens=int(reply["usage"]["completion_tokens"]),
            first_token_ms=float(reply["t_first_ms"]),
            tokens_per_second=status.decode_tps,
            supervisor_bytes=supervisor.rss_bytes if supervisor else 0,
            worker_anon_bytes=worker.rss_anon_bytes if worker else 0,
            worker_file_bytes=worker.rss_file_bytes if worker else 0,
            budget_bytes=status.memory.budget_bytes,
            predicted_tokens_per_second=self._chosen.plan.speed.decode_tps,
            broker=self.broker_name,
            addresses=self.addresses,
        )


def require_daemon() -> None:
    """Raises NotFound naming what to install when this installation cannot serve."""
    needed = ("llama_cpp", "starlette", "uvicorn", "jinja2")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise NotFound(
            f"this installation of edged cannot serve a model: {', '.join(missing)} missing",
            hint=f"`{INSTALL_COMMAND}` into its environment, or `make demo` in a checkout, brings them; "
            "the engine is compiled once, about 10 minutes",
        )


# --- a demo that was kept -----------------------------------------------------------------


def kept_path() -> Path:
    return user_paths().state / "demo.json"


def running_demo() -> Kept | None:
    """The demo that was left running, if any of its processes still does."""
    kept = _read_kept()
    alive = kept and any(started_at(pid) == start for _, pid, start in kept.processes)
    return kept if alive else None


def stop_kept() -> Iterator[str]:
    """End a kept demo and remove its folder, yielding the name of each process that was ended.

    What a demo left whose processes have ended already is removed as well. Raises Usage when none runs.
    """
    kept = _read_kept()
    ended = 0
    for name, pid, start in reversed(kept.processes if kept else ()):
        if end_process(pid, start):
            ended += 1
            yield name
    if kept is not None:
        shutil.rmtree(kept.folder, ignore_errors=True)
    kept_path().unlink(missing_ok=True)
    if not ended:
        raise Usage("no demo is running", hint="`edgectl demo --keep` starts one and leaves it running")


def _read_kept() -> Kept | None:
    try:
        return msgspec.json.decode(kept_path().read_bytes(), type=Kept)
    except (OSError, msgspec.DecodeError):
        return None
