"""What supervisor and worker say to each other."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from edged.api.errors import shown
from edged.api.events import CallPiece, Channel, FinishReason, Score, TokenLogprob, Usage
from edged.api.measuring import Speeds, Workload
from edged.api.requests import Question
from edged.api.status import MemoryParts
from edged.ipc.frames import FrameError, pack


class EngineOptions(Struct, frozen=True, kw_only=True):
    """How a model is loaded; sizes in tokens. ``repack`` allows extra buffer types (AMX and the like).

    ``threads`` compute a step of one token, ``batch_threads`` a larger one (0: as many). ``speculate`` drafts
    the next tokens of an answer: where a measurement says that it pays, always, or never.
    """

    context: int
    slots: int
    ubatch: int
    threads: int
    batch_threads: int = 0
    speculate: Literal["auto", "on", "off"] = "off"
    kv_type: Literal["f16", "q8_0"] = "f16"
    mmap: bool = True
    repack: bool = True
    embeddings: bool = False  # makes vectors of texts, and nothing else


# --- supervisor → worker -----------------------------------------------------------------


class Keep(Struct, frozen=True, kw_only=True):
    """Keep up to ``most`` evaluated system messages in ``folder``; ``key``: engine, model and options."""

    folder: str
    key: str
    most: int


class Load(Struct, frozen=True, kw_only=True, tag="load"):
    """The first message; nothing is allocated before it."""

    path: str
    backend: Literal["llama", "fake"]
    options: EngineOptions
    budget_bytes: int = 0  # of anonymous memory that it may take in all; 0: nobody says
    cache_bytes: int = 0  # for evaluated prompts, once the model is loaded
    systems: tuple[str, ...] = ()  # system messages to read before anybody asks
    thinking: bool = False
    keep: Keep | None = None


class Start(Question, frozen=True, kw_only=True, tag="start"):
    """Work on one request, whose every default is filled in; ``key`` is unique in the life of this worker.

    ``ttl_s`` counts from the moment the worker hears of it. Words of the answer are told at least ``pace_s``
    apart, the first ones at once.
    """

    key: int
    max_tokens: int
    pace_s: float = 0.0
    thinking: bool = False


class Measure(Workload, frozen=True, kw_only=True, tag="measure"):
    """Time the loaded model, once no request is running.

    From here on the engine computes with ``threads`` (0: as before).
    """

    threads: int = 0


class Cancel(Struct, frozen=True, kw_only=True, tag="cancel"):
    key: int


class Pause(Struct, frozen=True, kw_only=True, tag="pause"):
    """The reader of this answer is slow: say no more of it until ``Resume``. Others may have its slot."""

    key: int


class Resume(Struct, frozen=True, kw_only=True, tag="resume"):
    key: int


class Shrink(Struct, frozen=True, kw_only=True, tag="shrink"):
    """Keep at most ``to_bytes`` of evaluated prompts from now on; ``Shrink`` to more lets it grow again."""

    to_bytes: int


# --- worker → supervisor -----------------------------------------------------------------


class Heartbeat(Struct, frozen=True, kw_only=True, tag="heartbeat"):
    """Every second from a thread of its own; ``progress`` grows with every step of work."""

    progress: int
    busy: bool
    cache_bytes: int = 0  # of evaluated prompts, held now


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    """Loaded, and one token was produced."""

    engine: str
    model_name: str
    context: int
    thinks: bool = False  # it can think first
    load_ms: float
    first_token_ms: float
    anon_bytes: int = 0  # RssAnon + swap, all buffers touched that one token touches
    memory: MemoryParts = MemoryParts()


class Measured(Speeds, frozen=True, kw_only=True, tag="measured"):
    """The answer to ``Measure``."""


class LoadFailed(Struct, frozen=True, kw_only=True, tag="load_failed"):
    message: str


class Token(Struct, frozen=True, kw_only=True, tag="token"):
    """What is now certain of an answer; the first comes with the first token, even when it is empty."""

    key: int
    text: str = ""
    tokens: int = 1  # drawn since the message before
    channel: Channel = "text"
    tool_calls: tuple[CallPiece, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Done(Struct, frozen=True, kw_only=True, tag="done"):
    key: int
    finish: FinishReason
    usage: Usage
    decode_ms: float
    scores: tuple[Score, ...] = ()
    embeddings: tuple[tuple[float, ...], ...] = ()


class Rejected(Struct, frozen=True, kw_only=True, tag="rejected"):
    """The request ended without an answer; ``code`` is one of edged.api.errors.BY_CODE."""

    key: int
    code: str
    message: str


ToLoop: TypeAlias = Start | Cancel | Pause | Resume | Shrink | Measure
ToWorker: TypeAlias = Load | ToLoop
FromWorker: TypeAlias = Heartbeat | Ready | LoadFailed | Measured | Token | Done | Rejected

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


# What msgspec raises on bytes that are no message: its own errors, text that is not UTF-8, nesting too deep.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode(message: ToWorker | FromWorker) -> bytes:
    """``message`` as one frame."""
    return pack(_encoder.encode(message))


def decode_to_worker(payload: bytes) -> ToWorker:
    """Raises FrameError when ``payload`` is not a message for a worker."""
    try:
        return _to_worker.decode(payload)
    except _UNREADABLE as error:
        raise _no_message(error) from error


def decode_from_worker(payload: bytes) -> FromWorker:
    """Raises FrameError when ``payload`` is not a message of a worker."""
    try:
        return _from_worker.decode(payload)
    except _UNREADABLE as error:
        raise _no_message(error) from error


def _no_message(error: Exception) -> FrameError:
    """What is said repeats words of the peer."""
    return FrameError(f"not a message: {shown(str(error))}")
