"""The OpenAPI document: made from the routes, the types that the codec decodes and the table of errors."""

from __future__ import annotations

import http
import re
from typing import TYPE_CHECKING, Any

import msgspec

from edged import __version__
from edged.api import errors as api_errors
from edged.api.requests import MAX_TTL_S, SAMPLING_RANGES
from edged.transports.http import errors, openapi_answers
from edged.transports.http.bodies import Body
from edged.transports.http.guards import HEALTH_PATHS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edged.api.requests import Limits
    from edged.transports.http.described import About, Described

REF = "#/components/schemas/{name}"
ABOUT = """\
A language model on this box, in the dialects that clients already speak.

HEAD works wherever GET does. Every answer carries `x-request-id`. Errors say what happened and what to do; \
`x-should-retry` and, where it is known when, `retry-after` say whether to try again. Requests are meant for \
this box by name: a foreign `Host` or `Origin` is refused on every path."""

# What guards can say on any path, to clients with a key on any path but the health probes, and on any path
# that does work.
ON_EVERY_PATH = (
    "bad_request", "cross_origin", "misdirected_host", "too_large", "headers_too_large", "internal",
)  # fmt: skip
ON_GUARDED_PATHS = ("too_many_connections",)
WITH_KEYS = ("unauthorized",)
AT_WORK = (
    "model_not_found", "request_timeout", "unsupported_media_type", "busy", "cancelled", "engine_lost",
    "loading", "draining", "memory_guard", "thermal", "expired",
)  # fmt: skip
RETRYABLE = (429, 502, 503)


def document(routes: Iterable[Described], *, limits: Limits, keyed: bool) -> bytes:
    """The document as JSON. ``keyed`` is whether clients need a key."""
    found = list(routes)
    kinds = sorted({kind for route in found for kind in _kinds(route.about)}, key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REF)
    refs = dict(zip(kinds, schemas, strict=True))
    for kind in kinds:
        if issubclass(kind, Body):
            _complete(kind, components[kind.__name__], limits)
    paths: dict[str, dict[str, Any]] = {}
    failures: dict[str, Any] = {}
    for route in found:
        method, about = route.about.method.lower(), route.about
        paths.setdefault(route.path_format, {})[method] = _operation(route, refs, keyed=keyed)
        for status in _statuses(route, keyed=keyed):
            failures[f"{about.error}{status}"] = _failure(status, refs[_resolved(about.error)])
    key = {"type": "http", "scheme": "bearer", "description": "`edgectl keys add` makes one."}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "edged", "version": __version__, "description": ABOUT},
            "security": [{"key": []}] if keyed else [],
            "paths": paths,
            "components": {
                "schemas": components,
                "responses": failures,
                "securitySchemes": {"key": key},
            },
        }
    )


def _kinds(about: About) -> list[type]:
    named = (about.answer, about.stream, about.error, *(kind for _, kind in about.others))
    return [_resolved(kind) for kind in named if kind] + ([about.body] if about.body else [])


def _resolved(kind: type | str) -> type:
    return kind if isinstance(kind, type) else getattr(openapi_answers, kind)


def _operation(route: Described, refs: Mapping[type, Any], *, keyed: bool) -> dict[str, Any]:
    about = route.about
    operation: dict[str, Any] = {
        "summary": about.summary,
        "operationId": "_".join(re.findall(r"\w+", f"{about.method.lower()} {route.path}")),
        "responses": {"200": _answer(about, refs)},
    }
    for status, kind in about.others:
        content = {about.media_type: {"schema": refs[_resolved(kind)]}}
        operation["responses"][str(status)] = {"description": _phrase(status), "content": content}
    for status in _statuses(route, keyed=keyed):
        operation["responses"][str(status)] = {"$ref": f"#/components/responses/{about.error}{status}"}
    if route.path in HEALTH_PATHS:
        operation["security"] = []
    if about.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": refs[about.body]}},
        }
    if route.param_convertors:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in route.param_convertors
        ]
    return operation


def _answer(about: About, refs: Mapping[type, Any]) -> dict[str, Any]:
    whole = refs[_resolved(about.answer)] if about.answer else {"type": "string"}
    content: dict[str, Any] = {about.media_type: {"schema": whole}}
    content |= {media_type: {"schema": {"type": "string"}} for media_type in about.also_as}
    description = "Done."
    if about.stream:
        event = refs[_resolved(about.stream)]
        description += f' With `"stream": true`, each event is a {event["$ref"].rpartition("/")[2]}.'
        # OpenAPI 3.1 has no word for the items of a stream; in 3.2 it is itemSchema.
        content.setdefault(about.stream_media_type, {})["x-itemSchema"] = event
    return {"description": description, "content": content}


def _statuses(route: Described, *, keyed: bool) -> list[int]:
    """Those of the errors that the route can give; a status that is an answer of its own stays one."""
    guarded = route.path not in HEALTH_PATHS
    codes = (
        *ON_EVERY_PATH,
        *(ON_GUARDED_PATHS if guarded else ()),
        *(WITH_KEYS if guarded and keyed else ()),
        *(AT_WORK if route.about.body is not None else ()),
        *route.about.errors,
    )
    return sorted({errors.STATUS[code][0] for code in codes} - {status for status, _ in route.about.others})


def _failure(status: int, schema: Any) -> dict[str, Any]:
    codes = [code for code, (its_status, _) in errors.STATUS.items() if its_status == status]
    response = {
        "description": "\n".join(f"`{code}`: {_meaning(code)}" for code in codes),
        "content": {"application/json": {"schema": schema}},
    }
    if status in RETRYABLE:
        seconds = {"schema": {"type": "integer"}, "description": "Seconds until another try makes sense."}
        response["headers"] = {"retry-after": seconds}
    return response


def _meaning(code: str) -> str:
    """The first line of the docstring of the error with that code."""
    for module in (errors, api_errors):
        for kind in vars(module).values():
            own = isinstance(kind, type) and issubclass(kind, api_errors.EdgeError)
            if own and kind.code == code and kind is not api_errors.EdgeError:
                return (kind.__doc__ or "").partition("\n")[0]
    return code


def _phrase(status: int) -> str:
    return http.HTTPStatus(status).phrase


def _complete(kind: type[Body], schema: dict[str, Any], limits: Limits) -> None:
    """Add to the schema of a body what the codec and the service check beside the types."""
    properties = schema["properties"]
    for name in kind.labels - properties.keys():
        properties[name] = {"description": "accepted and forgotten"}
    for name in kind.neutral.keys() - properties.keys():
        neutral = [msgspec.json.decode(value) for value in kind.neutral[name]]
        properties[name] = {"enum": [*neutral, None], "description": "not supported: may only be left out"}
    schema["additionalProperties"] = {"type": "null"}
    ranges: dict[str, tuple[float, float]] = {
        name: (low, high) for name, (low, high, _) in SAMPLING_RANGES.items()
    }
    ranges["max_tokens"] = ranges["max_completion_tokens"] = (1, limits.max_tokens)
    ranges["priority"] = (0, 9)
    ranges["ttl_s"] = (0, MAX_TTL_S)
    for name in ranges.keys() & properties.keys():
        properties[name] |= {"minimum": ranges[name][0], "maximum": ranges[name][1]}
