"""How much work a request is and how long it takes here, from the answers given lately. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

RECENT = 32  # answers that sizes are taken from
CHARS_PER_TOKEN = 4.0  # of English in the usual vocabularies, until prompts of this box were counted
ANSWER_TOKENS = 128  # a paragraph, until answers of this box were counted
# An estimate is off by a third easily; nobody is refused over what a better estimate would have let in.
SURE = 0.75
LEAST_RETRY_S = 1.0


class Speeds(Struct, frozen=True, kw_only=True):
    """Tokens a second of one request, reading and answering; None: not known."""

    prefill_tps: float | None = None
    decode_tps: float | None = None


class Work(Struct, frozen=True, kw_only=True):
    """What a request is expected to take, in tokens; ``prompt_tokens`` are those not evaluated before."""

    prompt_tokens: float = 0.0
    answer_tokens: float = 0.0

    @property
    def tokens(self) -> float:
        return self.prompt_tokens + self.answer_tokens

    def seconds(self, speeds: Speeds) -> float | None:
        """Alone in its slot, or None when nothing is known; a speed that is not known counts as no time."""
        if speeds.prefill_tps is None and speeds.decode_tps is None:
            return None
        read_s = self.prompt_tokens / speeds.prefill_tps if speeds.prefill_tps else 0.0
        return read_s + (self.answer_tokens / speeds.decode_tps if speeds.decode_tps else 0.0)

    def left(self, answered_tokens: int, most_tokens: int) -> Work:
        """What is left once ``answered_tokens`` of at most ``most_tokens`` are there."""
        if not answered_tokens:
            return self
        if answered_tokens < self.answer_tokens:
            return Work(answer_tokens=self.answer_tokens - answered_tokens)
        # Longer than expected: who knows, but it ends at its limit.
        return Work(answer_tokens=min(self.answer_tokens / 2, max(0, most_tokens - answered_tokens)))


class Answered(Struct, frozen=True, kw_only=True):
    """The sizes of one answer."""

    prompt_chars: int
    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int


class Sizes:
    """Learns how long prompts and answers are."""

    def __init__(self) -> None:
        self._answers: deque[Answered] = deque(maxlen=RECENT)

    def learn(self, answered: Answered) -> None:
        self._answers.append(answered)

    def work(self, prompt_chars: int, most_tokens: int) -> Work:
        """Of a request with so many characters of prompt and at most ``most_tokens`` tokens of answer."""
        prompt_tokens = sum(one.prompt_tokens for one in self._answers)
        known_chars = sum(one.prompt_chars for one in self._answers)
        evaluated = prompt_tokens - sum(one.cached_tokens for one in self._answers)
        tokens_per_char = evaluated / known_chars if known_chars else 1 / CHARS_PER_TOKEN
        answers = [one.answer_tokens for one in self._answers if one.answer_tokens]
        usual = sum(answers) / len(answers) if answers else ANSWER_TOKENS
        return Work(prompt_tokens=prompt_chars * tokens_per_char, answer_tokens=min(usual, most_tokens))


class Forecast(Struct, frozen=True, kw_only=True):
    """Seconds from now: until the request has a slot, and from there to its first and its last token."""

    wait_s: float
    first_s: float
    total_s: float

    @property
    def eta_s(self) -> float:
        """Until the first token."""
        return self.wait_s + self.first_s

    def too_late_by(self, ttl_s: float) -> float | None:
        """Seconds after which the request could be answered within ``ttl_s``; None when it can be now.

        A request that nobody keeps waiting is never too late: only trying shows how fast the box is today.
        """
        if not self.wait_s or SURE * (self.wait_s + self.total_s) <= ttl_s:
            return None
        return max(LEAST_RETRY_S, self.wait_s - max(0.0, ttl_s - self.total_s))


def forecast(
    work: Work, *, ahead_tokens: float, running: Sequence[Work], slots: int, speeds: Speeds
) -> Forecast | None:
    """Of a request behind ``ahead_tokens`` of work in the queue; None when no speed is known.

    ``running`` is what is left of the answers that hold slots; ``slots`` are those in use or free to use.
    """
    total_s, first_s = work.seconds(speeds), Work(prompt_tokens=work.prompt_tokens).seconds(speeds)
    left_s = [left.seconds(speeds) or 0.0 for left in running]
    if total_s is None or first_s is None:
        return None
    # What waits ahead is taken to be like this request in its shares of reading and answering.
    ahead_s = ahead_tokens * total_s / work.tokens if work.tokens else 0.0
    soonest_s = min(left_s) if len(left_s) >= slots else 0.0
    return Forecast(wait_s=soonest_s + ahead_s / max(1, slots), first_s=first_s, total_s=total_s)
