"""The decode loop: requests join and leave between steps of one shared batch."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from msgspec import UNSET

from edged.api.errors import shown
from edged.api.events import FinishReason, Usage
from edged.ipc.messages import Cancel, Done, Measure, Pause, Rejected, Resume, Shrink, Start, Token
from edged.worker.backends.base import Run, StateError
from edged.worker.batch import OLDEST_TURN, Work, plan_step
from edged.worker.choices import ChoiceError, at_a_word, choice_tree
from edged.worker.constrain import Forms
from edged.worker.drawing import Drawing
from edged.worker.inbox import Inbox
from edged.worker.measure import run_measure
from edged.worker.output import Output
from edged.worker.prompt import PromptReader
from edged.worker.refused import WHY_CHARS, Refused, defect
from edged.worker.scoring import Scoring, best
from edged.worker.sharing import Sharing
from edged.worker.slots import Slots
from edged.worker.telling import Telling
from edged.worker.waiting import Waiting, WaitingRoom
from edged.worker.warming import Warming

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from queue import SimpleQueue

    from edged.ipc.messages import ToLoop
    from edged.worker.backends.base import Backend
    from edged.worker.choices import ChoiceTree
    from edged.worker.kept import KeptPrefixes
    from edged.worker.slot import Slot
    from edged.worker.speculate import StepCost

log = logging.getLogger("edged.worker")


class DecodeLoop:
    """Owns the slots of one backend. ``send`` delivers messages, one or more; ``progressed`` counts steps.

    ``cache_bytes`` may be spent on what prompts have in common. ``systems`` are messages that requests will
    begin with, with ``thinking`` or without; ``kept`` has what was evaluated before the worker started.
    Answers are drafted where that pays by ``cost``, and not at all without it.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        slots: int,
        budget: int,
        inbox: SimpleQueue[ToLoop],
        send: Callable[..., None],
        progressed: Callable[[], None],
        busy: Callable[[bool], None],
        cache_bytes: int = 0,
        systems: Sequence[str] = (),
        thinking: bool = False,
        kept: KeptPrefixes | None = None,
        cost: StepCost | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._budget = budget
        self._inbox = Inbox(inbox, busy)
        self._telling = Telling(send, clock)
        self._progressed = progressed
        self._busy = busy
        self._waiting = WaitingRoom()
        self._clock = clock
        self._prompts = PromptReader(backend, share=cache_bytes > 0)
        self._forms = Forms(backend.call_form)
        self._sharing = Sharing(backend, cache_bytes, kept)
        self._slots = Slots(backend, self._sharing, slots)
        opening = partial(self._prompts.opening, thinking=thinking)
        self._warming = Warming(backend, self._sharing, systems, opening, chunk=budget)
        self._measures: deque[Measure] = deque()
        self._reading = 0  # steps that read prompts
        self._drawing = Drawing(backend, budget=budget, cost=cost, telling=self._telling, clock=clock)

    @property
    def idle(self) -> bool:
        """Nothing to do before another message comes, or a deadline."""
        slots = self._slots
        at_work = slots.at_work or slots.scoring or slots.resumed
        measuring = self._measures and not slots.active
        return not (at_work or measuring or ((self._waiting or self._warming.pending) and slots.free))

    @property
    def cache_bytes(self) -> int:
        """What evaluated prompts take now."""
        return self._sharing.store.held_bytes

    def run(self) -> None:
        """Serve for ever; the process ends when the supervisor hangs up."""
        self._sharing.load(self._slots.free[-1])
        while True:
            self.turn(wait=self.idle)

    def turn(self, *, wait: bool) -> None:
        """Take in messages (blocking for one when ``wait``), then compute one step."""
        self._receive(wait=wait)
        self._expire()
        slots = self._slots
        if self._waiting or slots.resumed or slots.at_work or self._measures:
            self._warming.interrupt()
        self._let_in()
        slots.close_ranks()
        at_work, scoring = slots.at_work, slots.scoring
        self._busy(not self.idle)
        if scoring or not all(slot.decoding for slot in at_work):  # a long step: nobody waits for it
            self._telling.finish_all(slots)
        self._telling.deliver()
        self._work(at_work, scoring)
        self._telling.deliver()

    def _let_in(self) -> None:
        """Give sequences to answers that go on, then to requests that have nobody to wait for."""
        slots = self._slots
        slots.make_way(0)
        if not (slots.free or slots.lendable):
            return
        for request in self._waiting:
            leader = self._sharing.leader(request.prompt, slots.active.values())
            if leader is not None:  # it reads for both, so it is as urgent as both
                leader.priority = max(leader.priority, request.order.priority)
                continue
            slots.make_way(1)
            if not slots.free:
                break
            self._waiting.remove(request.order.key)
            self._admit(request)

    def _work(self, at_work: list[Slot], scoring: list[Slot]) -> None:
        """A step of what is at work, and one of what scores; where nothing is, a measurement or warming."""
        if at_work:
            self._step(at_work)
            self._progressed()
        if scoring:  # a step of its own, one slot at a time, so that others wait for a short one at most
            self._telling.finish_all(self._slots)
            self._telling.deliver()
            self._score(max(scoring, key=lambda slot: slot.priority))
            self._progressed()
        if at_work or scoring:
            return
        if self._measures and not self._slots.active:
            order = self._measures.popleft()
            self._telling.tell(
                run_measure(self._backend, order, ubatch=self._budget, progressed=self._progressed)
            )
        elif self._warming.pending and self._slots.free:
            self._warming.step(self._slots.free[-1])
            self._progressed()

    def _receive(self, *, wait: bool) -> None:
        """Take in messages, waiting for one until a deadline comes."""
        deadline = min((one.deadline for one in self._waiting), default=math.inf)
        deadline = min(deadline, self._slots.deadline)
        left_s = None if deadline == math.inf else max(0.0, deadline - self._clock())
        for message in self._inbox.messages(wait=wait, limit_s=left_s):
            self._take(message)

    def _take(self, message: ToLoop) -> None:
        match message:
            case Start():
                self._read(message)
            case Measure():
                self._measures.append(message)
            case Shrink():
                more = message.to_bytes > self._sharing.store.limit_bytes
                self._sharing.shrink(message.to_bytes)
                if more:
                    self._warming.again()
            case Cancel():
                self._end(message.key, "cancelled", "the request was cancelled")
            case Pause() if (slot := self._slots.find(message.key)) is not None:
                slot.pause(self._clock())
                self._telling.finish(slot)
            case Resume() if (slot := self._slots.find(message.key)) is not None:
                slot.resume(self._clock())
                self._telling.finish(slot)

    def _end(self, key: int, code: str, why: str) -> None:
        """End a request without an answer; one that is over is left alone."""
        slot = self._slots.find(key)
        if slot is not None:
            self._telling.finish(slot)
            if slot.scoring is None and key in self._slots.active:
                self._sharing.leaving(slot, whole=False)
            self._slots.close(slot)
        elif self._waiting.remove(key):
            for other in self._slots.active.values():  # what it waited for is less urgent without it
                other.priority = other.order.priority
        else:
            return
        self._reject(key, code, why)

    def _expire(self) -> None:
        """End the requests whose time is over."""
        now = self._clock()
        late = [slot.key for slot in self._slots if slot.deadline <= now]
        late += [request.order.key for request in self._waiting if request.deadline <= now]
        for key in late:
            self._end(key, "expired", "the request's time to live ran out before its answer was complete")

    def _read(self, order: Start) -> None:
        """Make the prompt of a request, which waits from then on, or say why there is none."""
        if order.op == "embed":
            why = "this box serves a model that answers; model.embeddings = true makes vectors instead"
            self._reject(order.key, "bad_request", why)
            return
        try:
            asked = at_a_word(order) if order.op == "classify" else order
            prompt = self._prompts.read(asked)
            tree = choice_tree(self._backend, asked) if order.op == "classify" else None
        except (Refused, ChoiceError) as error:
            self._reject(order.key, "bad_request", str(error))
            return
        except Exception as error:  # noqa: BLE001 - one request must not end the others
            self._fail(order.key, error)
            return
        count, context = len(prompt.tokens), self._backend.context
        if not count:
            self._reject(order.key, "bad_request", "the prompt has no tokens")
        elif count + (tree.depth if tree is not None else 1) > context:
            text = f"the prompt has {count} tokens; this box holds {context} with the answer"
            self._reject(order.key, "too_large", text)
        else:
            self._waiting.add(Waiting(order, prompt, self._clock() + (order.ttl_s or math.inf), tree))

    def _admit(self, request: Waiting) -> None:
        backend, order, prompt = self._backend, request.order, request.prompt.tokens
        room = min(order.max_tokens, backend.context - len(prompt))
        try:
            output = Output(backend, order, prompt, room, self._forms.read(order))
        except Refused as error:
            self._reject(order.key, "bad_request", str(error))
            return
        except Exception as error:  # noqa: BLE001 - nothing of the engine's has been touched so far
            self._fail(order.key, error)
            return
        self._slots.open(request, backend.sampler(order.sampling, prompt), output)

    def _step(self, slots: list[Slot]) -> None:
        work = [
            Work(n, slot.reach, slot.decoding, slot.reach < slot.pending, slot.priority)
            for n, slot in enumerate(slots)
        ]
        shares = plan_step(work, self._budget, oldest_first=self._reading % OLDEST_TURN == OLDEST_TURN - 1)
        self._reading += any(not item.decoding for item in work)
        drafts = self._drawing.drafts([slots[share.slot] for share in shares])
        runs = []
        for share in shares:
            slot = slots[share.slot]
            start = slot.position
            draft = drafts.get(slot.key, [])
            tokens = slot.take(share.tokens) + draft
            runs.append(Run(slot.index, tokens, start, share.last, every=bool(draft)))
        rows = iter(self._backend.step(runs))
        for share in shares:
            slot = slots[share.slot]
            self._sharing.stepped(slot)
            if not share.last:
                continue
            if slot.tree is not None:
                self._begin_scoring(slot, slot.tree, next(rows))
            else:
                draft = drafts.get(slot.key, [])
                self._advance(slot, [next(rows) for _ in range(1 + len(draft))], draft)

    def _begin_scoring(self, slot: Slot, tree: ChoiceTree, row: int) -> None:
        """The prompt is read, its logits are at ``row``: from here on the slot's steps are its own."""
        self._sharing.leaving(slot, whole=False)
        slot.scoring = Scoring(self._backend, tree, slot.index, slot.prompt_tokens, self._budget)
        try:
            self._slots.borrow(slot, slot.scoring.begin(row, self._slots.free))
        except StateError as error:
            self._end(slot.key, "internal", f"the choices cannot be scored: {error}")
            return
        if slot.scoring.done:
            self._finish_scoring(slot, slot.scoring)

    def _score(self, slot: Slot) -> None:
        """One step of a slot's scoring."""
        scoring = slot.scoring
        if scoring is None:
            return
        self._slots.last_in_turn(slot)
        try:
            scoring.step()
        except StateError as error:
            self._end(slot.key, "internal", f"the choices cannot be scored: {error}")
            return
        if scoring.done:
            self._finish_scoring(slot, scoring)

    def _finish_scoring(self, slot: Slot, scoring: Scoring) -> None:
        order = slot.order
        scores = scoring.scores(order.choices)
        usage = Usage(
            prompt_tokens=slot.prompt_tokens, completion_tokens=scoring.evaluated, cached_tokens=slot.cached
        )
        self._slots.close(slot)
        self._telling.tell(Token(key=slot.key, text=best(scores)))
        self._telling.tell(Done(key=slot.key, finish="stop", usage=usage, decode_ms=0.0, scores=scores))

    def _advance(self, slot: Slot, rows: Sequence[int], draft: Sequence[int]) -> None:
        """Draw from the logits at ``rows``; the answer may be over with that."""
        try:
            self._drawing.advance(slot, rows, draft)
        except Refused as error:
            self._end(slot.key, "internal", f"the answer could not be given the form it must have: {error}")
            return
        if slot.output.ended is not None:
            self._finish(slot, slot.output.ended)

    def _finish(self, slot: Slot, finish: FinishReason) -> None:
        usage = Usage(
            prompt_tokens=slot.prompt_tokens,
            completion_tokens=slot.generated,
            cached_tokens=slot.cached,
            reasoning_tokens=slot.output.thought_tokens or UNSET,
        )
        decode_ms = (self._clock() - slot.first_token_at - slot.paused_s) * 1000
        self._telling.finish(slot)
        self._telling.tell(Done(key=slot.key, finish=finish, usage=usage, decode_ms=decode_ms))
        self._telling.deliver()  # keeping its state takes a while, and is nothing to wait for
        self._sharing.leaving(slot, whole=finish == "length" or self._backend.is_end(slot.tokens[-1]))
        self._slots.close(slot)

    def _fail(self, key: int, error: Exception) -> None:
        """End a request that hits a defect of ours before it has begun."""
        log.error("a request could not be read: %s", defect(error))
        self._reject(key, "internal", f"the request could not be read ({defect(error)}); others go on")

    def _reject(self, key: int, code: str, message: str) -> None:
        self._telling.tell(Rejected(key=key, code=code, message=shown(message, WHY_CHARS)))
