"""The way of one request's tokens to its messages: text, thought, tool calls, probabilities, and the end."""

from __future__ import annotations

import codecs
import secrets
from typing import TYPE_CHECKING

from edged.api.events import Alternative, TokenLogprob
from edged.ipc.messages import Token
from edged.worker.constrain import Constraint
from edged.worker.forms.calls import rest_of_call
from edged.worker.reasoning import ENOUGH, State, Thought, opened_by
from edged.worker.repetition import Circle
from edged.worker.text import StopStrings
from edged.worker.tool_calls import ToolCalls
from edged.worker.tools import CALL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edged.api.events import CallPiece, FinishReason
    from edged.ipc.messages import Start
    from edged.worker.backends.base import Backend
    from edged.worker.forms.calls import CallForm
    from edged.worker.forms.grammar import Grammar

LEAST_ANSWER_TOKENS = 8
PROMPT_END_TOKENS = 8  # enough to hold the tag that opens a thought, and the line break after it


class Output:
    """Feed the tokens of one answer as they are drawn, take messages; ``ended`` says why to stop.

    ``room`` is how many tokens the answer may have, ``grammar`` the form it must have behind its thought.
    Raises ToolError when a tool of ``order`` is not described as it must be.
    """

    def __init__(
        self, backend: Backend, order: Start, prompt: Sequence[int], room: int, grammar: Grammar | None = None
    ) -> None:
        self._backend = backend
        self._key = order.key
        self._room = room
        self._count = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._thought = _thought(backend, order, prompt, formed=grammar is not None)
        self._constraint = None if grammar is None else Constraint(grammar, backend)
        self._formed = grammar is not None  # all of the answer, not just the call that is being told
        self._budget = order.thinking_budget or room
        self._closing: list[int] | None = None  # tokens that end a thought; none once they were used
        tools = order.tools if order.tool_choice != "none" else ()
        several = order.parallel_tool_calls
        self._calls = ToolCalls(tools, _call_id, self._hold_to, several=several) if tools else None
        self._called = False
        self._begun = False  # some of the answer has been said
        self._choices = order.choices
        self._stop = StopStrings(order.stop)
        self._circle = Circle()
        self._logprobs = None if order.logprobs is None else Logprobs(backend, order.logprobs)
        self.thought_tokens = 0  # up to the end of the thought, what closes it included
        self.ended: FinishReason | None = None

    @property
    def allows(self) -> Callable[[int], bool] | None:
        """What the next token must pass; None while anything may come."""
        if self._constraint is None or self._state == "thinking":
            return None
        return self._may_begin if self._state == "between" else self._constraint.allows

    def push(self, token: int, row: int) -> list[Token]:
        """What ``token``, drawn from the logits of ``row``, makes certain; the first is told in any case."""
        self._take(1)
        if self._backend.is_end(token):
            self.ended = "stop"
            return self._messages("", first=self._count == 1) + self.finish()
        piece = self._backend.piece(token)
        self._constrain(piece)
        if self._logprobs is not None:
            self._logprobs.draw(token, piece, row)
        messages = self._messages(self._decoder.decode(piece), first=self._count == 1)
        formed = self._constraint is not None and self._constraint.over
        if self._stop.stopped or formed or (self._calls is not None and self._calls.over):
            self.ended = "stop"
        elif self._circle.push(token):
            self.ended = "repetition"
        elif self._count >= self._room:
            self.ended = "length"
        return messages + (self.finish() if self.ended else [])

    def closing(self) -> list[int]:
        """Tokens to go on with instead of drawing the next: those that end a thought beyond its budget.

        What they say has been counted and must be given to ``feed``.
        """
        if self._state != "thinking":
            return []
        if self._closing is None:
            self._closing = self._backend.tokenize(ENOUGH, bos=False)
        # A quarter of the answer is not thought, whatever the request says.
        most = self._room - len(self._closing) - max(self._room // 4, LEAST_ANSWER_TOKENS)
        if self._count < self._budget and self._count < most:
            return []
        closing, self._closing = self._closing, []
        return closing if self._count + len(closing) < self._room else []

    def feed(self, tokens: Sequence[int]) -> list[Token]:
        """Say what ``tokens`` that were not drawn mean; they count like others."""
        self._take(len(tokens))
        return self._messages(self._decoder.decode(b"".join(map(self._backend.piece, tokens))))

    def finish(self) -> list[Token]:
        """What was held back; a broken last code point becomes U+FFFD."""
        messages = self._messages(self._decoder.decode(b"", final=True), last=True)
        if self._called and self.ended == "stop":
            self.ended = "tool_calls"
        return messages

    @property
    def _state(self) -> State:
        return "answering" if self._thought is None else self._thought.state

    def _take(self, tokens: int) -> None:
        self._count += tokens
        if self._state == "thinking":
            self.thought_tokens = self._count

    def _may_begin(self, token: int) -> bool:
        """Whether ``token`` may come between the thought and an answer that must have a form."""
        piece = self._backend.piece(token)
        rest = piece.lstrip()
        return bool(piece) and (not rest or (self._constraint is not None and self._constraint.admits(rest)))

    def _constrain(self, piece: bytes) -> None:
        if self._constraint is not None and self._state in {"between", "answering"}:
            self._constraint.take(piece.lstrip() if self._state == "between" else piece)

    def _messages(self, text: str, *, first: bool = False, last: bool = False) -> list[Token]:
        reasoning, answer = self._split(text, last=last)
        shown, calls = self._find_calls(answer, last=last)
        if last and not self._stop.stopped:
            shown += self._stop.finish()
        logprobs = self._settle(shown, calls, last=last)
        messages = []
        if reasoning:
            messages.append(Token(key=self._key, text=reasoning, channel="reasoning"))
        if shown or calls or logprobs or (first and not messages):
            messages.append(Token(key=self._key, text=shown, tool_calls=tuple(calls), logprobs=logprobs))
        return messages

    def _split(self, text: str, *, last: bool) -> tuple[str, str]:
        if self._thought is None:
            return "", text
        thinking = self._state == "thinking"
        reasoning, answer = self._thought.push(text)
        if (
            thinking
            and answer
            and self._constraint is not None
            and not self._constraint.take(answer.encode())
        ):
            answer = ""  # it came in one token with the end of the thought, before the form was in force
        if last:
            more = self._thought.finish()
            reasoning, answer = reasoning + more[0], answer + more[1]
        if self._logprobs is not None and self._state in {"thinking", "between"}:
            self._logprobs.forget()
        return reasoning, answer

    def _find_calls(self, text: str, *, last: bool) -> tuple[str, list[CallPiece]]:
        """Text that can be shown, and pieces of calls; nothing behind a stop string."""
        if self._formed and text and not self._begun:
            self._begun = True
            if text[0] != CALL[0]:  # so the form is no call's, and what looks like one in it is text
                self._calls = None
        if self._calls is None:
            return self._stop.push(text), []
        shown = ""
        calls: list[CallPiece] = []
        for item in [*self._calls.push(text), *(self._calls.finish() if last else ())]:
            if self._stop.stopped:
                break
            if isinstance(item, str):
                shown += self._stop.push(item)
            else:
                shown += self._stop.finish()  # what stands on both sides of a call is no stop string
                calls.append(item)
                self._called = True
        if not (self._formed or self._calls.telling):
            self._constraint = None
        return shown, calls

    def _hold_to(self, form: CallForm, rest: str) -> bool:
        """Hold the answer to the form of a call behind its function's name; False if ``rest`` breaks it."""
        if self._formed:  # and nothing but a call begins like one, unless it is a choice
            return not any(choice.startswith(CALL) for choice in self._choices)
        begun, _ = self._decoder.getstate()
        constraint = Constraint(rest_of_call(form), self._backend)
        if not constraint.take(rest.encode() + begun):
            return False
        self._constraint = constraint
        return True

    def _settle(self, shown: str, calls: list[CallPiece], *, last: bool) -> tuple[TokenLogprob, ...]:
        if self._logprobs is None:
            return ()
        self._logprobs.shown(shown)
        if self._stop.stopped:
            return self._logprobs.take_shown()
        held = self._stop.held or (self._calls is not None and self._calls.holding)
        return self._logprobs.take() if last or ((shown or calls) and not held) else ()


class Logprobs:
    """The probabilities of tokens whose text is not certain yet."""

    def __init__(self, backend: Backend, top: int) -> None:
        self._backend = backend
        self._top = top
        self._waiting: list[tuple[int, TokenLogprob]] = []  # first byte of the token's text, what to tell
        self._drawn_bytes = 0
        self._shown_bytes = 0

    def draw(self, token: int, piece: bytes, row: int) -> None:
        backend = self._backend
        top = backend.top(row, self._top)
        own, *others = backend.log_probabilities(row, [token, *top])
        alternatives = tuple(
            Alternative(backend.piece(other), logprob) for other, logprob in zip(top, others, strict=True)
        )
        self._waiting.append((self._drawn_bytes, TokenLogprob(piece, own, alternatives)))
        self._drawn_bytes += len(piece)

    def forget(self) -> None:
        """The tokens so far belong to no answer."""
        self._waiting.clear()
        self._drawn_bytes = self._shown_bytes = 0

    def shown(self, text: str) -> None:
        self._shown_bytes += len(text.encode())

    def take(self) -> tuple[TokenLogprob, ...]:
        taken = tuple(logprob for _, logprob in self._waiting)
        self._waiting.clear()
        return taken

    def take_shown(self) -> tuple[TokenLogprob, ...]:
        """Only those whose text has been shown, at least its beginning."""
        self._waiting = [one for one in self._waiting if one[0] < self._shown_bytes]
        return self.take()


def _thought(backend: Backend, order: Start, prompt: Sequence[int], *, formed: bool) -> Thought | None:
    """None for raw prompts: what follows them is the client's to read."""
    if order.op != "chat":
        return None
    end = b"".join(map(backend.piece, prompt[-PROMPT_END_TOKENS:])).decode("utf-8", "replace")
    opened = opened_by(end)
    if formed and not opened:
        return None
    return Thought(opened=opened, also_ends=(CALL,) if order.tools else ())


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"
