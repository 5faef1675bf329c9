"""The last answer that went over MQTT, as it is shown on a topic of its own; never retained (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from edged.api.events import Finished

MOST_ESCAPED = 6  # letters that JSON may take for one


def last_answer(answer: Finished, *, client: str, op: str, limit_bytes: int) -> bytes:
    """``text`` is cut where the whole would not fit one message."""
    told = {"id": answer.id, "client": client, "op": op, "finish": answer.finish, "text": answer.text}
    payload = msgspec.json.encode(told)
    if len(payload) > limit_bytes:
        room = limit_bytes - len(msgspec.json.encode(told | {"text": ""}))
        payload = msgspec.json.encode(told | {"text": answer.text[: max(0, room // MOST_ESCAPED)]})
    return payload
