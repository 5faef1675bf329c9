"""The worker process: waits for Load, proves one token, then serves until the supervisor hangs up."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, NoReturn

from edged.api.requests import Sampling
from edged.host.orphans import die_with_parent
from edged.host.procfs import anon_bytes
from edged.ipc.frames import FrameError, FrameReader
from edged.ipc.messages import Heartbeat, Load, LoadFailed, Ready, ToLoop, decode_to_worker, encode
from edged.worker.backends import load_backend
from edged.worker.backends.base import Backend, LoadError, Run, StateError, StepError
from edged.worker.draft_cost import load_within_budget, price_of_drafts
from edged.worker.embedding import vector_of
from edged.worker.embedding_loop import EmbeddingLoop
from edged.worker.kept import KeptPrefixes
from edged.worker.loop import DecodeLoop
from edged.worker.reasoning import thinks

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.ipc.messages import FromWorker

log = logging.getLogger("edged.worker")

HEARTBEAT_S = 1.0


class Link:
    """The socket to the supervisor: a reader thread fills ``inbox``, any thread may send."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._lock = threading.Lock()
        self.first: SimpleQueue[Load] = SimpleQueue()
        self.inbox: SimpleQueue[ToLoop] = SimpleQueue()

    def start(self) -> None:
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def send(self, *messages: FromWorker) -> None:
        with self._lock:
            self._socket.sendall(b"".join(map(encode, messages)))

    def _read(self) -> None:
        reader = FrameReader()
        try:
            while data := self._socket.recv(65536):
                for payload in reader.feed(data):
                    message = decode_to_worker(payload)
                    if isinstance(message, Load):
                        self.first.put(message)
                    else:
                        self.inbox.put(message)
        except (OSError, FrameError) as error:
            log.error("the link to the supervisor broke: %s", error)  # noqa: TRY400 - no traceback in the journal
        finally:
            # The supervisor hung up, or nobody listens to it here any more. Native code cannot be
            # interrupted, so leave at once and whole.
            os._exit(0)


class Pulse:
    """Tells the supervisor every second that the process runs, and whether it gets anywhere."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._progress = 0
        self._busy = True
        self._cache_bytes: Callable[[], int] = int

    def start(self) -> None:
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def progressed(self) -> None:
        self._progress += 1

    def busy(self, value: bool) -> None:  # noqa: FBT001 - a state, not a mode
        self._busy = value

    def cache(self, held_bytes: Callable[[], int]) -> None:
        """Tell from now on how much the cache of evaluated prompts holds."""
        self._cache_bytes = held_bytes

    def _now(self) -> Heartbeat:
        return Heartbeat(progress=self._progress, busy=self._busy, cache_bytes=self._cache_bytes())

    def _beat(self) -> NoReturn:
        while True:
            try:
                self._link.send(self._now())
            except OSError:
                os._exit(0)
            time.sleep(HEARTBEAT_S)


def main() -> None:
    """``python -m edged.worker --fd N``: N is one end of a socket pair."""
    parser = argparse.ArgumentParser(prog="edged.worker", description="The inference process of edged.")
    parser.add_argument("--fd", type=int, required=True)
    descriptor = parser.parse_args().fd
    die_with_parent()
    # The supervisor decides when this process ends; a Ctrl-C in a terminal is for it alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="level=%(levelname)s worker: %(message)s"
    )
    os.environ["EDGED_WORKER_FD"] = str(descriptor)
    link = Link(descriptor)
    link.start()
    try:
        serve(link)
    except (StepError, StateError) as error:
        log.error("%s", error)  # noqa: TRY400 - a state that cannot be trusted, not a defect
        sys.exit(1)
    except ConnectionError:  # the supervisor hung up while we spoke
        os._exit(0)


def serve(link: Link) -> None:
    order = link.first.get()
    pulse = Pulse(link)
    pulse.start()
    started = time.monotonic()
    try:
        backend = load_within_budget(order, partial(load_backend, on_progress=pulse.progressed))
        loaded = time.monotonic()
        prove_one_token(backend)
        cost = price_of_drafts(backend, order.options.speculate, pulse.progressed)
    # A library that is missing, or built for another computer, shows as any of the last three.
    except (LoadError, StepError, ImportError, OSError, RuntimeError) as error:
        link.send(LoadFailed(message=str(error)))
        sys.exit(0)
    now = time.monotonic()
    link.send(
        Ready(
            engine=backend.engine,
            model_name=backend.model_name,
            context=backend.context,
            thinks=backend.pooling is None and thinks(backend),
            load_ms=(loaded - started) * 1000,
            first_token_ms=(now - loaded) * 1000,
            anon_bytes=anon_bytes(os.getpid()),
            memory=backend.memory,
        )
    )
    if backend.pooling is not None:
        EmbeddingLoop(
            backend,
            backend.pooling,
            budget=order.options.ubatch,
            inbox=link.inbox,
            send=link.send,
            progressed=pulse.progressed,
            busy=pulse.busy,
        ).run()
    loop = DecodeLoop(
        backend,
        slots=order.options.slots,
        budget=order.options.ubatch,
        inbox=link.inbox,
        send=link.send,
        progressed=pulse.progressed,
        busy=pulse.busy,
        cache_bytes=order.cache_bytes,
        systems=order.systems,
        thinking=order.thinking,
        kept=KeptPrefixes(order.keep) if order.keep else None,
        cost=cost,
    )
    pulse.cache(lambda: loop.cache_bytes)
    loop.run()


def prove_one_token(backend: Backend) -> None:
    """READY means this much: a prompt was evaluated and a token drawn, or an embedding made."""
    prompt = backend.tokenize("Hello") or [0]
    if backend.pooling is not None:
        vector_of(backend, backend.pooling, prompt)
        return
    (row,) = backend.step([Run(0, prompt, 0, output=True)])
    sampler = backend.sampler(Sampling(temperature=0.0), prompt)
    backend.sample(sampler, row)
    sampler.close()
    backend.forget(0)


if __name__ == "__main__":
    main()
