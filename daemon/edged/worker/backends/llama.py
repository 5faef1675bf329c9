"""llama.cpp through the low-level API of llama-cpp-python: one context, many sequences in a batch."""

from __future__ import annotations

import ctypes
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import llama_cpp as lib
from llama_cpp import llama_cpp as api
from msgspec import structs

from edged.api.status import MemoryParts
from edged.host.procfs import anon_bytes
from edged.worker.accounting import EngineBuffers
from edged.worker.backends.base import LoadError, Run, StateError, StepError, new_state
from edged.worker.backends.beginnings import Beginnings
from edged.worker.backends.llama_context import context_params
from edged.worker.backends.llama_drafts import LastRuns, draft_tokens, is_recurrent
from edged.worker.backends.llama_embedding import pooling_of, vector
from edged.worker.backends.llama_metadata import metadata
from edged.worker.backends.llama_sampler import LlamaSampler, Logits, log_softmax, logits_at, top
from edged.worker.reasoning import CLOSE, OPEN
from edged.worker.template import ChatTemplate, TemplateError
from edged.worker.tools import CALL, END_CALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

    from edged.api.requests import Message, Sampling, Tool
    from edged.ipc.messages import EngineOptions
    from edged.worker.backends.base import Allows, Pooling, Sampler, State
    from edged.worker.forms.calls import CallForm

log = logging.getLogger("edged.worker.llama")

# Tags that say what the text around them is; in some models they are control tokens.
MARKERS = (OPEN, CLOSE, CALL, END_CALL)
CONTROL = api.LLAMA_TOKEN_ATTR_CONTROL | api.LLAMA_TOKEN_ATTR_UNKNOWN
WARM_UP_S = 2.0  # at most, for a step of the largest size when the engine has loaded
BATCH_GAIN = 4  # a token among many takes a quarter of the time of a token alone, or less
SPARE_TOKENS = 8  # of a text, beside one for each of its bytes
MOST_TOKENS = 1 << 22  # of a text; more than any context
WHOLE_STATE = api.LLAMA_STATE_SEQ_FLAGS_NONE  # of attention and of recurrent memory


