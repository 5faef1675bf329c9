"""How fast a model runs: tokens a second while writing, and the wait for the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from edgectl.planning.calibration import Calibration
from edgectl.planning.work import Work, work_of_file

if TYPE_CHECKING:
    from edgectl.device import Device
    from edgectl.planning.catalog import ModelEntry, ModelFile
    from edgectl.probe.profiles import DeviceProfile


__all__ = [
    "DeviceSpeed", "SpeedEstimate", "SpeedKind", "device_speed", "estimate_speed", "inference_threads",
]  # fmt: skip

SpeedKind = Literal["measured", "estimated"]
REFERENCE_PROMPT_TOKENS = 500  # what "first token" is quoted for: a system prompt and a paragraph

# For a computer without a profile. The low end of what such machines were seen to do, so that a plan
# is rather slower than it could be than slower than it said.
_GENERIC_BANDWIDTH = {"x86_64": 10e9, "aarch64": 5e9}
_GENERIC_PREFILL_PER_CORE = {"x86_64": 10e9, "aarch64": 5e9}
_GENERIC_OVERHEAD_S = 0.015
# IQ types look every weight up in a table, which costs a CPU more than the bytes they save; assumed.
_TABLE_LOOKUP_COST = 1.2
_DOT_PRODUCT = frozenset({"asimddp", "avx2", "i8mm", "avx512_vnni", "avx_vnni"})


class DeviceSpeed(Struct, frozen=True, kw_only=True):
    """What bounds inference here: bytes read a second, a constant a token, parameters a second in prefill.

    With a ``calibration`` these three are only what the profile says, and the calibration is what counts.
    """

    bandwidth_bytes_per_s: float
    overhead_s: float
    prefill_params_per_s: float
    source: str
    kind: SpeedKind = "estimated"
    calibration: Calibration | None = None


class SpeedEstimate(Struct, frozen=True, kw_only=True):
    """One request alone; ``ttft_500_s`` is the wait for the first token after 500 tokens of prompt.

    ``attention_s`` is what each token of depth adds to a token of a prompt; 0 where it is not known.
    """

    decode_tps: float
    prefill_tps: float
    ttft_500_s: float
    source: str
    kind: SpeedKind = "estimated"
    attention_s: float = 0.0

    def ttft_s(self, prompt_tokens: int) -> float:
        """Prefill of the prompt, then one decode step; ``prefill_tps`` is the mean over 500 tokens."""
        deeper_tokens = (prompt_tokens - REFERENCE_PROMPT_TOKENS) / 2
        token_s = max(1 / self.prefill_tps + self.attention_s * deeper_tokens, 0.0)
        return prompt_tokens * token_s + 1 / self.decode_tps


def inference_threads(device: Device) -> int:
    """Physical cores of the fastest cluster, at most what this process may use; at least 1.

    A decode step waits for its slowest thread, so slow cores and second hardware threads cost speed.
    """
    cpu = device.cpu
    cores = max(cpu.physical_cores, 1)
    if len(cpu.clusters) > 1:
        threads_per_core = max(cpu.logical_cpus // cores, 1)
        cores = min(cores, max(len(cpu.clusters[0].cpus) // threads_per_core, 1))
    return max(min(cores, int(cpu.usable_cpus)), 1)


def device_speed(
    device: Device, profile: DeviceProfile | None, calibration: Calibration | None = None
) -> DeviceSpeed:
    """What was measured here; without a calibration the profile's figures, or generic ones without a profile.

    The profile's figures are less what affinity and quota take away. ``kind`` and ``source`` say which it is.
    """
    reference = _reference_speed(device, profile)
    if calibration is None:
        return reference
    return replace(
        reference,
        calibration=calibration,
        kind="measured",
        source=f"calibration of this computer, {calibration.measured_at[:10]}",
    )


def _reference_speed(device: Device, profile: DeviceProfile | None) -> DeviceSpeed:
    threads = inference_threads(device)
    if profile is None:
        return _generic_speed(device, threads)
    share = min(threads / profile.board.cpu.clusters[0].cpus, 1.0)
    engine = "" if profile.engine == "cpu" else f", with {profile.engine}"
    return DeviceSpeed(
        # Half of the cores already fill the memory bus of a small board.
        bandwidth_bytes_per_s=profile.bandwidth_bytes_per_s * min(2 * share, 1.0),
        overhead_s=profile.overhead_s,
        prefill_params_per_s=profile.prefill_params_per_s * share,
        source=f"reference figures of {profile.name}{engine}",
    )


def _generic_speed(device: Device, threads: int) -> DeviceSpeed:
    arch = device.cpu.arch if device.cpu.arch in _GENERIC_BANDWIDTH else "aarch64"
    slow = (
        1.0 if _DOT_PRODUCT & set(device.cpu.features) else 0.4
    )  # kernels without dot products, Pi 4 to Pi 5
    return DeviceSpeed(
        bandwidth_bytes_per_s=_GENERIC_BANDWIDTH[arch] * slow * (0.5 if threads == 1 else 1.0),
        overhead_s=_GENERIC_OVERHEAD_S,
        prefill_params_per_s=_GENERIC_PREFILL_PER_CORE[arch] * slow * threads,
        source=f"generic figures for {device.cpu.arch}",
    )


def estimate_speed(entry: ModelEntry, file: ModelFile, speed: DeviceSpeed) -> SpeedEstimate:
    """Decoding reads every weight that one token uses: t = overhead + bytes / bandwidth.

    Of a mixture of experts that is the active share of the file. Context is taken as short: at 4,096 tokens
    the KV cache adds a few percent. A calibration knows more; see :class:`Calibration`.
    """
    if speed.calibration is not None:
        return _measured_speed(work_of_file(entry, file), speed, speed.calibration)
    cost = _TABLE_LOOKUP_COST if "IQ" in file.quant else 1.0
    touched_bytes = cost * file.bytes * entry.parameters_per_token / entry.text_parameters
    decode_s = speed.overhead_s + touched_bytes / speed.bandwidth_bytes_per_s
    prefill_tps = speed.prefill_params_per_s / entry.parameters_per_token
    return SpeedEstimate(
        decode_tps=1 / decode_s,
        prefill_tps=prefill_tps,
        ttft_500_s=REFERENCE_PROMPT_TOKENS / prefill_tps + decode_s,
        source=speed.source,
        kind=speed.kind,
    )


def _measured_speed(work: Work, speed: DeviceSpeed, calibration: Calibration) -> SpeedEstimate:
    """At the depth of the reference prompt."""
    prompt_s = calibration.prompt_s(work, REFERENCE_PROMPT_TOKENS)
    decode_s = calibration.decode_step_s(work, depth_tokens=REFERENCE_PROMPT_TOKENS)
    deep_s, shallow_s = (calibration.prefill_token_s(work, depth_tokens=depth) for depth in (1024, 0))
    return SpeedEstimate(
        decode_tps=1 / decode_s,
        prefill_tps=REFERENCE_PROMPT_TOKENS / prompt_s,
        ttft_500_s=calibration.first_token_s(work, REFERENCE_PROMPT_TOKENS),
        source=speed.source,
        kind="measured",
        attention_s=(deep_s - shallow_s) / 1024,
    )
