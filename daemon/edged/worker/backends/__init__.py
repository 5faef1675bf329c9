"""The engines, by the name the configuration gives them; imported only in the worker, only when asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.ipc.messages import Load
    from edged.worker.backends.base import Backend


def load_backend(order: Load, on_progress: Callable[[], None]) -> Backend:
    """The loaded model of ``order``; raises LoadError. ``on_progress`` is called as loading advances."""
    if order.backend == "fake":
        from edged.worker.backends.fake import load_fake  # noqa: PLC0415 - only the engine that is asked for

        return load_fake(order.path, order.options, on_progress)
    from edged.worker.backends.llama import load_llama  # noqa: PLC0415 - native code, 1 s of import

    return load_llama(order.path, order.options, on_progress)
