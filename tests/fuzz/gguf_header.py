"""Fuzzes the reader of GGUF headers: whatever the bytes are, it ends in a header or in an IntegrityError.

`make fuzz` runs it. What it finds belongs, cut down, into `corpus/gguf`, which the unit tests replay.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus" / "gguf"


def check(data: bytes) -> bool:
    """Whether ``data`` has a valid header. Raises what the reader must not, or AssertionError for a lie."""
    import msgspec

    from edgectl.errors import IntegrityError
    from edgectl.models.description import describe
    from edgectl.models.gguf import read_header

    try:
        header = read_header(io.BytesIO(data))
    except IntegrityError:
        return False
    assert header.file_size_bytes == len(data)
    assert header.data_offset_bytes % header.alignment_bytes == 0
    end_bytes = 0
    for tensor in header.tensors:
        assert tensor.offset_bytes % header.alignment_bytes == 0
        assert tensor.offset_bytes >= end_bytes, "tensors overlap"
        end_bytes = tensor.offset_bytes + tensor.size_bytes
    assert not header.tensors or header.data_offset_bytes + end_bytes <= len(data), "weights past the end"
    msgspec.json.encode(describe(header))
    return True


def main() -> None:
    """Hand the command line to libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=["edgectl.models"]):
        import edgectl.models.description
        import edgectl.models.gguf  # noqa: F401 - imported here to be instrumented

    atheris.Setup(sys.argv, check_input)
    atheris.Fuzz()


def check_input(data: bytes) -> None:
    """`check` in the shape that libFuzzer wants: it takes a returned value for a status."""
    check(data)


if __name__ == "__main__":
    main()
