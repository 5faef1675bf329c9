"""Model files of the fake engine in a store, as a switch finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgectl.models.refs import Ref
from edgectl.models.store import Store
from tests.kit.service import fake_model

if TYPE_CHECKING:
    from pathlib import Path


def store_fake(state: Path, model: str, **script: Any) -> Ref:
    """The name of a stored file that the fake engine plays; keys are those of its Script."""
    state.mkdir(exist_ok=True)
    path = fake_model(state, **script)

    def describe(_copy: Path, sha256: str, size_bytes: int) -> Ref:
        return Ref(
            model=model, quant="FAKE", filename=f"{model}.fake", sha256=sha256, size_bytes=size_bytes,
            source="a test", added_at="2026-01-01T00:00:00Z", licence="unknown",
        )  # fmt: skip

    try:
        return Store(state / "models").add_file(path, describe)
    finally:
        path.unlink()
