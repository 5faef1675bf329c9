"""What a person asks of a plan."""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

from edgectl.errors import Usage

__all__ = ["Prefer", "Wishes", "check_wishes"]

Prefer = Literal["speed", "balanced", "quality"]
DEFAULT_MIN_TPS = 4.0  # just below reading speed, about five tokens a second
DEFAULT_MAX_TTFT_S = 60.0  # beyond a minute people think that it hangs
SMALLEST_CONTEXT_TOKENS = 512  # a system prompt, a question and a short answer
MOST_SLOTS = 64  # beyond it batching gains nothing on such machines


class Wishes(Struct, frozen=True, kw_only=True):
    """``context_tokens`` is for each of ``slots`` requests at once; None leaves a choice to the planner."""

    context_tokens: int | None = None  # None: 4,096; less where memory is short, more where it is plenty
    slots: int | None = None  # None: 2, or 1 where memory is short
    min_tps: float | None = None  # None: 4 tokens/s, or any speed for a model asked for by name
    max_ttft_s: float | None = None  # for a prompt of 500 tokens; None: 60 s, or any wait for a named model
    reserve_mib: int | None = None  # memory left to everything else
    thinking: bool | None = None  # None: the model's default, where the computer is fast enough for it
    vision: bool = False  # room for the image projector as well
    prefer: Prefer = "balanced"
    model: str | None = None  # "qwen3.5-2b" or "qwen3.5-2b:Q4_K_M"
    quant: str | None = None

    @property
    def tps_floor(self) -> float:
        if self.min_tps is not None:
            return self.min_tps
        return 0.0 if self.model else DEFAULT_MIN_TPS

    @property
    def ttft_ceiling_s(self) -> float:
        if self.max_ttft_s is not None:
            return self.max_ttft_s
        return math.inf if self.model else DEFAULT_MAX_TTFT_S


def check_wishes(wishes: Wishes) -> Wishes:
    """``wishes`` when they make sense. Raises Usage naming the first that does not."""
    rules = (
        (
            wishes.context_tokens is None or wishes.context_tokens >= SMALLEST_CONTEXT_TOKENS,
            f"context must be {SMALLEST_CONTEXT_TOKENS} or more",
        ),
        (
            wishes.slots is None or 1 <= wishes.slots <= MOST_SLOTS,
            f"concurrency must lie between 1 and {MOST_SLOTS}",
        ),
        (wishes.min_tps is None or wishes.min_tps >= 0, "tokens per second cannot be negative"),
        (wishes.max_ttft_s is None or wishes.max_ttft_s > 0, "seconds to the first token must be above 0"),
        (wishes.reserve_mib is None or wishes.reserve_mib >= 0, "the reserve cannot be negative"),
        (wishes.prefer in ("speed", "balanced", "quality"), "prefer is one of speed, balanced, quality"),
    )
    for kept, rule in rules:
        if not kept:
            raise Usage(rule, hint="`edgectl plan --help` explains the options")
    return wishes
