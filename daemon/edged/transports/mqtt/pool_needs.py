"""What a request needs of the box that answers it, and what boxes have (pure)."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, Struct

if TYPE_CHECKING:
    from edged.api.status import Info

# "qwen3.5-4b", "SmolLM2-135M": how models of every maker name their size.
_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)(b|m)(?![a-z0-9])", re.IGNORECASE)
_FEATURES = {
    "vision": "vision (a model that sees pictures)",
    "thinking": "thinking (a model that thinks first)",
}


class Needs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The field ``needs`` of a request; what is left open any box has.

    ``model`` is its whole name, ``params_b`` the least size in thousand millions of parameters,
    ``context`` the least number of tokens in one conversation.
    """

    model: Annotated[str, Meta(max_length=128, pattern=r"^[ -~]*\Z")] = ""
    params_b: float = 0.0
    context: int = 0
    vision: bool = False
    thinking: bool = False


class Can(Struct, frozen=True, kw_only=True):
    """What a box has to offer; ``params_b`` is 0 where the model's name does not tell it.

    ``features`` are those of its info: no box has "vision" as long as none loads an image projector.
    """

    model: str
    params_b: float
    context: int
    features: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The same eight digits for all boxes that can do the same: a segment of topics."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:8]


def can_of(info: Info) -> Can:
    """What the box that says ``info`` of itself can do."""
    model = info.model
    features = tuple(sorted(info.features))
    return Can(
        model=model.name, params_b=params_b(model.name), context=model.context_tokens, features=features
    )


def params_b(model: str) -> float:
    """The size in a model's name, in thousand millions of parameters; 0 when it has none."""
    found = _SIZE.search(model)
    return 0.0 if found is None else float(found[1]) / (1 if found[2] in "bB" else 1000)


def unmet(needs: Needs | None, op: str, can: Can) -> str:
    """What a box that ``can`` lacks for a request; empty when nothing."""
    if op not in can.features:
        return f"the operation {op}"
    if needs is None:
        return ""
    if needs.model and needs.model.lower() != can.model.lower():
        return f"the model {needs.model}"
    if needs.params_b > can.params_b:
        return f"a model of {needs.params_b:g} thousand million parameters"
    if needs.context > can.context:
        return f"a context of {needs.context} tokens"
    missing = (name for name in _FEATURES if getattr(needs, name) and name not in can.features)
    return next((_FEATURES[name] for name in missing), "")
