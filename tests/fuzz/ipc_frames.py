"""Bytes on the link of supervisor and worker: whole messages that survive the wire, or a FrameError.

The first byte says in how large pieces the rest arrives.
"""

from __future__ import annotations

from edged.ipc import messages
from edged.ipc.frames import FrameError, FrameReader
from edged.ipc.messages import decode_from_worker, decode_to_worker, encode

KINDS = (*messages.ToWorker.__args__, *messages.FromWorker.__args__)
TAGS = {str(kind.__struct_config__.tag) for kind in KINDS}
WORDS = tuple(sorted(TAGS | {name for kind in KINDS for name in kind.__struct_fields__}))
LONGEST_CHARS = 2000  # of an error: it goes into the log, the status and answers


def check(data: bytes) -> bool:
    """Whether every frame in ``data`` is a message for one of the two sides."""
    size, stream = (data[0] or 4096) if data else 1, data[1:]
    reader = FrameReader()
    good = True
    try:
        for start in range(0, len(stream), size):
            for payload in reader.feed(stream[start : start + size]):
                good = _understood(payload) and good
    except FrameError:
        return False
    return good


def _understood(payload: bytes) -> bool:
    understood = False
    for decode in (decode_to_worker, decode_from_worker):
        try:
            message = decode(payload)
        except FrameError as error:
            told = str(error)
            assert told.isprintable()
            assert len(told) < LONGEST_CHARS
            continue
        (again,) = FrameReader().feed(encode(message))
        assert encode(decode(again)) == encode(message)
        understood = True
    return understood