class LlamaBackend:
    """See :class:`edged.worker.backends.base.Backend`. Owns the model, the context and one batch."""

    engine = f"llama.cpp (llama-cpp-python {lib.__version__})"

    def __init__(
        self, model: int, context: int, options: EngineOptions, pooling: Pooling | None, drafts: int
    ) -> None:
        self._model = model
        self._context = context
        self._vocab = api.llama_model_get_vocab(model)
        self._memory = api.llama_get_memory(context)
        self._batch = api.llama_batch_init(options.ubatch, 0, 1)
        self._n_vocab = api.llama_vocab_n_tokens(self._vocab)
        self._markers = frozenset(self._single_tokens(MARKERS))
        self._window = api.llama_model_n_swa(model)
        self._runs = LastRuns() if is_recurrent(model) else None
        self.can_truncate = self._runs is None and self._window == 0
        self.context = min(options.context, api.llama_n_ctx_seq(context))
        self.draft_tokens = drafts
        self.rows = options.slots if pooling is None or pooling.piecewise else options.ubatch
        self.rows += drafts
        self.pooling = pooling
        self._beginnings = Beginnings(())
        self.memory = MemoryParts()
        self.model_name = metadata(model, "general.name") or "model"
        self._template = self._chat_template()

    # --- text and tokens ------------------------------------------------------------------

    def render(self, messages: Sequence[Message], *, thinking: bool, tools: Sequence[Tool] = ()) -> list[int]:
        if self._template is None:
            raise TemplateError("this model has no chat template; use generate with a raw prompt")
        # Few tokens are longer than 64 characters, so a longer prompt could hardly fit the context.
        limit = max(self.context * 64, 1 << 16)
        first, *rest = self._template.render(messages, thinking=thinking, limit_chars=limit, tools=tools)
        tokens = self._tokenize(first, add_special=not first.startswith(self._bos_text or "\x00"))
        for piece in rest:
            tokens += self._tokenize(piece, add_special=False)
        return tokens

    @property
    def call_form(self) -> CallForm:
        return "hermes" if self._template is None else self._template.call_form

    def tokenize(self, text: str, *, bos: bool = True, control: bool = True) -> list[int]:
        return self._tokenize(text, add_special=bos, control=control)

    def piece(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            marker = token in self._markers
            length = api.llama_token_to_piece(self._vocab, token, buffer, size, 0, marker)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def is_end(self, token: int) -> bool:
        return bool(api.llama_vocab_is_eog(self._vocab, token))

    # --- compute --------------------------------------------------------------------------

    def step(self, runs: Sequence[Run]) -> list[int]:
        batch = self._batch
        rows: dict[int, list[int]] = {}  # sequence → rows
        index = 0
        # llama.cpp evaluates sequences together only where their numbers follow each other.
        for run in sorted(runs, key=lambda run: run.seq):
            held = api.llama_memory_seq_pos_max(self._memory, run.seq) + 1
            if run.start != held:  # recurrent memory would take the tokens, and be wrong from then on
                raise StepError(f"sequence {run.seq} holds {held} tokens; more came for {run.start}")
            last = len(run.tokens) - 1
            for offset, token in enumerate(run.tokens):
                wanted = run.output and (run.every or offset == last)
                batch.token[index] = token
                batch.pos[index] = run.start + offset
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = run.seq
                batch.logits[index] = wanted
                if wanted:
                    rows.setdefault(run.seq, []).append(index)
                index += 1
        found = [row for run in runs for row in rows.get(run.seq, ())]
        if len(found) > self.rows:  # llama.cpp would abort the process
            raise StepError(f"the step wants {len(found)} rows of logits; there is room for {self.rows}")
        batch.n_tokens = index
        status = api.llama_decode(self._context, batch)
        if status != 0:
            raise StepError(f"llama_decode returned {status} for {index} tokens of {len(runs)} sequences")
        if self._runs is not None:
            for run in runs:
                self._runs.evaluated(run.seq, run.start)
        return found

    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> LlamaSampler:
        return LlamaSampler(sampling, self._n_vocab, prompt, self._beginnings)

    def sample(self, sampler: Sampler, row: int, allows: Allows | None = None) -> int:
        if not isinstance(sampler, LlamaSampler):
            raise StepError("a sampler of another engine")
        return sampler.draw(self._context, row, self._logits(row), allows)

    def embed(self, runs: Sequence[Run]) -> list[list[float]]:
        if self.pooling is None:
            raise StepError("the model is not loaded for embeddings")
        if not self.pooling.piecewise:
            self.step(runs)
            return [vector(api.llama_get_embeddings_seq(self._context, run.seq), self._model) for run in runs]
        api.llama_set_embeddings(self._context, True)  # noqa: FBT003 - C has no names
        try:
            rows = self.step(runs)
        finally:
            api.llama_set_embeddings(self._context, False)  # noqa: FBT003
        return [vector(api.llama_get_embeddings_ith(self._context, row), self._model) for row in rows]

    def log_probabilities(self, row: int, tokens: Sequence[int]) -> list[float]:
        return log_softmax(self._logits(row), tokens)

    def top(self, row: int, count: int) -> list[int]:
        return top(self._logits(row), count)

    @property
    def logits_bytes(self) -> int:
        """Of all rows that a step may give."""
        return 0 if self.pooling is not None else self.rows * self._n_vocab * ctypes.sizeof(ctypes.c_float)

    def use_threads(self, count: int) -> None:
        api.llama_set_n_threads(self._context, count, count)

    def forget(self, seq: int) -> None:
        if self._runs is not None:
            self._runs.forget(seq)
        api.llama_memory_seq_rm(self._memory, seq, -1, -1)

    def state_bytes(self, seq: int) -> int:
        return int(api.llama_state_seq_get_size_ext(self._context, seq, WHOLE_STATE))

    def save(self, seq: int) -> State:
        size = self.state_bytes(seq)
        state = new_state(size)
        written = api.llama_state_seq_get_data_ext(self._context, _address(state), size, seq, WHOLE_STATE)
        if written != size:
            raise StateError(f"llama.cpp saved {written} bytes of a sequence of {size}")
        return state

    def restore(self, seq: int, state: State, length: int) -> None:
        self.forget(seq)
        size = len(state)
        if api.llama_state_seq_set_data_ext(self._context, _address(state), size, seq, WHOLE_STATE) != size:
            self.forget(seq)
            raise StateError(f"llama.cpp refuses a saved sequence of {size} bytes")
        found = api.llama_memory_seq_pos_max(self._memory, seq) + 1
        if found != length:
            self.forget(seq)
            raise StateError(f"a saved sequence has {found} tokens instead of {length}")

    def move(self, seq: int, to: int) -> None:
        if self._runs is None or self._runs.can_be_copied(seq):
            api.llama_memory_seq_cp(self._memory, seq, to, -1, -1)
        else:
            self.restore(to, self.save(seq), api.llama_memory_seq_pos_max(self._memory, seq) + 1)
        self.forget(seq)

    def truncate(self, seq: int, length: int) -> bool:
        if length > api.llama_memory_seq_pos_max(self._memory, seq):
            return True
        oldest = api.llama_memory_seq_pos_min(self._memory, seq)
        if self._window and oldest > max(0, length - self._window):
            return False
        if self._runs is None:
            return bool(api.llama_memory_seq_rm(self._memory, seq, length, -1))
        if not self._runs.allows(seq, length):
            return False
        done = bool(api.llama_memory_seq_rm(self._memory, seq, length, -1))
        if done:
            self._runs.cut(seq)
        return done

    def warm_up(self, ubatch: int, on_progress: Callable[[], None]) -> None:
        """Make what no request should wait for; compute a step of the largest size, unless that takes long.

        So the memory of both is taken now.
        """
        self._beginnings = Beginnings(map(self.piece, range(self._n_vocab)))
        on_progress()
        token = (self.tokenize("a") or [0])[-1]
        count = min(ubatch, self.context - 2)
        for start in range(2):  # the second time the weights are in memory
            begun = time.monotonic()
            self.step([Run(0, [token], start, output=True)])
            on_progress()
        if count * (time.monotonic() - begun) <= BATCH_GAIN * WARM_UP_S:
            self.step([Run(0, [token] * count, 2, output=True)])
            on_progress()
        self.forget(0)

    def close(self) -> None:
        api.llama_batch_free(self._batch)
        api.llama_free(self._context)
        api.llama_model_free(self._model)

    def _logits(self, row: int) -> Logits:
        return logits_at(api.llama_get_logits_ith(self._context, row), self._n_vocab)

    # --- inside ---------------------------------------------------------------------------

    def _tokenize(self, text: str, *, add_special: bool, control: bool = True) -> list[int]:
        data = text.encode()
        size = len(data) + SPARE_TOKENS
        for _ in range(2):
            buffer = (api.llama_token * size)()
            count = api.llama_tokenize(self._vocab, data, len(data), buffer, size, add_special, control)
            if count >= 0:
                return list(buffer[:count])
            size = min(-count, MOST_TOKENS)  # some vocabularies write one character as several
        raise TemplateError(f"the prompt cannot be tokenized ({count})")

    def _single_tokens(self, texts: Sequence[str]) -> Iterator[int]:
        for text in texts:
            tokens = self._tokenize(text, add_special=False)
            if len(tokens) == 1:
                yield tokens[0]

    def _token_text(self, token: int) -> str:
        if token < 0:
            return ""
        text = api.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "replace") if text else ""

    def _controls(self) -> Iterator[str]:
        """The names of all tokens that are no text."""
        for token in range(self._n_vocab):
            attributes = api.llama_vocab_get_attr(self._vocab, token)
            if attributes & CONTROL or api.llama_vocab_is_eog(self._vocab, token):
                yield self._token_text(token)

    def _chat_template(self) -> ChatTemplate | None:
        self._bos_text = self._token_text(api.llama_vocab_bos(self._vocab))
        source = api.llama_model_chat_template(self._model, None)
        if not source:
            return None
        eos = self._token_text(api.llama_vocab_eos(self._vocab))
        try:
            return ChatTemplate(
                source.decode("utf-8", "replace"), bos=self._bos_text, eos=eos, controls=self._controls()
            )
        except TemplateError as error:
            raise LoadError(str(error)) from error


