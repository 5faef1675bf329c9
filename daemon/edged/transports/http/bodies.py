"""JSON bodies → structs, whatever the dialect; every refusal names the field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec
from msgspec import Raw, Struct

from edged.api.errors import BadRequest, shown
from edged.api.requests import ID_PATTERN, Sampling
from edged.transports.http.errors import ModelNotFound

if TYPE_CHECKING:
    from edged.api.status import ModelInfo

# Labels that clients attach by default and that change no answer: any value is accepted and forgotten.
LABELS = frozenset(
    {"user", "store", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
     "service_tier"}
)  # fmt: skip
# Features this server does not have, with the values that mean "not wanted". `null` always means that.
NEUTRAL: Mapping[str, tuple[bytes, ...]] = {
    "n": (b"1",),
    "best_of": (b"1",),
    "echo": (b"false",),
    "suffix": (b'""',),
    "logit_bias": (b"{}",),
    "functions": (b"[]",),
    "modalities": (b'["text"]',),
    "verbosity": (b'"medium"',),
}
_CHATS = "belongs to /v1/chat/completions"
_CHAT_ONLY = dict.fromkeys(("tools", "tool_choice", "parallel_tool_calls"), _CHATS)
_LATEST = ":latest"  # what clients of Ollama put behind a name without a tag

_Kind = TypeVar("_Kind", bound="Body")


class Body(Struct, frozen=True, kw_only=True):
    """What a client sends. Beside its fields it may hold any of ``labels``, and ``neutral`` values.

    ``refused`` says of other fields, which clients know from elsewhere, why they are not taken.
    """

    labels: ClassVar[frozenset[str]] = frozenset()
    neutral: ClassVar[Mapping[str, tuple[bytes, ...]]] = MappingProxyType({})
    refused: ClassVar[Mapping[str, str]] = MappingProxyType({})

    model: str | None = None


class Addressed(Body, frozen=True, kw_only=True):
    """What every request below /v1 says of itself; ``id``, ``priority`` and ``ttl_s`` are ours."""

    labels: ClassVar[frozenset[str]] = LABELS
    neutral: ClassVar[Mapping[str, tuple[bytes, ...]]] = NEUTRAL
    refused: ClassVar[Mapping[str, str]] = _CHAT_ONLY

    id: str | None = None
    priority: int | None = None
    ttl_s: float | None = None

    def terms(self) -> dict[str, Any]:
        """Fields of the request: when it is wanted."""
        return {"ttl_s": self.ttl_s, "priority": 5 if self.priority is None else self.priority}


class Sampled(Addressed, frozen=True, kw_only=True):
    """How tokens are drawn, and what ends the answer; some fields are known from other dialects."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None

    def drawn(self) -> dict[str, Any]:
        """Fields of the request: how its tokens are drawn and where it stops."""
        return {
            "sampling": Sampling(**{name: getattr(self, name) for name in Sampling.__struct_fields__}),
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
        }


def model_id(model: ModelInfo) -> str:
    """The name under which the model is served: ``name-quant``."""
    return f"{model.name}-{model.quant}" if model.quant else model.name


def serves(model: ModelInfo, name: str) -> bool:
    """Whether a client that asks for ``name`` means the loaded model."""
    names = {"default", model.name, model_id(model), f"{model.name}:{model.quant}"}
    return name.lower().removesuffix(_LATEST) in {known.lower() for known in names}


def check_model(body: Body, model: ModelInfo) -> None:
    """Raises ModelNotFound."""
    if body.model is not None and not serves(model, body.model):
        raise ModelNotFound(
            f"model: {body.model[:80]!r} is not served here", hint=f"this is {model_id(model)}"
        )


def check_address(body: Addressed, model: ModelInfo) -> None:
    """Raises BadRequest for an id that cannot be one, and ModelNotFound."""
    check_model(body, model)
    if body.id is not None and not ID_PATTERN.fullmatch(body.id):
        raise BadRequest("id: 1 to 64 characters of A-Z a-z 0-9 . _ : - are allowed")


def decode_body(raw: bytes, kind: type[_Kind]) -> _Kind:
    """The JSON object in ``raw``; raises BadRequest, naming the field."""
    if not raw.strip():
        raise BadRequest("the body is empty; a JSON object is needed")
    try:
        raw.decode()  # msgspec looks only at the strings it keeps
        _refuse_unknown(msgspec.json.decode(raw, type=dict[str, Raw]), kind)
        return msgspec.json.decode(raw, type=kind)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise BadRequest(_in_our_words(str(error))) from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not JSON: {str(error).removeprefix('JSON is malformed: ')}") from None


def printable(name: str) -> str:
    """``name`` as it may stand in a message, whatever a client put there."""
    return name if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) else ascii(name[:64])


def _refuse_unknown(fields: dict[str, Raw], kind: type[Body]) -> None:
    known = kind.__struct_fields__
    for name, value in fields.items():
        if name in known or name in kind.labels:
            continue
        text = bytes(value).translate(None, b" \t\r\n")
        if text == b"null" or text in kind.neutral.get(name, ()):
            continue
        if name in kind.refused:
            raise BadRequest(f"{name}: {kind.refused[name]}")
        if name in kind.neutral:
            allowed = " or ".join(text.decode() for text in kind.neutral[name])
            raise BadRequest(f"{name}: is not supported here; leave it out (or send {allowed})")
        close = difflib.get_close_matches(name[:64], known, n=1)
        guess = f"; did you mean {close[0]}?" if close else ""
        raise BadRequest(f"{printable(name)}: there is no such field{guess}")


def _in_our_words(problem: str) -> str:
    """``Expected `int`, got `str` - at `$.stop[0]` `` → ``stop[0]: expected `int`, got `str` ``."""
    text, _, place = problem.partition(" - at `$")
    missing = re.fullmatch(r"Object missing required field `(\w+)`", text)
    if missing:
        text, name = "is missing", missing[1]
        place = f"{place}.{name}"
    field = re.sub(r"\[\.\.\.\]", "", place.strip("`.")).replace("`", "").lstrip(".")
    return f"{shown(field) or 'the body'}: {shown(text[0].lower() + text[1:])}"
