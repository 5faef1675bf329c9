"""A decode loop with nothing around it, as a process of its own: what the engine alone can do.

    python -m tests.bench.bare_loop '{"model": …, "context": …, "slots": …, "ubatch": …, "threads": …}'

Each line of standard input, {"prompt": tokens to evaluate, "tokens": how many to draw}, gets a line of
standard output, {"first_s": …, "decode_tps": …}. Settings are those of edged's worker.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import llama_cpp.llama_cpp as library

from edged.engine.process import worker_environment
from edged.ipc.messages import EngineOptions
from edged.worker.backends.llama_context import in_one_pass
from tests.bench.errors import BenchError

if TYPE_CHECKING:
    from typing import Self

    from tests.bench.conditions import Conditions


class BareLoop:
    """The program below, from the outside; a context manager."""

    def __init__(self, conditions: Conditions) -> None:
        order = {
            "model": conditions.model,
            "context": conditions.context,
            "slots": conditions.slots,
            "ubatch": conditions.ubatch,
            "threads": conditions.used_threads,
        }
        self._command = [sys.executable, "-m", "tests.bench.bare_loop", json.dumps(order)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=worker_environment(),
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, prompt: list[int], tokens: int) -> dict[str, float]:
        """Evaluate ``prompt`` and draw ``tokens`` tokens: seconds to the first, then tokens per second."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"prompt": prompt, "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the bare loop ended with {self._process.wait()}")
        return json.loads(line)


def load(order: dict[str, Any]) -> tuple[Any, Any]:
    """The context and its vocabulary."""
    model_params = library.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model_params.use_extra_bufts = False
    model = library.llama_model_load_from_file(os.fsencode(order["model"]), model_params)
    params = library.llama_context_default_params()
    params.n_ctx = order["context"] * order["slots"]
    params.n_batch = params.n_ubatch = order["ubatch"]
    params.n_seq_max = params.n_outputs_max = order["slots"]
    params.n_threads = params.n_threads_batch = order["threads"]
    params.kv_unified = False
    params.swa_full = False
    params.no_perf = True
    options = EngineOptions(**{name: order[name] for name in ("context", "slots", "ubatch", "threads")})
    if not in_one_pass(model, options):
        params.flash_attn_type = library.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return library.llama_init_from_model(model, params), library.llama_model_get_vocab(model)


class Decoder:
    """One sequence through one batch."""

    def __init__(self, context: Any, vocab: Any, ubatch: int) -> None:
        self._context = context
        self._vocab = vocab
        self._ubatch = ubatch
        self._batch = library.llama_batch_init(ubatch, 0, 1)
        self._sampler = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
        library.llama_sampler_chain_add(self._sampler, library.llama_sampler_init_greedy())
        self._piece = ctypes.create_string_buffer(256)

    def run(self, prompt: list[int], tokens: int) -> dict[str, float]:
        """As BareLoop.run; ends of turns are passed over."""
        library.llama_memory_clear(library.llama_get_memory(self._context), True)  # noqa: FBT003 - a C function
        begun = time.monotonic()
        for start in range(0, len(prompt), self._ubatch):
            self._decode(prompt[start : start + self._ubatch], start)
        token = self._draw()
        first = time.monotonic()
        for offset in range(tokens - 1):
            self._decode([token], len(prompt) + offset)
            token = self._draw()
        return {"first_s": first - begun, "decode_tps": (tokens - 1) / (time.monotonic() - first)}

    def _decode(self, tokens: list[int], start: int) -> None:
        batch = self._batch
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = start + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = index == len(tokens) - 1
        batch.n_tokens = len(tokens)
        if library.llama_decode(self._context, batch) != 0:
            raise SystemExit("llama_decode failed")

    def _draw(self) -> int:
        token = library.llama_sampler_sample(self._sampler, self._context, -1)
        library.llama_token_to_piece(self._vocab, token, self._piece, len(self._piece), 0, False)  # noqa: FBT003 - a C function
        return token


def main() -> None:
    order = json.loads(sys.argv[1])
    decoder = Decoder(*load(order), order["ubatch"])
    for line in sys.stdin:
        print(json.dumps(decoder.run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
