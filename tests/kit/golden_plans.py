"""The plans of known boards as people see them, kept under tests/unit/golden/plans.

`python -m tests.kit.golden_plans` writes them anew, after a change that is meant to change them; what
`git diff` then shows is what the change does to every board.
"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from edgectl.output.plan import show_plan
from edgectl.planning.catalog import load_catalog
from edgectl.planning.plan import PlanResult, plan
from edgectl.probe import find_profile, load_profiles, planned_device

FOLDER = Path(__file__).parents[1] / "unit/golden/plans"
COLUMNS = 110
BOARDS = (
    "generic-arm64", "generic-x86_64", "n100-16gb", "n150-16gb", "orangepi5-16gb", "orin-nano", "pi4-2gb",
    "pi4-4gb", "pi4-8gb", "pi5-4gb", "pi5-8gb", "pi5-16gb", "rock5b-8gb", "ryzen-7840hs-32gb",
    "ryzen-7840hs-64gb",
)  # fmt: skip


def planned(board: str) -> PlanResult:
    profiles = load_profiles()
    return plan(planned_device(board, profiles), find_profile(board, profiles), load_catalog())


def shown(board: str) -> str:
    """`edgectl plan --device BOARD` in a terminal without colour."""
    text = io.StringIO()
    out = Console(file=text, width=COLUMNS, highlight=False, color_system=None)
    show_plan(out, planned(board), everything=False, next_command="")
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).rstrip() + "\n"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    for board in BOARDS:
        (FOLDER / f"{board}.txt").write_text(shown(board), encoding="utf-8")
    print(f"{len(BOARDS)} plans written to {FOLDER}")


if __name__ == "__main__":
    main()
