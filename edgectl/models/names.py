"""Which names may become paths in the model store. Nothing else may."""

from __future__ import annotations

import re

from edgectl.errors import Usage

# One path component each: no separator, no leading dot, nothing a shell or a URL would read.
_MODEL_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_QUANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,30}[A-Za-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def is_model_id(name: str) -> bool:
    return _MODEL_ID.fullmatch(name) is not None


def is_quant(name: str) -> bool:
    return _QUANT.fullmatch(name) is not None


def is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None


def is_filename(name: str) -> bool:
    return _FILENAME.fullmatch(name) is not None


def check_model_id(name: str) -> str:
    """``name``; raises Usage unless it is a model id."""
    if not is_model_id(name):
        raise Usage(
            f"{name[:80]!r} is not a model id",
            hint="an id has 1 to 64 lower-case letters, digits, dots, hyphens and underscores, "
            "and begins and ends with a letter or digit",
        )
    return name


def check_quant(name: str) -> str:
    """``name``; raises Usage unless it is a quantization label."""
    if not is_quant(name):
        raise Usage(
            f"{name[:80]!r} is not a quantization label",
            hint="a label has 1 to 32 letters, digits, dots, hyphens and underscores, such as Q4_K_M",
        )
    return name


def check_sha256(text: str) -> str:
    """``text`` in lower case; raises Usage unless it is a SHA-256 in hexadecimal."""
    lowered = text.strip().lower()
    if not is_sha256(lowered):
        raise Usage(
            f"{text[:80]!r} is not a SHA-256",
            hint="a SHA-256 has 64 hexadecimal digits; `sha256sum` prints it",
        )
    return lowered


def as_model_id(text: str) -> str:
    """The model id nearest to ``text`` ("Tiny Model" → "tiny-model"); "model" when nothing is left."""
    slug = re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-._")
    slug = slug[:64].strip("-._")
    return slug if is_model_id(slug) else "model"


def as_filename(text: str) -> str:
    """The plain file name nearest to ``text``; "model.gguf" when nothing is left."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("-._")[:200]
    return name if is_filename(name) else "model.gguf"
