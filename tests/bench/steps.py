"""What one step of the engine takes: sequences in order and scrambled, attention in one pass and by scores.

    python -m tests.bench.steps MODEL.gguf [--depth N] [--sequences N] [--threads N]

Calls `llama_decode` with nothing around it, on SmolLM2 where no model is named. *Questions* are two prompts
of 25 tokens behind `--depth` tokens, read side by side; a *move* is one sequence becoming another.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

# As in a worker; read when the library is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import llama_cpp.llama_cpp as library

from edged.host.cpus import compute_threads
from tests.bench.machine import watch

UBATCH = 64
QUESTION = 25
ROUNDS = 10
ROOM = 256  # cells behind the depth
TOKEN = 100


class Engine:
    """One context of ``sequences`` that all hold the same ``depth`` tokens."""

    def __init__(self, model: Any, options: argparse.Namespace, *, flash: bool) -> None:
        params = library.llama_context_default_params()
        params.n_ctx = (options.depth + ROOM) * options.sequences
        params.n_batch = params.n_ubatch = UBATCH
        params.n_seq_max = params.n_outputs_max = options.sequences
        params.n_threads = params.n_threads_batch = options.threads
        params.kv_unified = False
        params.no_perf = True
        params.flash_attn_type = (
            library.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        self._context = library.llama_init_from_model(model, params)
        self._batch = library.llama_batch_init(UBATCH, 0, 1)
        self.memory = library.llama_get_memory(self._context)
        self.lengths = dict.fromkeys(range(options.sequences), 0)
        # A prompt as it is read, from its beginning to ``depth``.
        self.read_ms = [self.step([(0, UBATCH)]) for _ in range(options.depth // UBATCH)]
        if rest := options.depth % UBATCH:
            self.step([(0, rest)])
        for seq in range(1, options.sequences):
            self.copy(0, seq)

    def step(self, runs: list[tuple[int, int]]) -> float:
        """Evaluate ``(sequence, tokens)`` in this order; milliseconds."""
        index = 0
        for seq, count in runs:
            for offset in range(count):
                self._batch.token[index] = TOKEN
                self._batch.pos[index] = self.lengths[seq] + offset
                self._batch.n_seq_id[index] = 1
                self._batch.seq_id[index][0] = seq
                self._batch.logits[index] = offset == count - 1
                index += 1
            self.lengths[seq] += count
        self._batch.n_tokens = index
        before = time.monotonic()
        if library.llama_decode(self._context, self._batch) != 0:
            raise SystemExit("llama_decode failed")
        return (time.monotonic() - before) * 1000

    def copy(self, seq: int, to: int) -> None:
        library.llama_memory_seq_rm(self.memory, to, -1, -1)
        library.llama_memory_seq_cp(self.memory, seq, to, -1, -1)
        self.lengths[to] = self.lengths[seq]

    def close(self) -> None:
        library.llama_batch_free(self._batch)
        library.llama_free(self._context)


def measure(model: Any, options: argparse.Namespace, *, flash: bool) -> dict[str, float]:
    """Milliseconds, medians."""
    engine = Engine(model, options, flash=flash)
    everyone = list(range(options.sequences))
    scrambled = everyone[1::2] + everyone[::2]
    found = {
        f"{UBATCH} tokens of a prompt": median(engine.read_ms),
        "one sequence": median(engine.step([(0, 1)]) for _ in range(ROUNDS)),
        "all in order": median(engine.step([(seq, 1) for seq in everyone]) for _ in range(ROUNDS)),
        "all scrambled": median(engine.step([(seq, 1) for seq in scrambled]) for _ in range(ROUNDS)),
    }
    found["two questions"] = median(engine.step([(0, QUESTION), (1, QUESTION)]) for _ in range(3))
    last = everyone[-1]
    library.llama_memory_seq_rm(engine.memory, last, -1, -1)
    moved = []
    for _ in range(3):
        engine.copy(0, last)
        moved.append(engine.step([(last, 1)]))
    found["first after a move"] = median(moved)
    engine.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file")
    parser.add_argument("--depth", type=int, default=550, help="tokens that every sequence holds")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--threads", type=int, default=compute_threads())
    options = parser.parse_args()
    if options.model is None:
        from tests.kit.model import smollm2

        options.model = Path(smollm2())
    if options.depth < UBATCH:
        parser.error(f"--depth: {UBATCH} tokens at least")
    print(f"before: {watch()}", file=sys.stderr)
    silent = library.llama_log_callback(lambda *_: None)
    library.llama_log_set(silent, None)
    params = library.llama_model_default_params()
    params.use_extra_bufts = False
    model = library.llama_model_load_from_file(os.fsencode(options.model), params)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {options.model}")
    columns = {name: measure(model, options, flash=name == "one pass") for name in ("one pass", "scores")}
    print(f"{options.model.name}: {options.sequences} sequences of {options.depth} tokens\n")
    print(f"| ms | {' | '.join(columns)} |\n|---|--:|--:|")
    for name in columns["scores"]:
        print(f"| {name} | {' | '.join(f'{found[name]:.1f}' for found in columns.values())} |")


if __name__ == "__main__":
    main()
