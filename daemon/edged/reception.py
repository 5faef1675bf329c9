"""Lets requests into the waiting room, or says why not: no room, too late for their deadline, too hot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edged.api.errors import Busy, MemoryGuard, Thermal
from edged.api.requests import texts
from edged.scheduling.admission import Admission
from edged.scheduling.forecast import Answered, Sizes, Speeds, Work, forecast
from edged.scheduling.intake import OPEN, REST_S

if TYPE_CHECKING:
    from collections.abc import Collection

    from edged.api.config import Config
    from edged.api.errors import EdgeError
    from edged.api.events import Usage
    from edged.job import Job
    from edged.scheduling.forecast import Forecast
    from edged.scheduling.intake import Intake
    from edged.tally import Tally

GENERATING = {"chat", "generate"}  # operations whose answers take steps of their own
PLANNED_PROMPT_TOKENS = 500  # the plan's figure for the first token is for as many
RETRY_S = 10.0  # where no speed is known
LONGEST_RETRY_S = 600.0


class Reception:
    """The queue and who gets into it. ``intake`` is replaced when it changes."""

    def __init__(self, config: Config, tally: Tally) -> None:
        self.config = config
        self.intake: Intake = OPEN
        self.queue: Admission[Job] = Admission(config.limits.queue)
        self._tally = tally
        self._sizes = Sizes()

    @property
    def slots(self) -> int:
        """Slots that may be in use."""
        return self.intake.slots(self.config.model.slots)

    @property
    def capacity(self) -> int:
        """Requests of one client that may be accepted and unanswered at once."""
        return self.config.model.slots + self.queue.open_to_one()

    def admit(self, job: Job, *, running: Collection[Job], serving: bool) -> tuple[int, float | None]:
        """Let ``job`` wait: how many are served before it at most, and seconds to its first token if known.

        While the engine is not ``serving``, nobody knows how long it takes, and nobody is refused over it.
        Raises Busy, or what lowers the intake: Thermal or MemoryGuard.
        """
        if not self.intake.share:
            raise self._lowered()
        job.work = self._work(job)
        request = job.request
        ahead = self.queue.ahead(request.client, request.priority, job.work.tokens)
        expected = self._forecast(job.work, ahead.work, running) if serving else None
        ttl_s = job.deadline - job.accepted_at
        late_s = expected.too_late_by(ttl_s) if expected else None
        if expected and late_s is not None:
            raise Busy(
                f"no answer is possible within {ttl_s:.0f} s: {expected.wait_s:.0f} s of work come first",
                retry_after_s=_rounded(late_s),
            )
        try:
            job.ticket = self.queue.offer(
                job,
                client=request.client,
                priority=request.priority,
                deadline=job.deadline,
                cost=job.work.tokens,
                share=self.intake.share,
            )
        except Busy as error:
            if self.intake.cause and len(self.queue) < self.queue.open_to_one():
                raise self._lowered() from None
            everything = self._forecast(job.work, self.queue.work, running) if serving else None
            wait_s = everything.wait_s if everything else RETRY_S
            raise Busy(error.message, retry_after_s=_rounded(wait_s)) from None
        return ahead.entries, round(expected.eta_s, 1) if expected else None

    def adopt(self, config: Config) -> None:
        """Go by ``config``; how long texts and answers are is another model's matter."""
        if config.model.path != self.config.model.path:
            self._sizes = Sizes()
        self.config = config

    def learn(self, job: Job, usage: Usage) -> None:
        """See how long prompt and answer of a finished request were."""
        self._sizes.learn(
            Answered(
                prompt_chars=_prompt_chars(job),
                prompt_tokens=usage.prompt_tokens,
                cached_tokens=usage.cached_tokens,
                answer_tokens=usage.completion_tokens if job.request.op in GENERATING else 0,
            )
        )

    def _work(self, job: Job) -> Work:
        most_tokens = job.order.max_tokens if job.request.op in GENERATING else 0
        return self._sizes.work(_prompt_chars(job), most_tokens)

    def _forecast(self, work: Work, ahead_tokens: float, running: Collection[Job]) -> Forecast | None:
        left = [job.work.left(job.heard_tokens, job.order.max_tokens) for job in running]
        return forecast(
            work, ahead_tokens=ahead_tokens, running=left, slots=self.slots, speeds=self._speeds()
        )

    def _speeds(self) -> Speeds:
        """As measured lately; until then as planned."""
        plan, tally = self.config.plan, self._tally
        if tally.decode_tps is not None or tally.prefill_tps is not None:
            return Speeds(prefill_tps=tally.prefill_tps, decode_tps=tally.decode_tps)
        first_s = plan.first_token_500_s
        return Speeds(
            prefill_tps=PLANNED_PROMPT_TOKENS / first_s if first_s > 0 else None,
            decode_tps=plan.decode_tps if plan.decode_tps > 0 else None,
        )

    def _lowered(self) -> EdgeError:
        kind = Thermal if self.intake.cause == Thermal.code else MemoryGuard
        return kind(self.intake.why, retry_after_s=REST_S)


def _prompt_chars(job: Job) -> int:
    return sum(map(len, texts(job.request)))


def _rounded(wait_s: float) -> float:
    return round(min(LONGEST_RETRY_S, max(1.0, wait_s)), 1)
