"""Least squares with coefficients that cannot be negative, for a dozen unknowns at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["fit_nonnegative"]

# Holds a coefficient near zero that the rows say nothing about; the columns are scaled to 1 first.
_DAMPING: Final = 1e-9
_EPSILON: Final = 1e-12


def fit_nonnegative(rows: Sequence[Sequence[float]], values: Sequence[float]) -> tuple[float, ...]:
    """The coefficients, none below zero, for which ``rows · coefficients`` comes nearest to ``values``.

    Errors count relative to the value they are in, which must be above 0. The method is the active set one
    of Lawson and Hanson (1974): unknowns enter one by one while they reduce the error, and leave when the
    others push them below zero.
    """
    if not rows:
        return ()
    weighted = [[cell / value for cell in row] for row, value in zip(rows, values, strict=True)]
    scales = [max((abs(row[column]) for row in weighted), default=0.0) for column in range(len(rows[0]))]
    scaled = [[cell / (scale or 1.0) for cell, scale in zip(row, scales, strict=True)] for row in weighted]
    found = _active_set(scaled)
    return tuple(one / scale if scale else 0.0 for one, scale in zip(found, scales, strict=True))


def _active_set(rows: list[list[float]]) -> list[float]:
    """Solve for right-hand sides of 1."""
    width = len(rows[0])
    solution = [0.0] * width
    active: list[int] = []
    for _ in range(3 * width):  # each unknown enters and leaves a few times at most
        rest = [1.0 - sum(cell * one for cell, one in zip(row, solution, strict=True)) for row in rows]
        gain = [
            sum(row[column] * left for row, left in zip(rows, rest, strict=True)) for column in range(width)
        ]
        candidates = [column for column in range(width) if column not in active and gain[column] > _EPSILON]
        if not candidates:
            break
        active.append(max(candidates, key=gain.__getitem__))
        solution = _within_bounds(rows, active, solution)
    return solution


def _within_bounds(rows: list[list[float]], active: list[int], solution: list[float]) -> list[float]:
    """The solution for the ``active`` unknowns; those that would be negative leave ``active``."""
    while True:
        wanted = _solve(rows, active)
        if all(one > 0 for one in wanted):
            full = [0.0] * len(solution)
            for column, one in zip(active, wanted, strict=True):
                full[column] = one
            return full
        # As far towards it as the first unknown allows that falls to zero; one that is there already stays.
        falling = [(solution[column], one) for column, one in zip(active, wanted, strict=True) if one <= 0]
        step = min(here / (here - there) if here > 0 else 0.0 for here, there in falling)
        moved = list(solution)
        for column, one in zip(active, wanted, strict=True):
            moved[column] += step * (one - solution[column])
        solution = moved
        for column in [column for column in active if solution[column] <= _EPSILON]:
            active.remove(column)
            solution[column] = 0.0


def _solve(rows: list[list[float]], columns: list[int]) -> list[float]:
    """Ordinary least squares over ``columns`` by the normal equations and Gaussian elimination."""
    picked = [[row[column] for column in columns] for row in rows]
    size = len(columns)
    matrix = [
        [sum(row[i] * row[j] for row in picked) + (_DAMPING if i == j else 0.0) for j in range(size)]
        + [sum(row[i] for row in picked)]
        for i in range(size)
    ]
    for pivot in range(size):
        best = max(range(pivot, size), key=lambda row: abs(matrix[row][pivot]))
        matrix[pivot], matrix[best] = matrix[best], matrix[pivot]
        for row in range(size):
            if row != pivot:
                factor = matrix[row][pivot] / matrix[pivot][pivot]
                matrix[row] = [a - factor * b for a, b in zip(matrix[row], matrix[pivot], strict=True)]
    return [matrix[row][size] / matrix[row][row] for row in range(size)]
