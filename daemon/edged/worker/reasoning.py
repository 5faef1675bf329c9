"""Keeps a model's thought apart from its answer, and says when it has thought enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edged.api.requests import Message
from edged.worker.refused import Refused
from edged.worker.text import overlap

if TYPE_CHECKING:
    from edged.worker.backends.base import Backend

OPEN, CLOSE = "<think>", "</think>"
# What ends a thought that has used up its tokens. The words are those that the makers of Qwen3 recommend:
# a model that is cut off without a word goes on thinking in its answer.
ENOUGH = (
    "\n\nConsidering the limited time by the user, "
    "I have to give the solution based on the thinking directly now.\n" + CLOSE + "\n\n"
)

State = Literal["undecided", "thinking", "between", "answering"]


def opened_by(prompt_end: str) -> bool:
    """Whether the prompt ends inside a thought, which the model will continue."""
    return prompt_end.rstrip().endswith(OPEN)


def thinks(backend: Backend) -> bool:
    """Whether the model can think first: its template opens a thought, or closes one unasked."""
    question = (Message(role="user", content="?"),)
    try:
        prompts = [backend.render(question, thinking=wanted) for wanted in (True, False)]
    except Refused:
        return False
    return any(OPEN.encode() in b"".join(map(backend.piece, tokens)) for tokens in prompts)


class Thought:
    """Feed text in pieces of any size, take what is certain as (reasoning, answer).

    A thought is what stands between ``<think>`` and ``</think>`` at the beginning of an answer; with
    ``opened`` the prompt has opened it already. One of ``also_ends`` ends it too and belongs to the
    answer: models that want a tool sometimes forget to close. Blanks around the tags are dropped.
    """

    def __init__(self, *, opened: bool, also_ends: tuple[str, ...] = ()) -> None:
        self.state: State = "thinking" if opened else "undecided"
        self._ends = (CLOSE, *also_ends)
        self._held = ""
        self._begun = False  # some reasoning was given out, so that its blanks count

    def push(self, text: str) -> tuple[str, str]:
        self._held += text
        if self.state == "undecided":
            self._decide()
        reasoning = self._think() if self.state == "thinking" else ""
        answer = ""
        if self.state == "between" and (rest := self._held.lstrip()):
            self.state, self._held = "answering", rest
        if self.state == "answering":
            answer, self._held = self._held, ""
        return reasoning, answer

    def finish(self) -> tuple[str, str]:
        """What was held back, at the end of the answer."""
        rest, self._held = self._held, ""
        if self.state == "thinking":
            return (rest if self._begun else rest.lstrip()).rstrip(), ""
        return "", "" if self.state == "between" else rest

    def _decide(self) -> None:
        start = self._held.lstrip()
        if start.startswith(OPEN):
            self.state, self._held = "thinking", start.removeprefix(OPEN)
        elif start and not OPEN.startswith(start):
            self.state = "answering"

    def _think(self) -> str:
        if not self._begun:
            self._held = self._held.lstrip()
        held = self._held
        found = [(index, end) for end in self._ends if (index := held.find(end)) >= 0]
        if found:
            index, end = min(found)
            self.state = "between"
            self._held = held[index + len(end) if end == CLOSE else index :]
            return held[:index].rstrip()
        kept = max(overlap(held, end) for end in self._ends)
        sure = held[: len(held) - kept].rstrip()
        self._held = held[len(sure) :]
        self._begun = self._begun or bool(sure)
        return sure
