"""Finds out in a minute how fast this computer is: times small replicas and fits the costs of a step."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from edgectl.errors import Unhealthy
from edgectl.models.replica_plan import ReplicaPlan, plan_replica
from edgectl.models.tensor_plan import TensorSpec
from edgectl.planning.calibration import Calibration, cpu_identity
from edgectl.planning.catalog import Geometry
from edgectl.planning.dryrun import EngineSettings, Stopped, dry_run_replica
from edgectl.planning.speed import inference_threads
from edgectl.planning.step_costs import Observation, StepCosts, fit_step_costs
from edgectl.planning.work import Work, work_of_tensors
from edged.api.measuring import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from edgectl.device import Device
    from edgectl.planning.dryrun import DryRun

__all__ = ["Sample", "Timing", "calibrate", "choose_threads", "fit_calibration", "samples", "thread_choices"]

SECONDS: Final = 60.0
BATCH: Final = 4
UBATCH: Final = 128
VOCAB: Final = 2048  # the output head is a matrix like others; a small one loads quickly
DEEP: Final = 4096
# A first sample that takes more of the time than this is of a slow board, which looks half as deep.
QUICK_SHARE: Final = 0.1
# In the order of their use in the catalogue: what the time does not allow is taken from the neighbours.
TYPES: Final = ("Q4_K", "Q6_K", "Q8_0", "Q5_K", "Q4_1", "Q5_0", "IQ4_XS", "Q4_0", "Q3_K")
TRYING_SHARE: Final = 0.3  # of the time; the rest is for the figures themselves
SAMPLE_LIMIT_S: Final = 60.0
# More threads must be this much quicker: the last core is wanted by everything else on the computer.
WORTH_A_CORE: Final = 1.04

_WIDE: Final = Geometry(
    layers=3, hidden=2048, feed_forward=6144, heads=16, kv_heads=4, head_dim=128, vocab=VOCAB,
    tied_embeddings=True,
)  # fmt: skip
_HYBRID: Final = Geometry(
    layers=8, hidden=1024, feed_forward=3584, heads=8, kv_heads=2, head_dim=256, vocab=VOCAB,
    tied_embeddings=True, full_attention_interval=4, linear_key_heads=16, linear_value_heads=16,
    linear_head_dim=128, linear_conv_kernel=4,
)  # fmt: skip
_NARROW: Final = Geometry(
    layers=24, hidden=512, feed_forward=1536, heads=8, kv_heads=2, head_dim=64, vocab=VOCAB,
    tied_embeddings=True,
)  # fmt: skip
_TALL: Final = Geometry(
    layers=3, hidden=256, feed_forward=8192, heads=4, kv_heads=4, head_dim=64, vocab=VOCAB,
    tied_embeddings=True,
)  # fmt: skip
_ATTENTIVE: Final = Geometry(
    layers=2, hidden=512, feed_forward=512, heads=8, kv_heads=2, head_dim=256, vocab=VOCAB,
    tied_embeddings=True,
)  # fmt: skip
# As many keys and values as a small model has, so that no cache holds them.
_NARROW_HEADED: Final = Geometry(
    layers=3, hidden=512, feed_forward=512, heads=16, kv_heads=8, head_dim=64, vocab=VOCAB,
    tied_embeddings=True,
)  # fmt: skip

# Steps follow each other as in decoding, since threads that fell asleep in between take longer; in several
# workloads, so that those a neighbour disturbed can be told from the others.
USUAL: Final = (
    *[Workload(decode_steps=8)] * 4,
    *[Workload(batch=BATCH, decode_steps=6)] * 3,
    *[Workload(depth=UBATCH, prefill_tokens=UBATCH)] * 3,
)
NEEDED: Final = 6  # samples, without which a term of the costs would be unknown


class Sample(Struct, frozen=True, kw_only=True):
    """One replica and what is timed with it; ``term`` is the cost that it is there for."""

    term: str
    plan: ReplicaPlan
    head_dim: int
    workloads: tuple[Workload, ...]

    @property
    def work(self) -> Work:
        return work_of_tensors(self.plan.tensors, head_dim=self.head_dim)


class Timing(Struct, frozen=True, kw_only=True):
    """One timed step of ``tokens`` tokens."""

    sample: str
    tokens: int
    observation: Observation


def samples(deep_tokens: int = DEEP) -> tuple[Sample, ...]:
    """In the order of their worth: the first :data:`NEEDED` make a calibration, the rest makes it finer.

    Attention is timed at a depth of ``deep_tokens``, too.
    """
    deep = (
        *USUAL,
        Workload(depth=deep_tokens, prefill_tokens=UBATCH, decode_steps=8),
        Workload(batch=BATCH, depth=deep_tokens, decode_steps=6),
    )
    kinds = [_sample(name, "llama", _WIDE, name, USUAL) for name in TYPES]
    return (
        kinds[0],
        _sample("state", "qwen35", _HYBRID, "Q4_K", USUAL),
        _sample("attention", "qwen3", _ATTENTIVE, "Q4_K", deep),
        _sample("narrow heads", "llama", _NARROW_HEADED, "Q4_K", deep),
        _sample("operations", "llama", _NARROW, "Q4_K", USUAL),
        _sample("rows", "llama", _TALL, "Q4_K", USUAL),
        _sample("narrow rows", "llama", _NARROW, "Q8_0", USUAL),
        *kinds[1:],
    )


def thread_choices(device: Device) -> tuple[int, ...]:
    """What is worth trying: all fast cores, one fewer for what else runs, and half of them."""
    most = inference_threads(device)
    return tuple(dict.fromkeys(one for one in (most, most - 1, most // 2) if one >= 1))


def calibrate(
    device: Device,
    engine: str,
    folder: Path,
    *,
    clock: Callable[[], float],
    measured_at: str,
    load_average: float,
    seconds: float = SECONDS,
    threads: int | None = None,
    on_progress: Callable[[float, str], None] | None = None,
    backend: Literal["llama", "fake"] = "llama",
) -> Calibration:
    """Time replicas in ``folder`` for about ``seconds`` by the monotonic ``clock``.

    ``threads`` are chosen by trying unless they are given.

    Raises Stopped, NoSpace, StorageFailed or NothingFits as a dry run does, Unhealthy when the time was too
    short for the first :data:`NEEDED` samples.
    """
    run = _Run(folder=folder, clock=clock, seconds=seconds, backend=backend, report=on_progress)
    first = samples()[0]
    tried: dict[int, DryRun] = {}
    for count in thread_choices(device) if threads is None else (threads,):
        if not tried or run.spent() < TRYING_SHARE:
            tried[count] = run.time(first, count, f"{count} threads" if count > 1 else "1 thread")
    threads = choose_threads({count: _tps(one) for count, one in tried.items()})
    everything = samples(DEEP if run.share_of_one() <= QUICK_SHARE else DEEP // 2)
    rest = everything[1:]
    timings = list(_timings(first, tried[threads]))
    while True:
        for index, sample in enumerate(rest):
            needed = run.rounds == 0 and index < NEEDED - 1
            if not needed and run.spent() + run.share_of_one() > 1.0:
                break
            timings += _timings(sample, run.time(sample, threads, sample.term))
        else:
            run.rounds += 1
            rest = everything
            continue
        break
    steps, spread = fit_calibration(timings)
    return Calibration(
        schema=1,
        engine=engine,
        cpu=cpu_identity(device),
        threads=threads,
        repack=run.repack,
        steps=steps,
        spread=spread,
        load_average=load_average,
        took_s=run.clock() - run.begun_s,
        measured_at=measured_at,
        tried_threads_tps={count: _tps(one) for count, one in tried.items()},
    )


def choose_threads(decode_tps: dict[int, float]) -> int:
    """The fewest threads that are within a few percent of the quickest."""
    best = max(decode_tps.values())
    return min(count for count, tps in decode_tps.items() if tps * WORTH_A_CORE >= best)


def fit_calibration(timings: Sequence[Timing]) -> tuple[tuple[StepCosts, ...], float]:
    """The costs for each size of step, and the median relative spread of timings of the same step.

    Timings of the same step count by their median, which a neighbour now and then does not move. Raises
    Unhealthy without a prefill or without single steps.
    """
    grouped: dict[tuple[int, str, float], list[Timing]] = {}
    for one in timings:
        grouped.setdefault((one.tokens, one.sample, one.observation.depth_tokens), []).append(one)
    seen: dict[int, list[Observation]] = {}
    spreads: list[float] = []
    for (tokens, _, _), group in sorted(grouped.items(), key=lambda item: item[0]):
        seconds = sorted(one.observation.seconds for one in group)
        usual_s = median(seconds)
        seen.setdefault(tokens, []).append(replace(group[0].observation, seconds=usual_s))
        spreads.append((seconds[len(seconds) * 3 // 4] - seconds[len(seconds) // 4]) / usual_s)
    if len(seen) < 2 or 1 not in seen:
        raise Unhealthy("the calibration has too few timings to say anything", hint="give it more --seconds")
    return tuple(fit_step_costs(tokens, some) for tokens, some in seen.items()), median(spreads)


class _Run:
    """One calibration under way: its time, and whether weights can be repacked here."""

    def __init__(
        self,
        *,
        folder: Path,
        clock: Callable[[], float],
        seconds: float,
        backend: Literal["llama", "fake"],
        report: Callable[[float, str], None] | None,
    ) -> None:
        self.clock = clock
        self.begun_s = clock()
        self.repack = True
        self.rounds = 0
        self._folder = folder
        self._seconds = seconds
        self._backend: Literal["llama", "fake"] = backend
        self._report = report or (lambda _share, _term: None)
        self._longest_s = 0.0

    def spent(self) -> float:
        """The share of the time that is gone."""
        return (self.clock() - self.begun_s) / self._seconds

    def share_of_one(self) -> float:
        """The share that the longest sample so far took."""
        return self._longest_s / self._seconds

    def time(self, sample: Sample, threads: int, label: str) -> DryRun:
        """Time ``sample``; the first death of a worker turns repacking off, which some machines cannot do."""
        self._report(min(self.spent(), 1.0), label)
        before_s = self.clock()
        try:
            done = self._dry_run(sample, threads)
        except Stopped as error:
            if error.reason != "lost" or not self.repack:
                raise
            self.repack = False
            done = self._dry_run(sample, threads)
        self._longest_s = max(self._longest_s, self.clock() - before_s)
        self._report(min(self.spent(), 1.0), label)
        return done

    def _dry_run(self, sample: Sample, threads: int) -> DryRun:
        settings = EngineSettings(
            context=DEEP + 64, slots=BATCH, ubatch=UBATCH, threads=threads, repack=self.repack
        )
        return dry_run_replica(
            sample.plan,
            self._folder,
            settings,
            sample.workloads,
            backend=self._backend,
            limit_s=SAMPLE_LIMIT_S,
        )


def _tps(done: DryRun) -> float:
    """Tokens a second of single steps, most of the time."""
    steps_ms = [one.measured.step_ms for one in done.results if one.workload == USUAL[0]]
    return 1000 / max(median(steps_ms), 1e-6)


def _sample(
    term: str, arch: str, geometry: Geometry, ggml_type: str, workloads: tuple[Workload, ...]
) -> Sample:
    """A replica whose matrices are all of one type."""
    plan = plan_replica(arch, geometry, "Q8_0", context_tokens=DEEP * 2)
    tensors = tuple(
        TensorSpec(one.name, one.shape, ggml_type if one.ggml_type == "Q8_0" else one.ggml_type)
        for one in plan.tensors
    )
    return Sample(
        term=term, plan=replace(plan, tensors=tensors), head_dim=geometry.head_dim, workloads=workloads
    )


def _timings(sample: Sample, done: DryRun) -> Iterator[Timing]:
    work = sample.work
    for result in done.results:
        order, measured = result.workload, result.measured
        if order.decode_steps and measured.step_ms > 0:
            yield Timing(
                sample=sample.term,
                tokens=order.batch,
                observation=Observation(
                    work=work,
                    depth_tokens=order.depth + order.decode_steps / 2,
                    head=True,
                    seconds=measured.step_ms / 1000,
                ),
            )
        if order.prefill_tokens and measured.prefill_tps > 0:
            yield Timing(
                sample=sample.term,
                tokens=UBATCH,
                observation=Observation(
                    work=work,
                    depth_tokens=order.depth - UBATCH / 2,
                    head=False,
                    seconds=UBATCH / measured.prefill_tps,
                ),
            )
