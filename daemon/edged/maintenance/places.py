"""Where the service finds models, and the one place where it may put some."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def pulled(state_dir: Path) -> Path:
    """The state folder of what jobs have fetched: what `edgectl` has brought stays read-only for us."""
    return state_dir / "pulled"


def stores(state_dir: Path) -> tuple[Path, ...]:
    return state_dir / "models", pulled(state_dir) / "models"
