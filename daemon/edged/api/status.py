"""What edged says about itself: states, conditions, memory, speed."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec import Struct


class ServiceState(StrEnum):
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    STOPPED = "stopped"


class EngineState(StrEnum):
    ABSENT = "absent"
    SPAWNING = "spawning"
    LOADING = "loading"
    READY = "ready"
    RECYCLING = "recycling"
    KILLING = "killing"
    BACKOFF = "backoff"
    BROKEN = "broken"
    UNLOADED = "unloaded"  # on request; the next one loads the model again


class Condition(Struct, frozen=True, kw_only=True):
    """Something that is not as it should be, with a stable code; gone when it is over."""

    code: str
    severity: Literal["warning", "error"]
    message: str
    hint: str = ""


class ModelInfo(Struct, frozen=True, kw_only=True):
    """The loaded model; sizes in tokens and bytes."""

    name: str
    quant: str
    file_bytes: int
    context_tokens: int  # of one slot
    slots: int


class MemoryParts(Struct, frozen=True, kw_only=True):
    """What the worker itself says its memory is for, in bytes; all but ``mapped_bytes`` is anonymous."""

    mapped_bytes: int = 0  # of the model's file
    weights_bytes: int = 0  # weights in memory of their own: repacked, or not mapped
    kv_bytes: int = 0
    state_bytes: int = 0  # of recurrent layers
    compute_bytes: int = 0  # of one step, logits included
    cache_bytes: int = 0  # prompts that were evaluated before
    base_bytes: int = 0  # program, libraries, vocabulary

    @property
    def anon_bytes(self) -> int:
        engine = self.weights_bytes + self.kv_bytes + self.state_bytes + self.compute_bytes
        return engine + self.cache_bytes + self.base_bytes


class MemoryStatus(Struct, frozen=True, kw_only=True):
    """Budget and use of the worker (RssAnon + swap), in bytes, and what enforces the budget."""

    budget_bytes: int
    worker_anon_bytes: int = 0
    worker_swap_bytes: int = 0
    worker_file_bytes: int = 0  # mapped model pages; the kernel may drop them
    supervisor_bytes: int = 0
    parts: MemoryParts | None = None  # None: no worker has said so
    enforced_by: tuple[str, ...] = ()  # e.g. "guard (1 Hz)", "cgroup leaf memory.max", "unit MemoryMax"


class Limits(Struct, frozen=True, kw_only=True):
    max_prompt_tokens: int
    max_tokens: int
    max_prompt_bytes: int
    max_reply_bytes: int


class Info(Struct, frozen=True, kw_only=True):
    """What does not change while a model is loaded; the retained `info` topic."""

    node: str
    version: str
    model: ModelInfo
    board: str
    limits: Limits
    features: tuple[str, ...]


class Counters(Struct, frozen=True, kw_only=True):
    """Since the daemon started."""

    accepted: int = 0
    finished: int = 0
    failed: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    engine_restarts: int = 0


class Status(Struct, frozen=True, kw_only=True):
    """The whole picture at one moment; `/status` over HTTP and `edgectl status`."""

    node: str
    version: str
    pid: int
    worker_pid: int | None
    state: ServiceState
    engine: EngineState
    uptime_s: float
    model: ModelInfo
    queue: int
    running: int
    decode_tps: float | None  # of the last answers, one stream
    first_token_ms: float | None  # median of the last answers
    memory: MemoryStatus
    counters: Counters
    conditions: tuple[Condition, ...] = ()
    schema: int = 1
