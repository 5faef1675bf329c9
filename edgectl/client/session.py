"""A conversation: what was said is sent along with every new turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edged.api.requests import Message

if TYPE_CHECKING:
    from typing import Unpack

    from edgectl.client.answer import Answer, AnswerStream
    from edgectl.client.edge_client import EdgeClient, Options


class ChatSession:
    """A conversation with one box, kept here; ``messages`` is what was said so far.

    A turn that fails, or is left before its end, leaves the conversation as it was.
    """

    def __init__(self, client: EdgeClient, system: str | None = None) -> None:
        self._client = client
        self._messages: tuple[Message, ...] = (
            () if system is None else (Message(role="system", content=system),)
        )

    @property
    def messages(self) -> tuple[Message, ...]:
        return self._messages

    def send(self, text: str, **options: Unpack[Options]) -> Answer:
        """Say ``text``, and return the answer."""
        said = (*self._messages, Message(role="user", content=text))
        answer = self._client.chat(said, **options)
        self._keep(said, answer)
        return answer

    def stream(self, text: str, **options: Unpack[Options]) -> AnswerStream:
        """Say ``text``, and return the answer piece by piece; the turn counts once it was read to its end."""
        said = (*self._messages, Message(role="user", content=text))
        stream = self._client.stream_chat(said, **options)
        stream.on_complete = lambda answer: self._keep(said, answer)
        return stream

    def _keep(self, said: tuple[Message, ...], answer: Answer) -> None:
        turn = Message(role="assistant", content=answer.text, tool_calls=answer.tool_calls)
        self._messages = (*said, turn)
