"""What edged says about itself: states, conditions, memory, speed."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

Health = Literal["ok", "degraded", "loading", "overloaded"]


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
    thinks: bool = False  # first, when asked to, and the thought is told apart from the answer
    sha256: str | UnsetType = UNSET  # of its file; absent where the configuration names none


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


class Stalls(Struct, frozen=True, kw_only=True):
    """How long tasks waited for one resource (PSI): percent of the last ten seconds, seconds since boot.

    ``some``: at least one task waited; ``full``: all of them did.
    """

    some_percent: float
    full_percent: float
    some_s: float
    full_s: float


class HostStatus(Struct, frozen=True, kw_only=True):
    """The computer around the daemon; None and missing where it has no sensor for it."""

    temperature_c: float | None = None  # of the hottest thermal zone
    throttled: tuple[str, ...] | None = None  # what slows the board now: heat, weak power
    stalls: dict[str, Stalls] = {}  # by resource: memory, cpu, io


class PoolStatus(Struct, frozen=True, kw_only=True):
    """This box as a member of a pool; the numbers of requests count since the daemon started."""

    name: str
    state: Literal["serving", "away", "offline"]
    boxes: int  # others that serve at this moment
    waiting: int  # requests dealt to this box that it has not begun
    taken: int  # begun here
    handed_on: int  # given to another box instead
    taken_over: int  # sessions of boxes that were gone


class MqttStatus(Struct, frozen=True, kw_only=True):
    """The way over the broker; ``broker`` is HOST:PORT as the box reaches it, empty when seen over MQTT."""

    connected: bool
    broker: str
    topic: str  # root of the box's topics
    outbox: int = 0  # answers the broker has not confirmed
    lost: int = 0  # answers given up because the broker was away, since the daemon started
    pool: PoolStatus | None = None  # None: it serves for itself


class Prediction(Struct, frozen=True, kw_only=True):
    """What the plan said of this box: one request alone, and the worker with every context full."""

    decode_tps: float
    first_token_500_s: float
    worker_mib: int  # without repacked weights
    speed: str  # "measured", "estimated" or ""


class Histogram(Struct, frozen=True, kw_only=True):
    """``counts[i]`` values lie above ``bounds[i-1]`` and up to ``bounds[i]``; the last count has no bound."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


class Latencies(Struct, frozen=True, kw_only=True):
    """Since the daemon started, in seconds."""

    queue_s: Histogram  # waiting for a slot
    first_token_s: Histogram  # from acceptance
    token_s: Histogram  # from one piece of an answer to the next
    request_s: Histogram  # from acceptance to the end of an answer


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
    pool: str = ""  # whose work it shares


class Counters(Struct, frozen=True, kw_only=True):
    """Since the daemon started."""

    accepted: int = 0
    finished: int = 0
    failed: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompts, not evaluated again
    completion_tokens: int = 0  # those of answers under way and of broken-off ones included
    engine_restarts: int = 0
    # outcome (finished, failed, refused) → how it ended (finish reason, or code of the error) → requests
    outcomes: dict[str, dict[str, int]] = {}


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
    prefill_tps: float | None = None  # prompt tokens evaluated a second, of the last answers
    capacity: int = 0  # requests that may be accepted and unanswered at once, of one client
    intake: float = 1.0  # share of the usual work that is let in; less when the box is hot or short of memory
    host: HostStatus = HostStatus()
    mqtt: MqttStatus | None = None  # None: not served over MQTT
    predicted: Prediction | None = None  # None: there is no plan
    latencies: Latencies | None = None
    schema: int = 1

    @property
    def load(self) -> float:
        """Share of the places for requests that are taken: 0 idle, 1 full; 0 where it is not known."""
        return min(1.0, (self.queue + self.running) / self.capacity) if self.capacity else 0.0

    @property
    def health(self) -> Health:
        """The whole in one word."""
        if self.state in {ServiceState.STARTING, ServiceState.LOADING}:
            return "loading"
        if self.load >= 1:
            return "overloaded"
        return "ok" if self.state is ServiceState.READY and not self.conditions else "degraded"
