"""Vectors as they travel: base64 of little-endian 32-bit floats. Pure."""

from __future__ import annotations

import binascii
import struct

from edgectl.errors import Unhealthy


def floats(text: str) -> tuple[float, ...]:
    """Raises Unhealthy when ``text`` is no vector."""
    try:
        raw = binascii.a2b_base64(text)
        return struct.unpack(f"<{len(raw) // 4}f", raw)
    except (ValueError, struct.error) as error:
        raise Unhealthy(
            f"a vector of the answer cannot be read: {error}", hint="are edgectl and edged of one version?"
        ) from None