def _address(state: State) -> object:
    """The memory of ``state`` for C. An array type would be kept by ctypes for ever, one for each size."""
    return ctypes.byref(ctypes.c_uint8.from_buffer(state))


@api.llama_log_callback  # type: ignore[untyped-decorator]
def _forward_log(level: int, text: bytes, _user_data: object) -> None:
    """llama.cpp's warnings (3) and errors (4) go to the log, its chatter (2 and below) does not."""
    if level in {3, 4} and (line := text.decode("utf-8", "replace").strip()):
        log.log(logging.ERROR if level == 4 else logging.WARNING, "%s", line)


class _LoadLog:
    """Listens to llama.cpp while it loads: the sizes of its buffers, and the first error.

    Errors after the first are its consequences.
    """

    def __init__(self) -> None:
        self.buffers = EngineBuffers()
        self.reason = ""
        self._callback = api.llama_log_callback(self._heard)

    def __enter__(self) -> Self:
        api.llama_log_set(self._callback, ctypes.c_void_p(0))
        return self

    def __exit__(self, *_: object) -> None:
        api.llama_log_set(_forward_log, ctypes.c_void_p(0))

    def _heard(self, level: int, text: bytes, user_data: object) -> None:
        _forward_log(level, text, user_data)
        line = text.decode("utf-8", "replace").strip()
        self.buffers.heard(line)
        if level == 4 and not self.reason:
            self.reason = line.partition(": ")[2] or line  # without the name of the C function


