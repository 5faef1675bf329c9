"""What the service says of itself: status, info and conditions, put together when somebody asks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec import UNSET, structs

from edged import __version__
from edged.api import requests
from edged.api.requests import Sampling
from edged.api.status import (
    Condition,
    EngineState,
    Info,
    Limits,
    ModelInfo,
    Prediction,
    ServiceState,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edged.api.config import Config
    from edged.api.status import MqttStatus
    from edged.engine.supervisor import EngineSupervisor
    from edged.guard.sampler import Sampler
    from edged.scheduling.intake import Intake
    from edged.tally import Tally

FEATURES = ("chat", "generate", "classify", "stream", "cancel")
EMBEDDING_FEATURES = ("embed", "cancel")


class Reporting:
    """Knows where each figure comes from; ``conditions`` and ``mqtt`` are the transports' part."""

    def __init__(self, sampler: Sampler, tally: Tally) -> None:
        self._sampler = sampler
        self._tally = tally
        self.conditions: Callable[[], Sequence[Condition]] = tuple
        self.mqtt: Callable[[], MqttStatus | None] = _nothing

    def status(
        self,
        config: Config,
        engine: EngineSupervisor | None,
        *,
        state: ServiceState,
        uptime_s: float,
        queue: int,
        capacity: int,
        intake: Intake,
        shed_why: str,
    ) -> Status:
        """The whole picture; reads the sensors of the host."""
        tally = self._tally
        return Status(
            node=config.node,
            version=__version__,
            pid=os.getpid(),
            worker_pid=engine.worker_pid if engine else None,
            state=state,
            engine=engine.state if engine else EngineState.ABSENT,
            uptime_s=uptime_s,
            model=_model(config, engine),
            queue=queue,
            running=engine.running if engine else 0,
            decode_tps=tally.decode_tps,
            prefill_tps=tally.prefill_tps,
            first_token_ms=None if tally.first_s is None else tally.first_s * 1000,
            memory=structs.replace(self._sampler.status(), parts=engine.memory if engine else None),
            counters=tally.counters(engine.restarts if engine else 0),
            conditions=(*self.conditions(), *_conditions(engine, intake, shed_why)),
            capacity=capacity,
            intake=intake.share,
            host=self._sampler.host(),
            mqtt=self.mqtt(),
            predicted=_predicted(config),
            latencies=tally.latencies(),
        )

    def info(self, config: Config, engine: EngineSupervisor | None) -> Info:
        """What does not change while a model is loaded."""
        model = _model(config, engine)
        return Info(
            node=config.node,
            version=__version__,
            model=model,
            board=config.board,
            limits=Limits(
                max_prompt_tokens=model.context_tokens - 1,
                max_tokens=config.limits.max_tokens,
                max_prompt_bytes=config.limits.max_prompt_bytes,
                max_reply_bytes=config.limits.max_reply_bytes,
            ),
            features=_features(config, model),
            pool=config.pool.name if config.pool.enabled else "",
        )


def state_of(engine: EngineSupervisor | None, *, closed: bool) -> ServiceState:
    """What a client may expect; ``closed``: new requests are refused though the engine could take them."""
    state = engine.state if engine else EngineState.ABSENT
    if state in {EngineState.READY, EngineState.UNLOADED}:
        return ServiceState.DEGRADED if closed else ServiceState.READY
    never_loaded = engine is None or (engine.loaded is None and not engine.failing)
    starting = state in {EngineState.ABSENT, EngineState.SPAWNING, EngineState.LOADING}
    return ServiceState.LOADING if never_loaded and starting else ServiceState.DEGRADED


def limits_of(config: Config) -> requests.Limits:
    """The limits that requests are held against."""
    limits = config.limits
    return requests.Limits(
        max_prompt_bytes=limits.max_prompt_bytes,
        max_tokens=limits.max_tokens,
        default_max_tokens=limits.default_max_tokens,
        default_ttl_s=limits.default_ttl_s,
    )


def _conditions(engine: EngineSupervisor | None, intake: Intake, shed_why: str) -> list[Condition]:
    found = []
    if shed_why:
        hint = "requests are refused with memory_guard until it is over"
        found.append(Condition(code="memory_guard", severity="warning", message=shed_why, hint=hint))
    if intake.cause and not (shed_why and intake.cause == "memory_guard"):
        hint = f"{intake.share:.0%} of the usual work is let in until it is over"
        found.append(Condition(code=intake.cause, severity="warning", message=intake.why, hint=hint))
    if engine is not None and engine.failing:
        severity = "error" if engine.broken else "warning"
        hint = "see `edgectl logs`; `edgectl models verify` checks the file"
        found.append(
            Condition(code="engine_failed", severity=severity, message=engine.last_error, hint=hint)  # type: ignore[arg-type]
        )
    if engine is not None and engine.tuning:
        message = f"the engine is tuned anew: {engine.tuning}"
        hint = "requests wait until it is back; this happens twice an hour at most"
        found.append(Condition(code="tuning", severity="warning", message=message, hint=hint))
    return found


def _model(config: Config, engine: EngineSupervisor | None) -> ModelInfo:
    model = config.model
    loaded = engine.loaded if engine else None
    return ModelInfo(
        name=model.name,
        quant=model.quant,
        file_bytes=_file_bytes(model.path),
        context_tokens=loaded.context if loaded else model.context,
        slots=model.slots,
        thinks=loaded.thinks if loaded else model.thinking or model.sampling_thinking != Sampling(),
        sha256=model.sha256 or UNSET,
    )


def _features(config: Config, model: ModelInfo) -> tuple[str, ...]:
    """What requests may ask for. No "vision": no model is loaded with its image projector."""
    if config.model.embeddings:
        return EMBEDDING_FEATURES
    return (*FEATURES, "thinking") if model.thinks else FEATURES


def _predicted(config: Config) -> Prediction | None:
    return Prediction(**structs.asdict(config.plan)) if config.plan.decode_tps > 0 else None


def _file_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - called with a plain string from the configuration
    except OSError:
        return 0


def _nothing() -> None:
    """Stands for a transport that is switched off."""
