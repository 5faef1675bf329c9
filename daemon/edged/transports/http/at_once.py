"""The two endpoints whose answer is there at once: scores of choices, and the OpenAI dialect's embeddings."""

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
from edged.transports.http.completions import check_media_type, client_name, read_body
from edged.transports.http.errors import JsonResponse
from edged.transports.http.guards import defect
from edged.transports.http.openai import Addressed, ChatMessage, check_address, decode_body, message, model_id
from edged.transports.http.watching import ClientGone, watched

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from edged.transports.http.connection import Patience
    from edged.transports.port import Service


class ClassifyBody(Addressed, frozen=True, kw_only=True):
    """``choices`` are scored as answers to ``messages``, or as what follows ``prompt``."""

    choices: list[str]
    messages: list[ChatMessage] | None = None
    prompt: str | None = None
    scoring: ScoringRule = "constrained"


class EmbeddingsBody(Addressed, frozen=True, kw_only=True):
    """``base64`` is of little-endian 32-bit floats."""

    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"


Body = TypeVar("Body", bound=Addressed)


class Kind(Protocol[Body]):
    """One of the two: its body, the request that means, and the object that answers it."""

    @property
    def body(self) -> type[Body]: ...

    def request(self, body: Body, *, request_id: str, client: str) -> Request: ...

    def answer(self, body: Body, event: Finished) -> dict[str, Any]: ...


class Classify:
    """``POST /v1/classify``, ours."""

    body = ClassifyBody

    def request(self, body: ClassifyBody, *, request_id: str, client: str) -> Request:
        if (body.messages is None) == (body.prompt is None):
            raise BadRequest("messages, prompt: give one of the two")
        return Request(
            id=body.id or request_id,
            client=client,
            op="classify",
            messages=tuple(message(index, item) for index, item in enumerate(body.messages or ())),
            prompt=body.prompt or "",
            choices=tuple(body.choices),
            scoring=body.scoring,
            **body.terms(),
        )

    def answer(self, body: ClassifyBody, event: Finished) -> dict[str, Any]:  # noqa: ARG002 - as in Kind
        return {"object": "classification", "choice": event.text, "scores": event.scores}


class Embeddings:
    """``POST /v1/embeddings``, as OpenAI has it."""

    body = EmbeddingsBody

    def request(self, body: EmbeddingsBody, *, request_id: str, client: str) -> Request:
        inputs = (body.input,) if isinstance(body.input, str) else tuple(body.input)
        return Request(id=body.id or request_id, client=client, op="embed", inputs=inputs, **body.terms())

    def answer(self, body: EmbeddingsBody, event: Finished) -> dict[str, Any]:
        encode = _as_base64 if body.encoding_format == "base64" else list
        data = [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(event.embeddings)
        ]
        return {"object": "list", "data": data}


class AtOnce(Generic[Body]):
    """An ASGI endpoint, so that it sees the client hang up before there is an answer."""

    def __init__(self, service: Service, kind: Kind[Body], patience: Patience) -> None:
        self._service = service
        self._kind = kind
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises EdgeError."""
        check_media_type(scope)
        try:
            body = decode_body(await read_body(receive, self._patience.body_s), self._kind.body)
            model = self._service.info().model
            check_address(body, model)
            request = self._kind.request(
                body, request_id=scope["state"]["request_id"], client=client_name(scope)
            )
            scope["state"]["request_id"] = request.id
            events = watched(self._service.submit(request), receive, self._patience.comment_s)
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Failed):
                        raise event.error()
                    if isinstance(event, Finished):
                        answer = self._kind.answer(body, event) | _head(request, model_id(model), event)
                        await JsonResponse(answer)(scope, receive, send)
                        return
            raise defect()
        except ClientGone:
            return


def _head(request: Request, model: str, event: Finished) -> dict[str, Any]:
    return {
        "id": request.id,
        "created": int(time.time()),
        "model": model,
        "usage": usage_object(event.usage),
        "timings": event.timings,
    }


def _as_base64(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
