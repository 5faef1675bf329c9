"""The tables of docs/benchmarks.md from what `make bench ARGS='… --json FILE'` wrote.

python -m tests.bench.tables FILE…
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def table(report: dict[str, Any]) -> str:
    """One report: a row a figure, a column a contestant, the ratios with their targets last."""
    figures = report["figures"]
    names = list(dict.fromkeys(name for figure in figures for name in figure["median"]))
    lines = [
        f"**{report['title']}**\n",
        f"| median | {' | '.join(names)} | ratio |",
        f"|---|{'--:|' * len(names)}---|",
    ]
    for figure in figures:
        values = [_number(figure["median"].get(name)) for name in names]
        head = f"{figure['name']}, {figure['unit']}"
        lines.append(f"| {head} | {' | '.join(values)} | {'; '.join(_judged(figure))} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _judged(figure: dict[str, Any]) -> list[str]:
    limits = [f"{name} ≤ {limit:g}" for name, limit in figure["at_most"].items()]
    return limits + [
        f"{ratio['of']} ÷ {ratio['to']} **{_number(ratio['value'])}**{_wanted(ratio)}"
        for ratio in figure["ratios"]
        if ratio["value"] is not None
    ]


def _wanted(ratio: dict[str, Any]) -> str:
    if ratio["at_least"] is not None:
        return f" (≥ {ratio['at_least']:g})"
    return f" (≤ {ratio['at_most']:g})" if ratio["at_most"] is not None else ""


def main() -> None:
    for name in sys.argv[1:]:
        found = json.loads(Path(name).read_text())
        loads = [
            f"{when}: {found[when]['busy_percent']:.0f} % busy"
            for when in ("before", "after")
            if when in found
        ]
        print(f"\n{'; '.join(found['machine'].values())}. Others {', '.join(loads)}.")
        for report in found["reports"]:
            print(f"\n{table(report)}")


if __name__ == "__main__":
    main()
