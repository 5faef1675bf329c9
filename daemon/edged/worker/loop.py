"""The decode loop: requests join and leave between steps of one shared batch."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from edged.api.events import FinishReason, Usage
from edged.ipc.messages import Cancel, Done, Measure, Rejected, Start, Token
from edged.worker.backends.base import Run
from edged.worker.batch import Work, plan_step
from edged.worker.measure import run_measure
from edged.worker.output import Output
from edged.worker.slot import Slot
from edged.worker.template import TemplateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from queue import SimpleQueue

    from edged.ipc.messages import FromWorker
    from edged.worker.backends.base import Backend


class DecodeLoop:
    """Owns the slots of one backend. ``send`` delivers messages, ``progressed`` counts steps of work."""

    def __init__(
        self,
        backend: Backend,
        *,
        slots: int,
        budget: int,
        inbox: SimpleQueue[Start | Cancel | Measure],
        send: Callable[[FromWorker], None],
        progressed: Callable[[], None],
        busy: Callable[[bool], None],
    ) -> None:
        self._backend = backend
        self._free = list(range(slots - 1, -1, -1))
        self._budget = budget
        self._inbox = inbox
        self._send = send
        self._progressed = progressed
        self._busy = busy
        self._active: dict[int, Slot] = {}  # key → slot, in order of arrival
        self._waiting: deque[Start] = deque()
        self._measures: deque[Measure] = deque()

    @property
    def idle(self) -> bool:
        """Nothing to do before another message comes."""
        return not (self._active or self._waiting or self._measures)

    def run(self) -> None:
        """Serve for ever; the process ends when the supervisor hangs up."""
        while True:
            self.turn(wait=self.idle)

    def turn(self, *, wait: bool) -> None:
        """Take in messages (blocking for one when ``wait``), then compute one step."""
        self._receive(wait=wait)
        while self._free and self._waiting:
            self._admit(self._waiting.popleft())
        self._busy(bool(self._active or self._measures))
        if self._active:
            self._step()
            self._progressed()
        elif self._measures:
            order = self._measures.popleft()
            self._send(run_measure(self._backend, order, ubatch=self._budget, progressed=self._progressed))

    def _receive(self, *, wait: bool) -> None:
        if wait:
            self._busy(False)  # noqa: FBT003 - the name of the callable says what it is
            first = self._inbox.get()
            self._busy(True)  # noqa: FBT003 - from here on a template or a tokenizer may hang, too
            self._take(first)
        while not self._inbox.empty():
            self._take(self._inbox.get())

    def _take(self, message: Start | Cancel | Measure) -> None:
        if isinstance(message, Start):
            self._waiting.append(message)
            return
        if isinstance(message, Measure):
            self._measures.append(message)
            return
        slot = self._active.get(message.key)
        if slot is not None:
            self._reject(message.key, "cancelled", "the request was cancelled")
            self._release(slot)
        elif any(order.key == message.key for order in self._waiting):
            self._waiting = deque(order for order in self._waiting if order.key != message.key)
            self._reject(message.key, "cancelled", "the request was cancelled")

    def _admit(self, order: Start) -> None:
        backend = self._backend
        try:
            if order.messages:
                prompt = backend.render(order.messages, thinking=order.thinking)
            else:
                prompt = backend.tokenize(order.prompt)
        except TemplateError as error:
            self._reject(order.key, "bad_request", str(error))
            return
        room = backend.context - len(prompt)
        if not prompt:
            self._reject(order.key, "bad_request", "the prompt has no tokens")
        elif room < 1:
            text = f"the prompt has {len(prompt)} tokens; this box holds {backend.context} with the answer"
            self._reject(order.key, "too_large", text)
        else:
            output = Output(backend, order, prompt, min(order.max_tokens, room))
            sampler = backend.sampler(order.sampling, prompt)
            index = self._free.pop()
            self._active[order.key] = Slot(index, order, prompt, sampler, output)

    def _step(self) -> None:
        slots = list(self._active.values())
        work = [Work(n, slot.pending, slot.decoding) for n, slot in enumerate(slots)]
        shares = plan_step(work, self._budget)
        runs = []
        for share in shares:
            slot = slots[share.slot]
            start = slot.position
            runs.append(Run(slot.index, slot.take(share.tokens), start, share.last))
        rows = iter(self._backend.step(runs))
        for share in shares:
            if share.last:
                self._advance(slots[share.slot], next(rows))

    def _advance(self, slot: Slot, row: int) -> None:
        """Draw the next token of a slot whose logits are at ``row``, and say what it means."""
        token = self._backend.sample(slot.sampler, row)
        slot.tokens.append(token)
        if slot.generated == 1:
            slot.first_token_at = time.monotonic()
        output = slot.output
        self._tell(output.push(token, row))
        if output.ended is not None:
            self._finish(slot, output.ended)
        elif closing := output.closing():
            slot.tokens += closing
            self._tell(output.feed(closing))

    def _tell(self, messages: Iterable[Token]) -> None:
        for message in messages:
            self._send(message)

    def _finish(self, slot: Slot, finish: FinishReason) -> None:
        usage = Usage(prompt_tokens=slot.prompt_tokens, completion_tokens=slot.generated)
        decode_ms = (time.monotonic() - slot.first_token_at) * 1000
        self._release(slot)
        self._send(Done(key=slot.key, finish=finish, usage=usage, decode_ms=decode_ms))

    def _release(self, slot: Slot) -> None:
        del self._active[slot.key]
        slot.sampler.close()
        self._backend.forget(slot.index)
        self._free.append(slot.index)

    def _reject(self, key: int, code: str, message: str) -> None:
        self._send(Rejected(key=key, code=code, message=message))
