"""Renders a model's own chat template in a sandbox with bounds on time, size and reach."""

from __future__ import annotations

import signal
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from edged.api.requests import Message

RENDER_LIMIT_S = 2.0  # real templates take about a millisecond, on a Pi 4 about ten
MAX_RANGE = 4096
MAX_STRING = 1 << 20  # what one operation inside a template may build
MAX_TEMPLATE_BYTES = 256 << 10
# Filters whose width alone can build gigabytes, or that reach beyond the data; no chat template needs them.
_UNBOUNDED_FILTERS = ("center", "format", "pprint", "xmlattr", "wordwrap", "attr")


class TemplateError(Exception):
    """The template refuses these messages, or misbehaves."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Also bounds what single operations can build, which a time limit would notice too late."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise TemplateError("the template uses **, which is not allowed")
        if operator == "*" and not (_is_number(left) and _is_number(right)):
            sized, count = (right, left) if isinstance(left, int) else (left, right)
            if not isinstance(count, int) or len(sized) * count > MAX_STRING:
                raise TemplateError("the template builds too large a text")
        if operator == "%" and isinstance(left, str):
            raise TemplateError("the template formats text with %, which is not allowed")
        return super().call_binop(context, operator, left, right)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


class ChatTemplate:
    """A chat template ready to render. Raises TemplateError when ``source`` does not compile."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        if len(source) > MAX_TEMPLATE_BYTES:
            raise TemplateError(f"the chat template has {len(source)} characters, more than any real one")
        environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
        )
        for name in _UNBOUNDED_FILTERS:
            environment.filters.pop(name, None)
        environment.globals.clear()
        environment.globals.update(
            range=_bounded_range, namespace=jinja2.utils.Namespace, raise_exception=_raise, strftime_now=_now
        )
        self._bos = bos
        self._eos = eos
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError, ValueError) as error:
            raise TemplateError(f"the model's chat template does not compile: {error}") from error

    def render(self, messages: Sequence[Message], *, thinking: bool, limit_chars: int) -> str:
        """The prompt text, ending where the assistant's turn begins.

        Call from the main thread: the time limit is a signal. Raises TemplateError.
        """
        plain = [{"role": message.role, "content": message.content} for message in messages]
        parts: list[str] = []
        size = 0
        try:
            with _TimeLimit():
                for part in self._template.generate(
                    messages=plain,
                    add_generation_prompt=True,
                    enable_thinking=thinking,
                    bos_token=self._bos,
                    eos_token=self._eos,
                    tools=None,
                ):
                    size += len(part)
                    if size > limit_chars:
                        break
                    parts.append(part)
        except TemplateError:
            raise
        except Exception as error:
            text = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
            raise TemplateError(f"the model's chat template refuses the messages: {text}") from error
        if size > limit_chars:
            raise TemplateError(f"the rendered prompt exceeds {limit_chars} characters")
        return "".join(parts)


class _TimeLimit:
    """Raises TemplateError in the main thread after RENDER_LIMIT_S; does nothing elsewhere."""

    def __enter__(self) -> None:
        self._armed = threading.current_thread() is threading.main_thread()
        if self._armed:
            self._before = signal.signal(signal.SIGALRM, self._expire)
            signal.setitimer(signal.ITIMER_REAL, RENDER_LIMIT_S)

    def __exit__(self, *_exc: object) -> None:
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)

    @staticmethod
    def _expire(_signum: int, _frame: FrameType | None) -> NoReturn:
        raise TemplateError(f"the model's chat template took more than {RENDER_LIMIT_S:.0f} s")


def _bounded_range(*args: int) -> range:
    result = range(*args)
    if len(result) > MAX_RANGE:
        raise TemplateError(f"the template loops more than {MAX_RANGE} times")
    return result


def _raise(message: str) -> NoReturn:
    raise TemplateError(f"the model's chat template refuses the messages: {message}")


def _now(form: str) -> str:
    return datetime.now(tz=UTC).strftime(form)
