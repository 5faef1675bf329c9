"""What is evaluated for a request: its tokens, and up to where others will want the same."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from msgspec import Struct

from edged.api.requests import Message, Role, Sampling
from edged.ipc.messages import Start
from edged.worker.prefixes import TOKEN_BYTES, common_tokens, key_of, tokens_of
from edged.worker.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edged.worker.backends.base import Backend

SYSTEMS_REMEMBERED = 32
# Questions and answers that begin differently, so that what their conversations share is what all do.
PROBES = ("a", "1")


class Prompt(Struct, frozen=True):
    """Tokens of a request, and where the state of a sequence is worth keeping; 0 is nowhere.

    ``beginning``: all tokens but the last, as a key. They may come from elsewhere; the last one is evaluated,
    since the answer begins with its logits.
    ``shared`` tokens belong to all conversations with this system message, ``turn`` tokens to the next turn
    of this one. ``keeps_answer``: that turn goes on with the very tokens of the answer. ``continued``: it is
    not the first turn, so that there may well be another.
    """

    tokens: list[int]
    beginning: bytes
    shared: int = 0
    turn: int = 0
    keeps_answer: bool = False
    continued: bool = False


class PromptReader:
    """Renders what requests say with the model's template; ``share`` also finds what others will repeat."""

    def __init__(self, backend: Backend, *, share: bool) -> None:
        self._backend = backend
        self._share = share
        self._systems: OrderedDict[object, bytes] = OrderedDict()  # leading messages, tools → what is common
        self._keeps: dict[bool, bool] = {}  # thinking → whether the template keeps answers as they are

    def read(self, order: Start) -> Prompt:
        """Raises Refused."""
        backend = self._backend
        if order.messages:
            tokens = backend.render(order.messages, thinking=order.thinking, tools=order.tools)
        else:
            tokens = backend.tokenize(order.prompt)
        beginning = key_of(tokens[:-1])
        if not self._share or not order.messages:
            return Prompt(tokens, beginning)
        # What can be cut back serves the next turn with the state at the end of the answer, too.
        keeps_answer = backend.can_truncate or self._keeps_answers(order)
        return Prompt(
            tokens=tokens,
            beginning=beginning,
            shared=common_tokens(beginning, self._system(order)),
            turn=0 if keeps_answer else self._turn(order, beginning),
            keeps_answer=keeps_answer,
            continued=any(message.role == "assistant" for message in order.messages),
        )

    def opening(self, system: str, *, thinking: bool) -> list[int]:
        """The tokens that the prompts of all conversations with the message ``system`` begin with."""
        message = Message(role="system", content=system)
        order = Start(key=0, messages=(message,), max_tokens=1, sampling=Sampling(), thinking=thinking)
        return tokens_of(self._system(order))

    def _system(self, order: Start) -> bytes:
        """What the prompts of all conversations that begin with this system message have in common."""
        leading = order.messages[: _leading(order.messages)]
        name = (leading, order.thinking, order.tools)
        found = self._systems.pop(name, None)
        if found is None:
            found = self._common(order, [(*leading, _says("user", text)) for text in PROBES])
        self._systems[name] = found
        if len(self._systems) > SYSTEMS_REMEMBERED:
            self._systems.popitem(last=False)
        return found

    def _turn(self, order: Start, beginning: bytes) -> int:
        """Up to where the next turn of this conversation repeats the prompt."""
        next_turn = (*order.messages, _says("assistant", PROBES[0]), _says("user", PROBES[0]))
        return common_tokens(beginning, self._common(order, [next_turn]))

    def _keeps_answers(self, order: Start) -> bool:
        """Whether a second turn is the first prompt, then the answer; asked once for each way to think."""
        if order.thinking not in self._keeps:
            question = _says("user", "?")
            next_turns = [(question, _says("assistant", text), question) for text in PROBES]
            self._keeps[order.thinking] = self._common(order, next_turns) == self._common(
                order, [(question,)]
            )
        return self._keeps[order.thinking]

    def _common(self, order: Start, conversations: Sequence[tuple[Message, ...]]) -> bytes:
        """The beginning that all ``conversations`` share; empty when the template refuses one."""
        try:
            keys = [
                key_of(self._backend.render(messages, thinking=order.thinking, tools=order.tools))
                for messages in conversations
            ]
        except Refused:
            return b""
        length = min(common_tokens(keys[0], key) for key in keys)
        return keys[0][: length * TOKEN_BYTES]


def _leading(messages: Sequence[Message]) -> int:
    """How many system messages a conversation begins with."""
    return next((n for n, message in enumerate(messages) if message.role != "system"), len(messages))


def _says(role: Role, text: str) -> Message:
    return Message(role=role, content=text)
