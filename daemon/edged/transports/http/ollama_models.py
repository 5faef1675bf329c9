"""What Ollama tells of models and of itself."""

from __future__ import annotations

from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct

from edged import __version__
from edged.transports.http.bodies import Body, check_model, decode_body, model_id
from edged.transports.http.dialect import Told
from edged.transports.http.errors import JsonResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request as HttpRequest

    from edged.api.status import Info, ModelInfo
    from edged.transports.http.dialect import Asking
    from edged.transports.port import Service

# The version of Ollama whose API this is: clients ask for it to know what they may use.
API_VERSION = "0.12.11"
NEVER = "9999-12-31T23:59:59Z"  # the model is not unloaded for want of questions
UNKNOWN_DIGEST = "0" * 64  # the command line of Ollama cuts it to twelve characters, which must be there


class Details(Struct, frozen=True, kw_only=True):
    quantization_level: str
    format: str = "gguf"
    parent_model: str = ""
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""


class Listed(Struct, frozen=True, kw_only=True):
    """A model; ``size`` in bytes."""

    name: str
    model: str
    modified_at: str
    size: int
    details: Details
    digest: str


class Tags(Struct, frozen=True, kw_only=True):
    models: tuple[Listed, ...]


class Running(Struct, frozen=True, kw_only=True):
    """A loaded model; ``size`` is what it takes of the memory in bytes, its mapped file included."""

    name: str
    model: str
    size: int
    details: Details
    context_length: int
    digest: str
    expires_at: str = NEVER
    size_vram: int = 0


class RunningModels(Struct, frozen=True, kw_only=True):
    models: tuple[Running, ...]


class Version(Struct, frozen=True, kw_only=True):
    """``version`` is that of the API; ``edged`` is ours."""

    version: str = API_VERSION
    edged: str = __version__


class Shown(Struct, frozen=True, kw_only=True):
    """Clients look up the context as ``<architecture>.context_length``."""

    details: Details
    model_info: dict[str, str | int]
    capabilities: tuple[str, ...]
    modified_at: str
    modelfile: str = ""
    parameters: str = ""
    template: str = ""


class ShowBody(Body, frozen=True, kw_only=True):
    """``name`` is what older clients call ``model``."""

    labels = frozenset({"verbose", "system", "template", "options"})

    name: str | None = None


class OllamaModels:
    """The routes that only tell."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._since = _now()

    async def version(self, _: HttpRequest) -> JsonResponse:
        return JsonResponse(Version())

    async def tags(self, _: HttpRequest) -> JsonResponse:
        model = self._service.info().model
        name = model_id(model)
        listed = Listed(
            name=name,
            model=name,
            modified_at=self._since,
            size=model.file_bytes,
            details=Details(quantization_level=model.quant),
            digest=_digest(model),
        )
        return JsonResponse(Tags(models=(listed,)))

    async def running(self, _: HttpRequest) -> JsonResponse:
        if not self._service.ready:
            return JsonResponse(RunningModels(models=()))
        status = self._service.status()
        model, memory = status.model, status.memory
        name = model_id(model)
        running = Running(
            name=name,
            model=name,
            size=memory.worker_anon_bytes + memory.worker_file_bytes,
            details=Details(quantization_level=model.quant),
            context_length=model.context_tokens,
            digest=_digest(model),
        )
        return JsonResponse(RunningModels(models=(running,)))


class Show:
    """``POST /api/show``: a dialect, because its body must be read, that needs no engine."""

    body = ShowBody
    stream_type = b"application/json"
    names: Mapping[str, str] = MappingProxyType({})

    def __init__(self, service: Service) -> None:
        self._service = service
        self._since = _now()

    def read(self, raw: bytes, asking: Asking) -> Told:
        """Raises BadRequest and ModelNotFound."""
        body = decode_body(raw, ShowBody)
        check_model(Body(model=body.model or body.name), asking.model)
        return Told(self._shown(asking.model))

    def _shown(self, model: ModelInfo) -> Shown:
        return Shown(
            details=Details(quantization_level=model.quant),
            model_info={
                "general.architecture": "edged",
                "general.basename": model.name,
                "edged.context_length": model.context_tokens,
            },
            capabilities=_capabilities(self._service.info()),
            modified_at=self._since,
        )


def _digest(model: ModelInfo) -> str:
    """Of the model's file, as far as it is known."""
    return UNKNOWN_DIGEST if model.sha256 is UNSET else model.sha256


def _capabilities(info: Info) -> tuple[str, ...]:
    if "embed" in info.features:
        return ("embedding",)
    return ("completion", "tools", *(("thinking",) if info.model.thinks else ()))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
