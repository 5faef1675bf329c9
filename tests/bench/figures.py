"""What a bench found: figures by contestant and round, ratios of pairs, targets; as text and as JSON."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ratio(Struct, kw_only=True):
    """Median over the rounds of ``of`` ÷ ``to``, each pair measured in the same round."""

    of: str
    to: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else ""

    def met(self, value: float) -> bool:
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)


class Figure(Struct, kw_only=True):
    """One quantity: a value a round for each contestant; ``at_most`` bounds medians."""

    name: str
    unit: str
    at_most: dict[str, float] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)

    def add(self, contestant: str, value: float) -> None:
        self.rounds.setdefault(contestant, []).append(value)

    def median(self, contestant: str) -> float:
        return median(self.rounds[contestant])

    def ratio(self, ratio: Ratio) -> float | None:
        """None when one side was not measured."""
        of, to = self.rounds.get(ratio.of, []), self.rounds.get(ratio.to, [])
        pairs = [a / b for a, b in zip(of, to, strict=False) if b]
        return median(pairs) if pairs else None


class Report(Struct, kw_only=True):
    """All of one scenario. ``settings`` are the conditions; ``notes`` what a reader must know besides."""

    scenario: str
    title: str
    settings: dict[str, str] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def figure(self, name: str, unit: str, *ratios: Ratio, at_most: dict[str, float] | None = None) -> Figure:
        """A new figure of this report, to be filled."""
        figure = Figure(name=name, unit=unit, ratios=list(ratios), at_most=at_most or {})
        self.figures.append(figure)
        return figure

    def note(self, text: str) -> None:
        """Say ``text`` once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def missed(self) -> list[str]:
        """Targets that were measured and not met."""
        found = []
        for figure in self.figures:
            for name, limit in figure.at_most.items():
                if name in figure.rounds and figure.median(name) > limit:
                    found.append(f"{figure.name}: {name} has {figure.median(name):.3g}, wanted ≤ {limit:g}")
            for ratio in figure.ratios:
                value = figure.ratio(ratio)
                if value is not None and not ratio.met(value):
                    found.append(
                        f"{figure.name}: {ratio.of} ÷ {ratio.to} is {value:.3g}, wanted {ratio.target}"
                    )
        return [f"{self.title}: {line}" for line in found]


def text(report: Report, *, judged: bool = True) -> str:
    """For people: one line a contestant and a ratio; targets only when they are ``judged``."""
    lines = [f"\n{report.title}"]
    lines += [f"  {name}: {value}" for name, value in report.settings.items()]
    for figure in report.figures:
        lines += [f"  {figure.name}, {figure.unit}", *_contestants(figure, judged=judged)]
        for ratio in figure.ratios:
            value = figure.ratio(ratio)
            if value is not None:
                wanted = _verdict(ratio.target, met=ratio.met(value)) if judged and ratio.target else ""
                lines.append(f"    {ratio.of} ÷ {ratio.to}: {value:.3g}{wanted}")
    lines += [f"  Note: {note}" for note in report.notes]
    return "\n".join(lines)


def _contestants(figure: Figure, *, judged: bool) -> Iterator[str]:
    width = max((len(name) for name in figure.rounds), default=0)
    for name, values in figure.rounds.items():
        each = f"   of {' '.join(f'{value:.4g}' for value in values)}" if len(values) > 1 else ""
        limit = figure.at_most.get(name)
        wanted = _verdict(f"≤ {limit:g}", met=median(values) <= limit) if judged and limit is not None else ""
        yield f"    {name:<{width}}  {median(values):8.4g}{each}{wanted}"


def _verdict(target: str, *, met: bool) -> str:
    return f"   wanted {target}: {'ok' if met else 'missed'}"


def builtins(report: Report) -> dict[str, Any]:
    """For JSON: the report with medians and ratios worked out."""
    return {
        "scenario": report.scenario,
        "title": report.title,
        "settings": report.settings,
        "figures": [
            {
                "name": figure.name,
                "unit": figure.unit,
                "median": {name: figure.median(name) for name in figure.rounds},
                "rounds": figure.rounds,
                "at_most": figure.at_most,
                "ratios": [
                    {**msgspec.to_builtins(ratio), "value": figure.ratio(ratio)} for ratio in figure.ratios
                ],
            }
            for figure in report.figures
        ],
        "notes": report.notes,
        "missed": report.missed,
    }
