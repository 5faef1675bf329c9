"""Ollama's chat and generate: their bodies → Request."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Raw, Struct, field

from edged.api.errors import BadRequest
from edged.api.requests import Message, Request, Sampling, Tool
from edged.transports.http.bodies import Body, check_model, decode_body, model_id
from edged.transports.http.dialect import Told
from edged.transports.http.forms import raw_text
from edged.transports.http.ollama_answers import LineAnswer, loaded
from edged.transports.http.ollama_turns import OllamaMessage, messages_of
from edged.transports.http.turns import no_vision

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edged.transports.http.dialect import Asking

_One = Annotated[float, Meta(ge=1, le=1)]  # the value of a sampler that is off


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """How tokens are drawn. How the model is loaded is the box's to say: those options change nothing.

    Numbers of tokens may be written with a point, as some clients do.
    """

    num_predict: float | None = None  # below 0: as many as the box gives
    num_ctx: float | None = None
    seed: float | None = None  # below 0: any
    top_k: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    stop: str | list[str] | None = None
    # samplers that are not here, with the values that switch them off
    typical_p: _One | None = None
    tfs_z: _One | None = None
    mirostat: Literal[0] | None = None
    mirostat_tau: Any = None
    mirostat_eta: Any = None
    repeat_last_n: Literal[256] | None = None
    penalize_newline: Any = None
    # of loading
    num_keep: Any = None
    num_batch: Any = None
    num_gpu: Any = None
    num_thread: Any = None
    main_gpu: Any = None
    numa: Any = None
    low_vram: Any = None
    f16_kv: Any = None
    logits_all: Any = None
    vocab_only: Any = None
    embedding_only: Any = None
    use_mmap: Any = None
    use_mlock: Any = None

    def max_tokens(self, most: int) -> int | None:
        wanted = _whole("num_predict", self.num_predict)
        return most if wanted is not None and wanted < 0 else wanted

    def sampling(self) -> Sampling:
        seed = _whole("seed", self.seed)
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=_whole("top_k", self.top_k),
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repeat_penalty=self.repeat_penalty,
            seed=None if seed is None or seed < 0 else seed,
        )

    def check_context(self, context_tokens: int) -> None:
        """Raises BadRequest when more is wanted than there is; a request that fits needs no less."""
        if self.num_ctx is not None and self.num_ctx > context_tokens:
            raise BadRequest(
                f"options.num_ctx: a request may have {context_tokens} tokens on this box, "
                f"not {self.num_ctx:.0f}; leave it out or lower it"
            )


class OllamaFunction(Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: Raw = field(default_factory=Raw)


class OllamaTool(Struct, frozen=True):
    function: OllamaFunction
    type: Literal["function"] = "function"


class OllamaBody(Body, frozen=True, kw_only=True):
    """What both have. The model stays loaded whatever ``keep_alive`` says."""

    labels = frozenset({"keep_alive"})
    neutral = MappingProxyType(
        # A prompt that is too long is refused, not cut.
        {"truncate": (b"false",), "shift": (b"false",)}
    )

    stream: bool | None = None
    format: Raw = field(default_factory=Raw)  # "json" or a JSON schema
    options: Options | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    def asked(self, asking: Asking) -> dict[str, Any]:
        """Fields of the request that both have."""
        options = self.options or Options()
        options.check_context(asking.model.context_tokens)
        if self.top_logprobs is not None and not self.logprobs:
            raise BadRequest("top_logprobs: needs logprobs to be true")
        stop = options.stop
        return {
            "id": asking.request_id,
            "client": asking.client,
            "max_tokens": options.max_tokens(asking.limits.max_tokens),
            "stop": (stop,) if isinstance(stop, str) else tuple(stop or ()),
            "sampling": options.sampling(),
            "thinking": None if self.think is None else bool(self.think),
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
            **_form(raw_text(self.format)),
        }


class OllamaChatBody(OllamaBody, frozen=True, kw_only=True):
    """Without ``messages`` it asks only that the model be loaded."""

    messages: list[OllamaMessage] | None = None
    tools: list[OllamaTool] | None = None

    @property
    def is_empty(self) -> bool:
        return not self.messages

    def request(self, asking: Asking) -> Request:
        tools = tuple(
            Tool(
                name=tool.function.name,
                description=tool.function.description or "",
                parameters=raw_text(tool.function.parameters),
            )
            for tool in self.tools or ()
        )
        return Request(
            op="chat", messages=messages_of(self.messages or ()), tools=tools, **self.asked(asking)
        )


class OllamaGenerateBody(OllamaBody, frozen=True, kw_only=True):
    """A chat of one question, or with ``raw`` a text to go on with. Without ``prompt`` as above."""

    neutral = MappingProxyType(
        {**OllamaBody.neutral, "suffix": (b'""',), "template": (b'""',), "context": (b"[]",)}
    )
    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    images: list[Any] | None = None

    @property
    def is_empty(self) -> bool:
        return not self.prompt and not self.images

    def request(self, asking: Asking) -> Request:
        prompt = self.prompt or ""
        if self.images:
            raise no_vision("images")
        if self.raw:
            if self.system:
                raise BadRequest("system: a raw prompt says all of it itself; leave one of them out")
            return Request(op="generate", prompt=prompt, **self.asked(asking))
        system = (Message(role="system", content=self.system),) if self.system else ()
        messages = (*system, Message(role="user", content=prompt))
        return Request(op="chat", messages=messages, **self.asked(asking))


_OPTIONS = (*Sampling.__struct_fields__, "stop")


class Ollama(Struct, frozen=True):
    """``POST /api/chat`` and ``POST /api/generate``; they stream unless told otherwise."""

    body: type[OllamaChatBody | OllamaGenerateBody]

    @property
    def stream_type(self) -> bytes:
        return b"application/x-ndjson"

    @property
    def names(self) -> Mapping[str, str]:
        return {
            **{name: f"options.{name}" for name in _OPTIONS},
            "max_tokens": "options.num_predict",
            "schema": "format",
            "json_mode": "format",
            "thinking": "think",
            "logprobs": "top_logprobs",
        }

    def read(self, raw: bytes, asking: Asking) -> LineAnswer | Told:
        """Raises BadRequest, NoVision and ModelNotFound."""
        body: OllamaChatBody | OllamaGenerateBody = decode_body(raw, self.body)
        check_model(body, asking.model)
        model = body.model or model_id(asking.model)
        chat = isinstance(body, OllamaChatBody)
        if body.is_empty:
            return Told(loaded(model, chat=chat))
        return LineAnswer(body.request(asking), model, chat=chat, stream=body.stream is not False)


CHAT = Ollama(OllamaChatBody)
GENERATE = Ollama(OllamaGenerateBody)


def _form(text: str) -> dict[str, Any]:
    """Fields of the request: what the answer must look like."""
    if text in {"", '""'}:
        return {}
    if text == '"json"':
        return {"json_mode": True}
    if text.startswith("{"):
        return {"schema": text}
    raise BadRequest('format: must be "json" or a JSON schema')


def _whole(name: str, value: float | None) -> int | None:
    if value is not None and not value.is_integer():
        raise BadRequest(f"options.{name}: must be a whole number")
    return None if value is None else int(value)
