"""What `python -m edged.measure` tells of a model file that it tries, one of these a line."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct


class Workload(Struct, frozen=True, kw_only=True):
    """``batch`` sequences of ``depth`` tokens each.

    ``prefill_tokens`` at the end of each are timed, then ``decode_steps`` of one token a sequence.
    """

    batch: int = 1
    depth: int = 0
    prefill_tokens: int = 0
    decode_steps: int = 0


class Speeds(Struct, frozen=True, kw_only=True):
    """Tokens per second of all sequences together, and the median decode step in milliseconds."""

    prefill_tps: float
    decode_tps: float
    step_ms: float


class Peak(Struct, frozen=True, kw_only=True):
    """The most the worker had resident so far, in bytes; ``total_bytes`` (with swap) at one moment."""

    anon_bytes: int = 0
    file_bytes: int = 0
    swap_bytes: int = 0
    total_bytes: int = 0


class Loaded(Struct, frozen=True, kw_only=True, tag="loaded"):
    load_ms: float
    first_token_ms: float
    peak: Peak


class Result(Struct, frozen=True, kw_only=True, tag="measured"):
    """What one workload took."""

    workload: Workload
    measured: Speeds
    peak: Peak


class Failure(Struct, frozen=True, kw_only=True, tag="failed"):
    """``code`` is "pressure", "lost" or "timeout"; nothing follows."""

    code: str
    message: str
    peak: Peak


Event: TypeAlias = Loaded | Result | Failure
