"""The endpoints whose answer is there at once: scores of choices, and vectors of texts as OpenAI has them."""

from __future__ import annotations

import base64
import struct
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from edged.api.errors import BadRequest
from edged.api.events import Failed, Finished
from edged.api.requests import Request, ScoringRule
from edged.transports.http.answers import usage_object
from edged.transports.http.bodies import Addressed, Body, check_address, decode_body, model_id
from edged.transports.http.completions import asking, check_media_type, read_body
from edged.transports.http.dialect import renamed
from edged.transports.http.errors import JsonResponse
from edged.transports.http.guards import defect
from edged.transports.http.turns import ChatMessage, message
from edged.transports.http.watching import ClientGone, connected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from edged.transports.http.connection import Patience
    from edged.transports.http.dialect import Asking
    from edged.transports.port import Service


class ClassifyBody(Addressed, frozen=True, kw_only=True):
    """``choices`` are scored as answers to ``messages``, or as what follows ``prompt``."""

    choices: list[str]
    messages: list[ChatMessage] | None = None
    prompt: str | None = None
    scoring: ScoringRule = "constrained"
    template: str | None = None  # the box puts its system message of this name before the messages


class EmbeddingsBody(Addressed, frozen=True, kw_only=True):
    """``base64`` is of little-endian 32-bit floats."""

    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"


_Body = TypeVar("_Body", bound=Body)


class Kind(Protocol[_Body]):
    """One of them: its body, the request that means, and what is sent as JSON when it is done.

    ``names`` are those of a request's fields where the dialect calls them otherwise.
    """

    @property
    def body(self) -> type[_Body]: ...

    @property
    def names(self) -> Mapping[str, str]: ...

    def request(self, body: _Body, asking: Asking) -> Request: ...

    def answer(self, body: _Body, event: Finished, asking: Asking) -> Any: ...


class Classify:
    """``POST /v1/classify``, ours."""

    body = ClassifyBody
    names: Mapping[str, str] = {}

    def request(self, body: ClassifyBody, asking: Asking) -> Request:
        check_address(body, asking.model)
        if (body.messages is None) == (body.prompt is None):
            raise BadRequest("messages, prompt: give one of the two")
        return Request(
            id=body.id or asking.request_id,
            client=asking.client,
            op="classify",
            messages=tuple(message(index, item) for index, item in enumerate(body.messages or ())),
            prompt=body.prompt or "",
            choices=tuple(body.choices),
            scoring=body.scoring,
            template=body.template or "",
            **body.terms(),
        )

    def answer(self, _: ClassifyBody, event: Finished, asking: Asking) -> dict[str, Any]:
        told = {"object": "classification", "choice": event.text, "scores": event.scores}
        return told | _head(event, asking)


class Embeddings:
    """``POST /v1/embeddings``, as OpenAI has it."""

    body = EmbeddingsBody
    names: Mapping[str, str] = {"inputs": "input"}

    def request(self, body: EmbeddingsBody, asking: Asking) -> Request:
        check_address(body, asking.model)
        inputs = (body.input,) if isinstance(body.input, str) else tuple(body.input)
        request_id = body.id or asking.request_id
        return Request(id=request_id, client=asking.client, op="embed", inputs=inputs, **body.terms())

    def answer(self, body: EmbeddingsBody, event: Finished, asking: Asking) -> dict[str, Any]:
        encode = _as_base64 if body.encoding_format == "base64" else list
        data = [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(event.embeddings)
        ]
        return {"object": "list", "data": data} | _head(event, asking)


class AtOnce(Generic[_Body]):
    """An ASGI endpoint, so that it sees the client hang up before there is an answer."""

    def __init__(self, service: Service, kind: Kind[_Body], patience: Patience) -> None:
        self._service = service
        self._kind = kind
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises EdgeError."""
        check_media_type(scope)
        try:
            body = decode_body(await read_body(receive, self._patience.body_s), self._kind.body)
            asked = asking(scope, self._service)
            request = self._kind.request(body, asked)
            scope["state"]["request_id"] = request.id
            events = self._service.submit(request)
            async with connected(receive), aclosing(events):
                async for event in events:
                    if isinstance(event, Failed):
                        raise renamed(event.error(), self._kind.names)
                    if isinstance(event, Finished):
                        answer = self._kind.answer(body, event, asked)
                        await JsonResponse(answer)(scope, receive, send)
                        return
            raise defect()
        except ClientGone:
            return


def _head(event: Finished, asking: Asking) -> dict[str, Any]:
    return {
        "id": event.id,
        "created": int(time.time()),
        "model": model_id(asking.model),
        "usage": usage_object(event.usage),
        "timings": event.timings,
    }


def _as_base64(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
