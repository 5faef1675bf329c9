"""One worker process: spawned, talked to, ended. Single-use; a new attempt is a new object."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, NoReturn

from edged.ipc.frames import FrameReader
from edged.ipc.messages import LoadFailed, Measured, Ready, decode_from_worker, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from edged.ipc.messages import FromWorker, Load, Measure, ToWorker

log = logging.getLogger("edged.engine")

READ_BYTES = 1 << 16
SPIN_COUNT = 1000  # rounds of some ten nanoseconds; at a barrier that takes longer a thread sleeps instead
LAST_BREATH_S = 0.2  # between hanging up and being reaped; 3 ms were measured
KILL_WAIT_S = 10.0  # SIGKILL is immediate, except in an uninterruptible read of a failing disk


class WorkerLost(Exception):
    """This worker is of no more use; the text says why, for people."""


class Worker:
    """A live worker. ``receive`` raises EOFError once it has hung up, for whatever reason."""

    def __init__(self, process: asyncio.subprocess.Process, link: socket.socket) -> None:
        self._process = process
        self._link = link
        self._reader = FrameReader()
        self._ready: deque[FromWorker] = deque()
        self._hear: Callable[[FromWorker], None] = self._ready.append
        self._failed: Exception | None = None  # what ``receive`` raises from here on
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        # One registration for its life: a call of sock_recv for each message costs two more system calls.
        self._loop.add_reader(link, self._readable)

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def spawn(
        cls, place: Callable[[int], None], *, cpus: Collection[int] = (), spin_count: int = SPIN_COUNT
    ) -> Worker:
        """Start a worker and let ``place`` put its pid where it belongs before anything is allocated.

        It computes on ``cpus`` alone (empty: on all that this process may use), and its threads wait for
        each other as :func:`worker_environment` says. Raises OSError when the process cannot be started.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003 - the standard library has no keyword here
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "edged.worker", "--fd", str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr,
                pass_fds=[theirs.fileno()],
                env=worker_environment(spin_count),
                start_new_session=True,  # a Ctrl-C in a terminal is the supervisor's to handle
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        worker = cls(process, ours)
        try:
            place(process.pid)
        except OSError as error:
            log.warning("the worker runs without a cgroup of its own: %s", error)
        if cpus:
            worker.keep_to(cpus)
        return worker

    def keep_to(self, cpus: Collection[int]) -> None:
        """Let the worker compute on ``cpus`` alone: threads that it starts from here on inherit that."""
        try:
            os.sched_setaffinity(self.pid, cpus)
        except OSError as error:
            log.warning("the worker computes on any CPU, it cannot be kept to the fast ones: %s", error)

    async def send(self, message: ToWorker) -> None:
        """Deliver ``message``; raises OSError when the worker is gone."""
        await self._loop.sock_sendall(self._link, encode(message))

    async def receive(self) -> FromWorker:
        """The next message. Raises EOFError when the worker has hung up, FrameError on garbage."""
        while not self._ready:
            if self._failed is not None:
                raise self._failed
            self._news.clear()
            await self._news.wait()
        return self._ready.popleft()

    async def receive_all(self, hear: Callable[[FromWorker], None]) -> NoReturn:
        """Let ``hear`` have each message the moment it comes. Raises as ``receive``, and what it raises."""
        while self._ready:
            hear(self._ready.popleft())
        self._hear = hear
        while self._failed is None:
            self._news.clear()
            await self._news.wait()
        raise self._failed

    def _readable(self) -> None:
        """Take what the link has; its end and garbage are for those who receive to raise."""
        try:
            data = self._link.recv(READ_BYTES)
            for payload in self._reader.feed(data):
                self._hear(decode_from_worker(payload))
            if not data:
                self._failed = EOFError("the worker hung up")
        except BlockingIOError:
            return
        except Exception as error:  # noqa: BLE001 - raised again where messages are received
            self._failed = EOFError(str(error)) if isinstance(error, ConnectionError) else error
        if self._failed is not None:
            self._loop.remove_reader(self._link)
        if self._ready or self._failed is not None:
            self._news.set()

    async def load(self, order: Load, *, load_timeout_s: float, hang_timeout_s: float) -> Ready:
        """Let the worker load; raises WorkerLost when it cannot, takes too long or falls silent."""
        await self.send(order)
        try:
            async with asyncio.timeout(load_timeout_s):
                while True:
                    message = await self._receive_within(hang_timeout_s, "loading")
                    if isinstance(message, Ready):
                        return message
                    if isinstance(message, LoadFailed):
                        raise WorkerLost(f"the model cannot be loaded: {message.message}")
        except TimeoutError:
            raise WorkerLost(f"loading took more than {load_timeout_s:.0f} s") from None

    async def measure(self, order: Measure, *, limit_s: float, hang_timeout_s: float) -> Measured:
        """What a loaded worker without requests needs for ``order``; raises WorkerLost."""
        await self.send(order)
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    message = await self._receive_within(hang_timeout_s, "measuring")
                    if isinstance(message, Measured):
                        return message
        except TimeoutError:
            raise WorkerLost(f"measuring took more than {limit_s:.0f} s") from None

    async def _receive_within(self, limit_s: float, doing: str) -> FromWorker:
        try:
            async with asyncio.timeout(limit_s):
                return await self.receive()
        except TimeoutError:
            raise WorkerLost(f"no heartbeat for {limit_s:.0f} s while {doing}") from None

    async def cause(self) -> str:
        """How a worker that has hung up ended, for people; one that still lives then is left alone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_BREATH_S):
                await self._process.wait()
        return describe_exit(self._process.returncode)

    async def kill(self) -> str:
        """End the worker at once, mid-step, and reap it; how it ended, for people.

        Safe to repeat. Does not raise when the worker will not die, which a failing disk can do.
        """
        if self._process.returncode is None:
            # Before hanging up, which would have it end by itself. Popen.kill() would poll first, and what it
            # reaps the event loop takes for an unknown child.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        if self._link.fileno() >= 0:
            self._loop.remove_reader(self._link)
            self._link.close()
        if self._process.returncode is None:
            reaping = asyncio.create_task(self._reap())
            try:
                await asyncio.shield(reaping)
            except asyncio.CancelledError:  # a stop in the middle of it must not leave a zombie
                await reaping
                raise
        if self._process.returncode is None:
            log.error("worker %d did not die of SIGKILL: it waits for a disk or a driver", self.pid)
        return describe_exit(self._process.returncode)

    async def _reap(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_WAIT_S):
                await self._process.wait()


def describe_exit(code: int | None) -> str:
    """The way a process ended, for people: SIGSEGV, exit status 1."""
    if code is None:
        return "still running"
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def worker_environment(spin_count: int = SPIN_COUNT) -> dict[str, str]:
    """The worker's environment: ours without what is none of its business, and a wait policy.

    By default OpenMP threads spin at every barrier, and one busy process per core then costs two thirds of
    the speed. A short spin keeps the quiet speed and yields in time; which is best, the self-test tries.
    OpenMP reads it once, when the native library loads. What a person has set in our environment stays.
    """
    hidden = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept if wait_policy_is_given() else {"GOMP_SPINCOUNT": str(spin_count), **kept}


def wait_policy_is_given() -> bool:
    """Whether a person has set how OpenMP threads wait."""
    return "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
