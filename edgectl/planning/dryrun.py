"""Tries a model file, or a weightless replica of one, in a real worker, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from msgspec import Struct

from edgectl.errors import CommandFailed, DeviceUnsupported, NothingFits
from edgectl.models.replica import replica
from edged.api.measuring import Event, Failure, Loaded, Peak, Result, Workload
from edged.host.procfs import meminfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgectl.models.replica_plan import ReplicaPlan

__all__ = ["DryRun", "EngineSettings", "Stopped", "dry_run", "dry_run_replica", "require_engine"]

MIB: Final = 1 << 20
LIMIT_S: Final = 600.0
# Left to the rest of the computer whatever the caller says: below it, boards begin to swap or kill.
LEAST_AVAILABLE_BYTES: Final = 128 * MIB
STOP_S: Final = 15.0  # the runner kills its worker within 10 s, however it is stuck
_GRACE_S: Final = 30.0  # the runner keeps its own limit; this one is for a runner that falls silent
_READ_BYTES: Final = 1 << 16
_LOG_BYTES: Final = 2000
INSTALL_COMMAND: Final = 'pip install "edged[daemon]"'


class EngineSettings(Struct, frozen=True, kw_only=True):
    """How the file is loaded; sizes in tokens, as edged's configuration has them."""

    context: int
    slots: int = 1
    ubatch: int = 128
    threads: int = 1
    kv_type: Literal["f16", "q8_0"] = "f16"
    mmap: bool = True
    repack: bool = True


_decoder: Final = msgspec.json.Decoder(Event)


class DryRun(Struct, frozen=True, kw_only=True):
    """One file, tried: times in milliseconds, one result a workload, memory at its highest."""

    load_ms: float
    first_token_ms: float
    results: tuple[Result, ...]
    peak: Peak


class Stopped(CommandFailed):
    """A try ended early; ``reason`` is "pressure", "timeout" or "lost" (the worker died)."""

    def __init__(self, message: str, *, reason: str, hint: str = "", peak: Peak | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.peak = peak or Peak()


def require_engine() -> None:
    """Raises DeviceUnsupported with the command to run when the engine is not installed."""
    if importlib.util.find_spec("llama_cpp") is None:
        raise DeviceUnsupported(
            "measuring needs the engine, which is not installed",
            hint=f"run {INSTALL_COMMAND}, or plan with the figures of the device profile",
        )


def dry_run(
    path: Path,
    settings: EngineSettings,
    workloads: tuple[Workload, ...] = (),
    *,
    backend: Literal["llama", "fake"] = "llama",
    limit_s: float = LIMIT_S,
    min_available_bytes: int = LEAST_AVAILABLE_BYTES,
    on_event: Callable[[Loaded | Result], None] | None = None,
) -> DryRun:
    """Load ``path`` in a worker of its own and time ``workloads`` one after the other.

    The run ends when the host has less than ``min_available_bytes`` left, at memory pressure, or after
    ``limit_s``: Stopped. However it ends, Ctrl-C included, no process is left.
    """
    order = {
        "path": str(path.resolve()),
        "options": msgspec.to_builtins(settings),
        "workloads": msgspec.to_builtins(workloads),
        "backend": backend,
        "min_available_bytes": max(min_available_bytes, LEAST_AVAILABLE_BYTES),
        "limit_s": limit_s,
    }
    loaded: Loaded | None = None
    results: list[Result] = []
    for event in _events(msgspec.json.encode(order), limit_s + _GRACE_S):
        if isinstance(event, Loaded):
            loaded = event
        else:
            results.append(event)
        if on_event is not None:
            on_event(event)
    if loaded is None or len(results) < len(workloads):
        raise Stopped("the measuring program ended without a result", reason="lost")
    return DryRun(
        load_ms=loaded.load_ms,
        first_token_ms=loaded.first_token_ms,
        results=tuple(results),
        peak=results[-1].peak if results else loaded.peak,
    )


def dry_run_replica(
    plan: ReplicaPlan,
    folder: Path,
    settings: EngineSettings,
    workloads: tuple[Workload, ...] = (),
    *,
    backend: Literal["llama", "fake"] = "llama",
    limit_s: float = LIMIT_S,
    min_available_bytes: int = LEAST_AVAILABLE_BYTES,
    on_event: Callable[[Loaded | Result], None] | None = None,
) -> DryRun:
    """:func:`dry_run` of a replica that lies in ``folder`` for as long as it takes.

    Raises NothingFits before anything is written when its weights alone would leave less than
    ``min_available_bytes``; else as :func:`dry_run` and :func:`edgectl.models.replica.replica`.
    """
    left_bytes = meminfo().available_bytes - max(min_available_bytes, LEAST_AVAILABLE_BYTES)
    if plan.weights_bytes > left_bytes:
        raise NothingFits(
            f"a replica of {plan.weights_bytes // MIB:,} MiB does not fit the "
            f"{max(left_bytes, 0) // MIB:,} MiB of memory that may be used",
            hint="try one with fewer layers, or free memory",
        )
    with replica(plan, folder) as path:
        return dry_run(
            path,
            settings,
            workloads,
            backend=backend,
            limit_s=limit_s,
            min_available_bytes=min_available_bytes,
            on_event=on_event,
        )


def _events(order: bytes, limit_s: float) -> Iterator[Loaded | Result]:
    """Run ``edged.measure`` on ``order``; raises Stopped with its reason when it fails."""
    with tempfile.TemporaryFile() as words:
        # A session of its own: Ctrl-C is for us, who then end it in order.
        process = subprocess.Popen(
            [sys.executable, "-m", "edged.measure"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            start_new_session=True,
        )
        try:
            yield from _read(process, order, limit_s)
            code = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise Stopped("the measuring program does not end", reason="timeout") from None
        finally:
            _end(process)
        if code != 0:
            words.seek(0)
            last = words.read()[-_LOG_BYTES:].decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise Stopped(f"the measuring program ended with status {code}: {last}", reason="lost")


def _read(process: subprocess.Popen[bytes], order: bytes, silence_s: float) -> Iterator[Loaded | Result]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the pipes of the measuring program are missing")
    with contextlib.suppress(BrokenPipeError):  # it died at once; its status says so
        process.stdin.write(order)
        process.stdin.close()
    for line in _lines(process.stdout.fileno(), silence_s):
        try:
            event = _decoder.decode(line)
        except msgspec.DecodeError as error:
            raise Stopped(f"the measuring program wrote no event: {error}", reason="lost") from error
        if isinstance(event, Failure):
            raise Stopped(
                f"the try was stopped: {event.message}",
                reason=event.code,
                hint=_HINTS.get(event.code, ""),
                peak=event.peak,
            )
        yield event


def _lines(descriptor: int, silence_s: float) -> Iterator[bytes]:
    """Whole lines up to the end; raises Stopped after ``silence_s`` without a byte."""
    pending = b""
    while True:
        if not select.select([descriptor], [], [], silence_s)[0]:
            raise Stopped("the measuring program fell silent", reason="timeout")
        data = os.read(descriptor, _READ_BYTES)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        yield from lines


_HINTS: Final = {
    "pressure": "free memory, or try a smaller model",
    "timeout": "give it more time, or try a smaller model",
}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the runner to end, which ends its worker; kill it when it does not."""
    try:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
