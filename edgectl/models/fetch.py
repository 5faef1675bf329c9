"""Downloads a model file into the store: sources in order, retries with back-off, resume, verification."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
from msgspec import Struct

from edgectl.errors import DownloadFailed, EdgeError, IntegrityError, Usage
from edgectl.models.sources import hub_token
from edgectl.models.storage import require_space
from edgectl.models.transfer import (
    BadRange,
    Exchange,
    Interrupted,
    Limits,
    Refused,
    WrongBytes,
    WrongOffer,
    receive,
)
from edged.api.errors import ModelUnusable

if TYPE_CHECKING:
    from pathlib import Path

    from edgectl.models.partial import Partial
    from edgectl.models.refs import Ref
    from edgectl.models.sources import Download, Source
    from edgectl.models.store import Store

__all__ = ["Limits", "Listener", "pull"]

MAX_RETRY_AFTER_S = 60.0  # a server may ask for more patience than a person has
_USB_HINT = "without a network: put the .gguf on a USB stick and run `edgectl models import /path/to/it`"


class Listener(Struct, frozen=True, kw_only=True):
    """Who hears how a download goes: bytes so far and in all, and sentences for a person."""

    progress: Callable[[int, int | None], None] = lambda _done_bytes, _total_bytes: None
    say: Callable[[str], None] = lambda _sentence: None


def pull(
    store: Store,
    download: Download,
    describe: Callable[[Path, str, int], Ref],
    *,
    listener: Listener | None = None,
    limits: Limits | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Ref:
    """Fetch ``download`` and publish it under the name that ``describe(file, sha256, size_bytes)`` gives.

    ``describe`` sees the whole, verified file before anything else does and may refuse it by raising.
    Raises DownloadFailed (what arrived is kept when the hash is known), IntegrityError (nothing is kept),
    NoSpace, StorageFailed, or Busy while another process fetches the same file.
    """
    listener, limits = listener or Listener(), limits or Limits()
    if not download.sources:
        raise Usage(f"nobody offers {download.label} for download", hint=_USB_HINT)
    sha256 = download.sha256
    with store.partial(sha256) if sha256 else store.new_partial() as part:
        if sha256 and part.resume():
            listener.say(f"going on after {part.size_bytes / (1 << 20):,.0f} MiB from an earlier run")
        if download.size_bytes is not None:
            if part.size_bytes > download.size_bytes:
                part.restart()
            require_space(store.root, download.size_bytes - part.size_bytes, download.label)
        with httpx.Client(timeout=httpx.Timeout(limits.read_s, connect=limits.connect_s)) as client:
            exchange = Exchange(client=client, limits=limits, token=hub_token, progress=listener.progress)
            _Fetching(exchange, download, part, listener, sleep).run()
        try:
            ref = describe(part.path, part.sha256, part.size_bytes)
        except (IntegrityError, ModelUnusable):
            part.discard()  # whole, verified, and still not a model: no second try will change that
            raise
        return store.publish(part, ref)


class _Fetching:
    """One run through the sources of one download."""

    def __init__(
        self,
        exchange: Exchange,
        download: Download,
        part: Partial,
        listener: Listener,
        sleep: Callable[[float], None],
    ) -> None:
        self._exchange = exchange
        self._limits = exchange.limits
        self._download = download
        self._part = part
        self._listener = listener
        self._sleep = sleep
        self._jitter = random.Random()  # noqa: S311 - spreads retries, keeps no secret

    def run(self) -> None:
        """Fill the file, or raise the error that sums up why no source could."""
        problems: list[str] = []
        hints: list[str] = []
        wrong = False
        for source in self._download.sources:
            try:
                self._from_source(source)
            except (Refused, WrongBytes) as error:
                wrong = wrong or isinstance(error, WrongBytes)
                hints += [error.hint] if isinstance(error, Refused) and error.hint else []
                problems.append(f"{source.label}: {error}")
                self._listener.say(problems[-1])
            else:
                return
        raise self._failure(problems, hints, wrong=wrong)

    def _from_source(self, source: Source) -> None:
        """Fill the file from ``source`` in as many attempts as bring it forward."""
        failures, fresh, whole = 0, False, False
        while True:
            began_at_bytes = self._begin()
            try:
                self._attempt(source, whole=whole)
            except WrongOffer:
                raise
            except WrongBytes:
                self._part.restart()
                if fresh or not began_at_bytes:
                    raise
                fresh = True  # the fault may lie in what was here before: once more, from the start
                self._listener.say(f"{source.label}: what was here does not fit; starting anew")
            except Interrupted as error:
                gained = self._part.size_bytes - began_at_bytes >= self._limits.progress_bytes
                failures = 1 if gained else failures + 1
                whole = whole or isinstance(error, BadRange)
                if failures >= self._limits.attempts:
                    raise Refused(f"{error} ({failures} times)") from error
                self._wait(source, error, failures)
            else:
                return

    def _begin(self) -> int:
        if self._download.sha256 is None:
            self._part.restart()  # nothing could tell whether old and new bytes belong together
        return self._part.size_bytes

    def _attempt(self, source: Source, *, whole: bool) -> None:
        wanted = self._download.sha256
        whole_already = self._part.size_bytes == self._download.size_bytes or self._part.sha256 == wanted
        if not whole_already:
            receive(self._exchange, source, self._part, self._download, whole=whole)
        if wanted is not None and self._part.sha256 != wanted:
            raise WrongBytes(f"its file has SHA-256 {self._part.sha256}, not {wanted}")

    def _wait(self, source: Source, error: Interrupted, failures: int) -> None:
        """Back off: doubling, with up to half of it random so that a fleet does not return in step."""
        pause_s = min(self._limits.backoff_max_s, self._limits.backoff_s * 2 ** (failures - 1))
        pause_s *= 1 - self._jitter.random() / 2
        if error.retry_after_s is not None:
            pause_s = max(pause_s, min(error.retry_after_s, MAX_RETRY_AFTER_S))
        self._listener.say(f"{source.label}: {error}; trying again in {pause_s:.0f} s")
        self._sleep(pause_s)

    def _failure(self, problems: list[str], hints: list[str], *, wrong: bool) -> EdgeError:
        said = "".join(f"\n  - {problem}" for problem in problems)
        if wrong:
            return IntegrityError(
                f"no source has the right bytes of {self._download.label}:{said}",
                hint="nothing was stored: the file may have been replaced, or something on the way alters it",
            )
        kept_bytes = self._part.size_bytes if self._download.sha256 else 0
        kept = f"{kept_bytes / (1 << 20):,.0f} MiB are kept, run it again to go on; " if kept_bytes else ""
        again = kept or "check the network and run it again; "
        return DownloadFailed(
            f"{self._download.label} could not be fetched:{said}",
            hint="; ".join((*dict.fromkeys(hints), again + _USB_HINT)),
        )