def load_llama(path: str, options: EngineOptions, on_progress: Callable[[], None]) -> LlamaBackend:
    """Load ``path`` and allocate everything for ``options``; raises LoadError."""
    if not Path(path).is_file():
        raise LoadError(f"the model file {path} does not exist")
    with _LoadLog() as heard:
        return _load(path, options, on_progress, heard)


def _load(
    path: str, options: EngineOptions, on_progress: Callable[[], None], heard: _LoadLog
) -> LlamaBackend:
    api.llama_backend_init()

    def progressed(_fraction: float, _user_data: object) -> bool:
        on_progress()
        return True

    callback = api.llama_progress_callback(progressed)
    params = api.llama_model_default_params()
    params.n_gpu_layers = 0
    params.load_mode = api.LLAMA_LOAD_MODE_MMAP if options.mmap else api.LLAMA_LOAD_MODE_NONE
    params.use_extra_bufts = options.repack
    params.progress_callback = callback
    model = api.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise LoadError(f"llama.cpp cannot load {path}: {heard.reason or 'it does not say why'}")
    try:
        pooling = pooling_of(model, options) if options.embeddings else None
    except LoadError:
        api.llama_model_free(model)
        raise
    model_bytes = anon_bytes(os.getpid())
    drafts = 0 if pooling is not None else draft_tokens(model, options)
    context = api.llama_init_from_model(model, context_params(model, options, pooling, drafts))
    if not context:
        api.llama_model_free(model)
        raise LoadError(
            f"llama.cpp cannot allocate a context of {options.slots} × {options.context} tokens; "
            "lower model.context or model.slots"
        )
    context_bytes = anon_bytes(os.getpid()) - model_bytes
    backend = LlamaBackend(model, context, options, pooling, drafts)
    engine = heard.buffers.parts()
    base_bytes = anon_bytes(os.getpid()) - context_bytes - engine.weights_bytes
    if pooling is None:  # some of the buffers may stay untouched, and some memory for threads is in none
        backend.warm_up(options.ubatch, on_progress)
        base_bytes = max(base_bytes, anon_bytes(os.getpid()) - engine.anon_bytes)
    engine = heard.buffers.parts(logits_bytes=backend.logits_bytes)
    backend.memory = structs.replace(engine, base_bytes=max(0, base_bytes))
    return backend
