"""What was measured here: the record, where it is kept, and when it no longer holds."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from msgspec import Struct

from edgectl.errors import StorageFailed
from edgectl.planning.step_costs import BITS_PER_WEIGHT, StepCosts, step_parts_s
from edged.host.files import write_atomic
from edged.host.paths import SYSTEM, default_paths

if TYPE_CHECKING:
    from edgectl.device import Device
    from edgectl.planning.work import Work

__all__ = [
    "Calibration", "calibration_here", "calibration_path", "cpu_identity", "engine_version",
    "load_calibration", "save_calibration",
]  # fmt: skip

MAX_FILE_BYTES: Final = 1 << 20  # a calibration has some kilobytes


class Calibration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The costs of steps of 1, of a few and of ``ubatch_tokens`` tokens, fitted to replicas timed here.

    ``spread`` is how far apart timings of the same step were (the middle half of them, relative; the median
    over all steps), ``load_average`` that of the last minute when the calibration began, ``measured_at`` UTC
    as ISO 8601. ``steps`` rise by their tokens; the last is a prefill.
    """

    schema: Literal[1]
    engine: str
    cpu: str
    threads: int
    repack: bool
    steps: tuple[StepCosts, ...]
    spread: float
    load_average: float
    took_s: float
    measured_at: str
    tried_threads_tps: dict[int, float] = {}

    @property
    def ubatch_tokens(self) -> int:
        return self.steps[-1].tokens

    def bandwidths_bytes_per_s(self) -> dict[str, float]:
        """Bytes of weights read a second while decoding alone, by tensor type."""
        return {name: 1 / cost for name, cost in self.steps[0].weight_s.items()}

    def prefill_bytes_per_s(self) -> dict[str, float]:
        """Bytes of weights times tokens a second in prefill, by tensor type."""
        last = self.steps[-1]
        return {name: last.tokens / cost for name, cost in last.weight_s.items()}

    def decode_step_s(self, work: Work, *, batch: int = 1, depth_tokens: float = 0) -> float:
        """One decode step of ``batch`` sequences: between the measured sizes the cost grows linearly."""
        low, high = self._around(batch)
        low_s, high_s = (
            sum(step_parts_s(costs, work, depth_tokens=depth_tokens, head=True).values())
            for costs in (low, high)
        )
        if low.tokens == high.tokens:
            return low_s
        return low_s + (high_s - low_s) * (batch - low.tokens) / (high.tokens - low.tokens)

    def prefill_token_s(self, work: Work, *, depth_tokens: float = 0) -> float:
        """One token of a prompt, read at this depth in steps of ``ubatch_tokens``."""
        last = self.steps[-1]
        return sum(step_parts_s(last, work, depth_tokens=depth_tokens, head=False).values()) / last.tokens

    def prompt_s(self, work: Work, prompt_tokens: int) -> float:
        """A whole prompt from its first token on; attention makes the later tokens dearer."""
        return prompt_tokens * self.prefill_token_s(work, depth_tokens=prompt_tokens / 2)

    def first_token_s(self, work: Work, prompt_tokens: int) -> float:
        """The wait for the first token after a prompt: reading it, then one decode step."""
        return self.prompt_s(work, prompt_tokens) + self.decode_step_s(work, depth_tokens=prompt_tokens)

    def _around(self, batch: int) -> tuple[StepCosts, StepCosts]:
        decodes = self.steps[:-1]
        high = next((index for index, one in enumerate(decodes) if batch <= one.tokens), len(decodes) - 1)
        return decodes[max(high - 1, 0)], decodes[max(high, 1) if len(decodes) > 1 else 0]


def cpu_identity(device: Device) -> str:
    """What must not change for a calibration to hold."""
    cpu = device.cpu
    return f"{cpu.arch} {cpu.model}, {cpu.physical_cores} cores, {cpu.usable_cpus:g} usable"


def engine_version() -> str | None:
    """The installed engine; None when there is none."""
    from importlib import metadata

    try:
        return f"llama-cpp-python {metadata.version('llama-cpp-python')}"
    except metadata.PackageNotFoundError:
        return None


def calibration_path() -> Path:
    return default_paths().state / "calibration.json"


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Whole or not at all. Raises StorageFailed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.format(msgspec.json.encode(calibration), indent=2) + b"\n")
    except OSError as error:
        raise StorageFailed(
            f"the calibration cannot be written to {path}: {error.strerror}",
            hint="set EDGED_STATE to a folder that can be written, or run as root",
        ) from error


def load_calibration(path: Path, device: Device, engine: str | None) -> tuple[Calibration | None, str]:
    """The calibration at ``path`` and "", or None and why there is none that holds ("" when never made)."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"the calibration {path} cannot be read: {error.strerror}"
    try:
        calibration = msgspec.json.decode(data, type=Calibration)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, f"the calibration {path} is damaged and ignored; run `edgectl calibrate`"
    problem = _implausible(calibration)
    if problem is None and calibration.cpu != cpu_identity(device):
        problem = "it is of another CPU"
    if problem is None and calibration.engine != engine:
        problem = f"it is of {calibration.engine}"
    if problem is not None:
        return None, f"the calibration is ignored: {problem}; run `edgectl calibrate`"
    return calibration, ""


def calibration_here(device: Device) -> tuple[Calibration | None, str]:
    """The first that holds, of this user's, root's and that of who called sudo; else None and why (or "")."""
    problems: list[str] = []
    for path in _places():
        if os.access(path, os.R_OK):  # else finding the engine's version would take a while for nothing
            calibration, problem = load_calibration(path, device, engine_version())
            if calibration is not None:
                return calibration, ""
            problems.append(problem)
    return None, next(iter(problems), "")


def _places() -> list[Path]:
    own = calibration_path()
    if os.environ.get("EDGED_STATE"):
        return [own]
    places = [own, SYSTEM.state / own.name]
    name = os.environ.get("SUDO_USER")
    if name and os.geteuid() == 0:
        with contextlib.suppress(KeyError):  # no user of that name
            places.append(Path(pwd.getpwnam(name).pw_dir) / ".local/share/edged" / own.name)
    return list(dict.fromkeys(places))


def _implausible(calibration: Calibration) -> str | None:
    """Why its figures cannot be used; None when they can."""
    steps = calibration.steps
    if len(steps) < 2 or [one.tokens for one in steps] != sorted({one.tokens for one in steps}):
        return "its steps do not rise"
    if steps[0].tokens != 1 or calibration.threads < 1:
        return "it has no single step"
    for one in steps:
        costs = (
            one.fixed_s, one.operation_s, one.row_s, one.state_s, one.attention_s, one.narrow_attention_s,
            *one.weight_s.values(),
        )  # fmt: skip
        known = one.weight_s and one.weight_s.keys() <= BITS_PER_WEIGHT.keys()
        if not known or any(not 0 <= cost < 1e3 for cost in costs) or max(one.weight_s.values()) == 0:
            return "its costs make no sense"
    return None
