"""When the words of answers leave: together where tokens come faster than anybody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edged.ipc.messages import FromWorker, Token
    from edged.worker.slot import Slot


class Telling:
    """Collects what is to be told until ``deliver``, which hands it over in one go.

    Words of one answer are at least its ``pace_s`` apart, the first ones go at once. Every message is a
    write, and wakes the supervisor and a client: on two cores that takes from the threads that compute.
    """

    def __init__(self, send: Callable[..., None], clock: Callable[[], float]) -> None:
        self._send = send
        self._clock = clock
        self._outgoing: list[FromWorker] = []

    def tell(self, message: FromWorker) -> None:
        self._outgoing.append(message)

    def say(self, slot: Slot, messages: Iterable[Token], *, tokens: int = 1) -> None:
        """``tokens`` more have been drawn, and this is what they make certain, which may be nothing."""
        slot.untold_tokens += tokens
        for message in messages:
            if slot.untold and _joinable(slot.untold[-1], message):
                slot.untold[-1] = _joined(slot.untold[-1], message)
            else:
                slot.untold.append(message)

    def keep_pace(self, slot: Slot) -> None:
        """Tell what is held back when it is time: after each step, which may have drawn many tokens."""
        if slot.untold and self._clock() >= slot.due:
            self.finish(slot)
            slot.due = self._clock() + slot.order.pace_s

    def finish(self, slot: Slot) -> None:
        """Tell what is held back of an answer."""
        for message in slot.untold:
            self.tell(structs.replace(message, tokens=slot.untold_tokens))
            slot.untold_tokens = 0
        slot.untold.clear()

    def finish_all(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            self.finish(slot)

    def deliver(self) -> None:
        if self._outgoing:
            messages, self._outgoing = self._outgoing, []
            self._send(*messages)


def _joinable(first: Token, second: Token) -> bool:
    """Who reads a message takes its text to be before its calls."""
    return first.channel == second.channel and not (first.tool_calls and second.text)


def _joined(first: Token, second: Token) -> Token:
    joined: Token = structs.replace(
        first,
        text=first.text + second.text,
        tool_calls=first.tool_calls + second.tool_calls,
        logprobs=first.logprobs + second.logprobs,
    )
    return joined
