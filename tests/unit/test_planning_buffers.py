"""Compute buffers, against the sizes that llama.cpp logged for these models."""

from __future__ import annotations

import pytest

from edgectl.planning.buffers import compute_buffer_bytes, graph_bytes
from edgectl.planning.catalog import load_catalog
from edgectl.planning.memory import MIB
from tests.unit.test_planning_memory import GEMMA3_270M

CATALOG = load_catalog()

# model, cells of a sequence, slots, step → MiB of the log line "CPU compute buffer size"
LOGGED = [
    ("smollm2-135m-instruct", 256, 1, 32, 0.85),  # with scores, since its heads are narrow
    ("smollm2-135m-instruct", 1024, 1, 64, 3.30),
    ("smollm2-135m-instruct", 1024, 4, 256, 13.19),
    ("smollm2-135m-instruct", 4096, 1, 64, 10.80),
    ("smollm2-135m-instruct", 8192, 4, 64, 20.80),
    ("smollm2-135m-instruct", 8192, 1, 512, 21.51),  # without: they would be too many
    ("gemma-3-270m", 1024, 1, 64, 2.44),
    ("gemma-3-270m", 1024, 4, 256, 9.76),
    ("gemma-3-270m", 4096, 4, 64, 4.27),
    ("gemma-3-270m", 8192, 1, 512, 26.77),
    ("qwen3.5-0.8b", 256, 1, 64, 6.92),
    ("qwen3.5-0.8b", 1024, 4, 64, 12.94),
    ("qwen3.5-0.8b", 4096, 1, 64, 7.39),
    ("qwen3.5-0.8b", 8192, 1, 512, 50.16),
    ("qwen3.5-2b", 256, 1, 256, 24.27),
    ("qwen3.5-2b", 1024, 4, 256, 31.07),
    ("qwen3.5-4b", 4096, 4, 64, 24.13),
    ("qwen3.5-4b", 8192, 1, 512, 77.02),
    ("qwen3.5-9b", 256, 1, 64, 12.22),
    ("qwen3.5-9b", 1024, 4, 256, 49.26),
    ("qwen3.5-9b", 8192, 1, 512, 104.02),
    ("qwen3.5-35b-a3b", 256, 1, 64, 11.13),
    ("qwen3.5-35b-a3b", 1024, 4, 256, 44.88),
    ("qwen3.5-35b-a3b", 8192, 1, 512, 80.02),
]


def geometry_of(model):
    return GEMMA3_270M if model == "gemma-3-270m" else CATALOG.model(model).geometry


@pytest.mark.parametrize(("model", "cells", "slots", "ubatch", "logged_mib"), LOGGED)
def test_the_buffer_covers_what_the_engine_logged_and_not_much_more(model, cells, slots, ubatch, logged_mib):
    geometry = geometry_of(model)
    noted = cells + (min(cells, 768 if ubatch <= 256 else 1024) if geometry.sliding_layers else 0)
    size = compute_buffer_bytes(geometry, cells=noted, slots=slots, ubatch_tokens=ubatch)
    assert logged_mib - 0.01 <= size / MIB <= 1.3 * logged_mib + 1


# model, step → nodes of the log line "max_nodes", at 704 B measured for each
@pytest.mark.parametrize(
    ("model", "ubatch", "nodes"),
    [
        ("smollm2-135m-instruct", 64, 2176),
        ("gemma-3-270m", 64, 1888),
        ("qwen3.5-0.8b", 256, 10_240),
        ("qwen3.5-0.8b", 512, 20_480),
        ("qwen3.5-4b", 64, 13_632),
        ("qwen3.5-9b", 64, 13_664),
    ],
)
def test_graphs_have_room_for_the_nodes_that_the_engine_logged(model, ubatch, nodes):
    assert nodes <= graph_bytes(geometry_of(model), ubatch) / 704 <= 1.5 * nodes
