"""Ollama's embed and, as older clients ask, embeddings: their bodies → Request, and the vectors → answers."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from msgspec import Struct

from edged.api.requests import Request
from edged.transports.http.bodies import Body, check_model, model_id
from edged.transports.http.ollama import Options  # noqa: TC001 - the type of a field
from edged.transports.http.ollama_answers import nanoseconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edged.api.events import Finished
    from edged.transports.http.dialect import Asking


class VectorsBody(Body, frozen=True, kw_only=True):
    """What both have. A text that is too long is refused, not cut."""

    labels = frozenset({"keep_alive"})
    neutral = MappingProxyType({"truncate": (b"false",)})

    options: Options | None = None

    def request_for(self, inputs: tuple[str, ...], asking: Asking) -> Request:
        """Raises BadRequest and ModelNotFound."""
        check_model(self, asking.model)
        if self.options:
            self.options.check_context(asking.model.context_tokens)
        return Request(id=asking.request_id, client=asking.client, op="embed", inputs=inputs)


class OllamaEmbedBody(VectorsBody, frozen=True, kw_only=True):
    input: str | list[str]


class OllamaEmbeddingsBody(VectorsBody, frozen=True, kw_only=True):
    prompt: str


class OllamaVectors(Struct, frozen=True, kw_only=True):
    """Durations in nanoseconds."""

    model: str
    embeddings: tuple[tuple[float, ...], ...]
    total_duration: int
    prompt_eval_count: int
    load_duration: int = 0


class OllamaVector(Struct, frozen=True, kw_only=True):
    embedding: tuple[float, ...]


class Embed:
    """``POST /api/embed``."""

    body = OllamaEmbedBody
    names: Mapping[str, str] = MappingProxyType({"inputs": "input"})

    def request(self, body: OllamaEmbedBody, asking: Asking) -> Request:
        return body.request_for((body.input,) if isinstance(body.input, str) else tuple(body.input), asking)

    def answer(self, body: OllamaEmbedBody, event: Finished, asking: Asking) -> OllamaVectors:
        return OllamaVectors(
            model=body.model or model_id(asking.model),
            embeddings=event.embeddings,
            total_duration=nanoseconds(event.timings.total_ms),
            prompt_eval_count=event.usage.prompt_tokens,
        )


class Embeddings:
    """``POST /api/embeddings``, one text at a time."""

    body = OllamaEmbeddingsBody
    names: Mapping[str, str] = MappingProxyType({"inputs": "prompt"})

    def request(self, body: OllamaEmbeddingsBody, asking: Asking) -> Request:
        return body.request_for((body.prompt,), asking)

    def answer(self, _: OllamaEmbeddingsBody, event: Finished, __: Asking) -> OllamaVector:
        return OllamaVector(embedding=event.embeddings[0])
