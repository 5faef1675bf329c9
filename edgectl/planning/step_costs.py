"""What a step of the engine costs here, term by term: applied to a network, and fitted to timings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from edgectl.models.gguf_types import TENSOR_TYPES
from edgectl.planning.least_squares import fit_nonnegative
from edgectl.planning.work import Work

__all__ = ["BITS_PER_WEIGHT", "Observation", "StepCosts", "fit_step_costs", "step_parts_s"]

# IQ types look every weight up in a table, which costs a CPU more than the bytes they save; assumed.
TABLE_LOOKUP_COST: Final = 1.2
BITS_PER_WEIGHT: Final[Mapping[str, float]] = {
    name: 8 * size_bytes / elements for name, elements, size_bytes in TENSOR_TYPES.values()
}


class StepCosts(Struct, frozen=True, kw_only=True):
    """The costs of steps of ``tokens`` tokens, in seconds.

    ``fixed_s`` a step, ``operation_s`` an operation, ``row_s`` a row of a matrix, ``state_s`` a byte of
    recurrent state, ``attention_s`` an element of K or V that is attended to (``narrow_attention_s`` in heads
    that are narrow), ``weight_s`` a byte of weights of each tensor type.
    """

    tokens: int
    fixed_s: float
    operation_s: float
    row_s: float
    state_s: float
    attention_s: float
    narrow_attention_s: float
    weight_s: Mapping[str, float]

    def per_byte_s(self, ggml_type: str) -> float:
        """For a type nobody timed: that of the type with the most similar bits a weight."""
        known = self.weight_s.get(ggml_type)
        if known is not None or not self.weight_s:
            return known or 0.0
        bits = BITS_PER_WEIGHT[ggml_type]
        nearest = min(self.weight_s, key=lambda name: abs(BITS_PER_WEIGHT[name] - bits))
        lookup = TABLE_LOOKUP_COST if ggml_type.startswith("IQ") else 1.0
        return self.weight_s[nearest] * lookup


class Observation(Struct, frozen=True, kw_only=True):
    """One timed step: what it did, at which depth, with or without the output head, and how long it took."""

    work: Work
    depth_tokens: float
    head: bool
    seconds: float


def step_parts_s(costs: StepCosts, work: Work, *, depth_tokens: float, head: bool) -> dict[str, float]:
    """The seconds of one step by what they are spent on; their sum is the step."""
    parts = {
        "step": costs.fixed_s,
        "operations": costs.operation_s * work.operations,
        "rows": costs.row_s * (work.rows + work.head_rows * head),
        "state": costs.state_s * work.state_bytes,
        "attention": (costs.narrow_attention_s if work.narrow_heads else costs.attention_s)
        * work.attended(depth_tokens),
    }
    for name, size_bytes in work.weight_bytes.items():
        parts[f"weights {name}"] = costs.per_byte_s(name) * size_bytes
    if head:
        parts["output"] = sum(costs.per_byte_s(name) * size for name, size in work.head_bytes.items())
    return parts


def fit_step_costs(tokens: int, observations: Sequence[Observation]) -> StepCosts:
    """The costs that explain ``observations`` best; a type that occurs in none of them is left out.

    ``observations`` must not be empty, nor any of their seconds 0.
    """
    types = sorted({name for one in observations for name in _bytes(one)})
    rows = [
        [
            1.0,
            float(one.work.operations),
            one.work.rows + one.work.head_rows * one.head,
            float(one.work.state_bytes),
            one.work.attended(one.depth_tokens) * (not one.work.narrow_heads),
            one.work.attended(one.depth_tokens) * one.work.narrow_heads,
            *(_bytes(one).get(name, 0.0) for name in types),
        ]
        for one in observations
    ]
    seconds = [one.seconds for one in observations]
    fixed, operation, row, state, attention, narrow, *weights = fit_nonnegative(rows, seconds)
    return StepCosts(
        tokens=tokens,
        fixed_s=fixed,
        operation_s=operation,
        row_s=row,
        state_s=state,
        attention_s=attention,
        narrow_attention_s=narrow,
        # A weight that costs nothing was not seen through the noise; then its neighbour's cost holds.
        weight_s={name: cost for name, cost in zip(types, weights, strict=True) if cost > 0},
    )


def _bytes(one: Observation) -> dict[str, float]:
    sizes = dict(one.work.weight_bytes)
    if one.head:
        for name, size_bytes in one.work.head_bytes.items():
            sizes[name] = sizes.get(name, 0.0) + size_bytes
    return sizes
