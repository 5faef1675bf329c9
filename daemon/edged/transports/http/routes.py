"""Assembles the application: the routes, and the guards in their order."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from edged import __version__
from edged.api.errors import EdgeError
from edged.api.status import Info, Status
from edged.transports.http import guards, metrics
from edged.transports.http.allowances import LimitedService
from edged.transports.http.at_once import AtOnce, Classify, Embeddings
from edged.transports.http.bodies import model_id, serves
from edged.transports.http.completions import Completions
from edged.transports.http.described import About, Described
from edged.transports.http.errors import JsonResponse, ModelNotFound, error_response, router_error
from edged.transports.http.hosts import own_names
from edged.transports.http.ollama_routes import ollama_routes
from edged.transports.http.openai import CHAT, TEXT, ChatBody, TextBody
from edged.transports.http.page_files import PageFiles
from edged.transports.http.responses import Responses, ResponsesBody

if TYPE_CHECKING:
    from starlette.requests import Request as HttpRequest
    from starlette.types import ASGIApp

    from edged.api.config import Http
    from edged.transports.http.auth import KeyRing
    from edged.transports.http.connection import Patience
    from edged.transports.port import Service


def build_app(config: Http, service: Service, ring: KeyRing | None, patience: Patience) -> ASGIApp:
    """The whole ASGI application; Boundary stands outermost, the body limit innermost."""
    offered = cast("Service", LimitedService(service, ring)) if ring else service
    starlette = Starlette(
        routes=routes(offered, patience, keyed=ring is not None),
        exception_handlers={HTTPException: _router_failed, EdgeError: _request_failed, Exception: _defect},
    )
    starlette.router.redirect_slashes = False  # one name a route; a redirect would echo the Host header
    app: ASGIApp = starlette
    stack = [
        Middleware(guards.HeaderLimit),
        Middleware(guards.ConnectionLimit),
        Middleware(guards.OwnHostOnly, names=own_names((config.host, *config.names), service.info().node)),
        Middleware(PageFiles),
        *([Middleware(guards.KeyRequired, ring=ring)] if ring else []),
        Middleware(guards.BodyLimit, max_bytes=config.max_body_bytes),
    ]
    for guard, args, options in reversed([Middleware(guards.Boundary, linger_s=patience.linger_s), *stack]):
        app = guard(app, *args, **options)
    return app


def routes(service: Service, patience: Patience, *, keyed: bool) -> list[Described]:
    """Every route with its entry in /openapi.json."""
    tell = _About(service, keyed=keyed)
    chat = About(
        summary="Continue a conversation.",
        body=ChatBody,
        answer="ChatCompletion",
        stream="ChatCompletionChunk",
    )
    text = About(
        summary="Continue a text.",
        body=TextBody,
        answer="TextCompletion",
        stream="TextCompletionChunk",
    )
    responses = About(
        summary="Make a response.", body=ResponsesBody, answer="ResponseObject", stream="ResponseEvent"
    )
    classify = About(
        summary="Say how likely each of some choices is.", body=Classify.body, answer="Classification"
    )
    embed = About(summary="Make vectors of texts.", body=Embeddings.body, answer="VectorList")
    return [
        Described(
            "/",
            tell.index,
            About(
                summary="The routes there are; for browsers a page.", answer="Index", also_as=("text/html",)
            ),
        ),
        Described("/openapi.json", tell.document, About(summary="This document.", answer="Document")),
        Described("/healthz", tell.healthz, About(summary="The daemon is alive.", answer="Alive")),
        Described(
            "/readyz",
            tell.readyz,
            About(summary="A request sent now is taken.", answer="Readiness", others=((503, "Readiness"),)),
        ),
        Described("/status", tell.status, About(summary="How the box is.", answer=Status)),
        Described(
            "/metrics", tell.metrics, About(summary="The same for Prometheus.", media_type="text/plain")
        ),
        Described("/info", tell.info, About(summary="What the box can do.", answer=Info)),
        Described("/v1/models", tell.models, About(summary="The model there is.", answer="ModelList")),
        Described(
            "/v1/models/{name:path}",
            tell.model,
            About(summary="Whether it is served.", answer="Model", errors=("model_not_found",)),
        ),
        Described("/v1/chat/completions", Completions(service, CHAT, patience), chat),
        Described("/v1/completions", Completions(service, TEXT, patience), text),
        Described("/v1/responses", Completions(service, Responses(), patience), responses),
        Described("/v1/classify", AtOnce(service, Classify(), patience), classify),
        Described("/v1/embeddings", AtOnce(service, Embeddings(), patience), embed),
        *ollama_routes(service, patience),
    ]


class _About:
    """The routes that only tell."""

    def __init__(self, service: Service, *, keyed: bool) -> None:
        self._service = service
        self._keyed = keyed
        self._since = int(time.time())
        self._document = b""

    async def index(self, request: HttpRequest) -> JsonResponse:
        routes = {route.path: sorted(route.methods or ()) for route in request.app.routes}
        return JsonResponse({"name": "edged", "version": __version__, "routes": routes})

    async def document(self, request: HttpRequest) -> Response:
        """Made when it is asked for the first time; it costs nothing before."""
        if not self._document:
            from edged.transports.http.openapi import document  # noqa: PLC0415

            described = [route for route in request.app.routes if isinstance(route, Described)]
            self._document = document(described, limits=self._service.limits, keyed=self._keyed)
        return Response(self._document, media_type="application/json")

    async def healthz(self, _: HttpRequest) -> JsonResponse:
        """The process is alive and its loop turns; nothing about the model."""
        return JsonResponse({"alive": True})

    async def readyz(self, request: HttpRequest) -> JsonResponse:
        """Whether a request sent now would be taken; what is wrong is no stranger's business."""
        status, ready = self._service.status(), self._service.ready
        body: dict[str, Any] = {"ready": ready, "state": status.state}
        if not self._keyed or "client" in request.scope["state"]:
            body["conditions"] = status.conditions
        return JsonResponse(body, 200 if ready else 503)

    async def status(self, _: HttpRequest) -> JsonResponse:
        return JsonResponse(self._service.status())

    async def metrics(self, _: HttpRequest) -> Response:
        headers = {"content-type": metrics.CONTENT_TYPE}
        return Response(metrics.exposition(self._service.status()), headers=headers)

    async def info(self, _: HttpRequest) -> JsonResponse:
        return JsonResponse(self._service.info())

    async def models(self, _: HttpRequest) -> JsonResponse:
        return JsonResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: HttpRequest) -> JsonResponse:
        name = request.path_params["name"]
        if not serves(self._service.info().model, name):
            raise ModelNotFound(f"model: there is no model {name[:80]!r} here", hint="GET /v1/models")
        return JsonResponse(self._model())

    def _model(self) -> dict[str, Any]:
        model = self._service.info().model
        return {"id": model_id(model), "object": "model", "created": self._since, "owned_by": "edged"}


async def _router_failed(request: HttpRequest, error: Exception) -> JsonResponse:
    refusal = cast("HTTPException", error)
    failure = router_error(refusal.status_code, request.method, request.scope["path"])
    return error_response(failure, refusal.headers, path=request.scope["path"])


async def _request_failed(request: HttpRequest, error: Exception) -> JsonResponse:
    return error_response(cast("EdgeError", error), path=request.scope["path"])


async def _defect(request: HttpRequest, _: Exception) -> JsonResponse:
    """Starlette raises the exception again afterwards, and Boundary logs it."""
    return error_response(guards.defect(), path=request.scope["path"])
