"""Names a model that the catalogue does not know: from its header, its file name, or as told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from edgectl.models.names import as_filename, as_model_id, check_model_id, check_quant, is_quant
from edgectl.models.refs import Ref

if TYPE_CHECKING:
    from edgectl.models.gguf import Header

# The label at the end of usual file names: "…-UD-Q4_K_XL.gguf", "….Q4_1.gguf", "…-bf16.gguf".
_QUANT_IN_NAME = re.compile(
    r"[.\-_]((?:UD-)?(?:I?Q[1-8]_[A-Z0-9_]+|TQ[12]_0|MXFP4(?:_MOE)?|BF16|F16|F32))\.gguf$", re.IGNORECASE
)


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """The names a person asked for; None where the file decides."""

    model: str | None = None
    quant: str | None = None


def name_model(
    header: Header, filename: str, wish: Wish, *, sha256: str, size_bytes: int, source: str, added_at: str
) -> Ref:
    """The manifest for a model file. Raises Usage when a wished name cannot be one."""
    model, quant = wish.model, wish.quant
    return Ref(
        model=as_model_id(header.name or _stem(filename)) if model is None else check_model_id(model),
        quant=quant_label(header, filename) if quant is None else check_quant(quant).upper(),
        filename=as_filename(filename),
        sha256=sha256,
        size_bytes=size_bytes,
        source=source,
        added_at=added_at,
        licence=(header.licence or "")[:100],
    )


def quant_label(header: Header, filename: str) -> str:
    """The label in the file's name, which tells variants apart; else the one in its header."""
    found = _QUANT_IN_NAME.search(filename)
    label = found[1].upper() if found else header.quantization
    return label if is_quant(label) else "unknown"


def _stem(filename: str) -> str:
    return _QUANT_IN_NAME.sub("", filename).removesuffix(".gguf")
