"""Renders a model's own chat template in a sandbox with bounds on time, size and reach."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edged.worker.confine import OutOfTime, confined
from edged.worker.conversation import Guard, in_words, offered, texts_of, told, unused_mark
from edged.worker.refused import Refused
from edged.worker.tools import FUNCTION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from edged.api.requests import Message, Tool
    from edged.worker.forms.calls import CallForm

Result = TypeVar("Result")

RENDER_LIMIT_S = 2.0  # real templates take about a millisecond, on a Pi 4 about ten
RENDER_EXTRA_BYTES = 256 << 20  # the largest prompt of 8 MiB, a few copies of it at 4 bytes a character
MAX_RANGE = 4096
MAX_STRING = 1 << 20  # what one repetition inside a template may build
MAX_NUMBER = 1 << 64  # arithmetic on longer numbers is one long operation that no signal interrupts
MAX_TEMPLATE_BYTES = 256 << 10
MAX_DATE_FORMAT = 64
# Filters whose width builds gigabytes, that add lists up in one long operation (sum), or that reach beyond
# the data; no chat template needs them.
_UNBOUNDED_FILTERS = ("attr", "batch", "center", "format", "pprint", "slice", "sum", "wordwrap", "xmlattr")
# Methods of text with a width or a format in their arguments, and those that lead out of text.
_WIDE_METHODS = ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill")
_UNSAFE_METHODS = frozenset((*_WIDE_METHODS, "encode", "maketrans", "translate"))


class TemplateError(Refused):
    """The template refuses these messages, or misbehaves."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Also bounds what single operations can build, which a time limit would notice too late."""

    intercepted_binops = frozenset(["*", "**", "%", "/", "//"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise TemplateError("the template uses **, which is not allowed")
        if operator == "%" and not _is_number(left):
            raise TemplateError("the template formats text with %, which is not allowed")
        if _is_number(left) and _is_number(right):
            if abs(left) > MAX_NUMBER or abs(right) > MAX_NUMBER:
                raise TemplateError("the template calculates with too large a number")
        elif operator == "*":
            _check_repetition(left, right)
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _UNSAFE_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:  # noqa: ARG002 - as in the base class
        """``str.format`` is not wrapped but left to is_safe_attribute, which refuses it."""
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _check_repetition(left: Any, right: Any) -> None:
    """Bound text * count and list * count; of anything else Python itself says that it cannot be."""
    sized, count = (right, left) if isinstance(left, int) else (left, right)
    most = MAX_STRING if isinstance(sized, str) else MAX_RANGE
    if isinstance(count, int) and hasattr(sized, "__len__") and len(sized) * count > most:
        raise TemplateError("the template builds too large a text or list")


class ChatTemplate:
    """A chat template ready to render. Raises TemplateError when ``source`` does not compile.

    ``controls`` are the names of the model's control tokens.
    """

    def __init__(self, source: str, *, bos: str, eos: str, controls: Iterable[str] = ()) -> None:
        if len(source) > MAX_TEMPLATE_BYTES:
            raise TemplateError(f"the chat template has {len(source)} characters, more than any real one")
        self.call_form: CallForm = "functions" if FUNCTION in source else "hermes"
        self._knows_tools = "tools" in source
        self._guard = Guard(controls)
        environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
        )
        for name in _UNBOUNDED_FILTERS:
            environment.filters.pop(name, None)
        environment.filters["tojson"] = _json  # Jinja's own is for HTML
        environment.globals.clear()
        environment.globals.update(
            range=_bounded_range, namespace=jinja2.utils.Namespace, raise_exception=_raise, strftime_now=_now
        )
        self._bos = bos
        self._eos = eos
        self._template = _guarded(lambda: environment.from_string(source), "does not compile")

    def render(
        self, messages: Sequence[Message], *, thinking: bool, limit_chars: int, tools: Sequence[Tool] = ()
    ) -> list[str]:
        """The prompt text, ending where the assistant's turn begins.

        It comes in pieces that must be tokenized apart: what people say is cut where it would otherwise be
        taken for a control token. Call from the main thread: the time limit is a signal. Raises Refused.
        """
        return _guarded(
            lambda: self._generate(messages, tools, thinking=thinking, limit_chars=limit_chars),
            "refuses the messages",
        )

    def _generate(
        self, messages: Sequence[Message], tools: Sequence[Tool], *, thinking: bool, limit_chars: int
    ) -> list[str]:
        mark = unused_mark(texts_of(messages, tools))

        def say(text: str) -> str:
            return self._guard.mark(text, mark)

        if self._knows_tools:
            plain, offer = told(messages, say), offered(tools, say) or None
        else:
            plain, offer = in_words(messages, tools, say), None
        parts: list[str] = []
        size = 0
        for part in self._template.generate(
            messages=plain,
            add_generation_prompt=True,
            enable_thinking=thinking,
            bos_token=self._bos,
            eos_token=self._eos,
            tools=offer,
        ):
            size += len(part)
            if size > limit_chars:
                raise TemplateError(f"the rendered prompt exceeds {limit_chars} characters")
            parts.append(part)
        text = "".join(parts)
        text.encode()  # lone surrogates in the template's own text are no text for a tokenizer
        return text.split(mark)


def _guarded(work: Callable[[], Result], what_failed: str) -> Result:
    """The result of ``work`` in bounded time and memory; whatever it raises becomes a TemplateError."""
    try:
        with confined(seconds=RENDER_LIMIT_S, extra_bytes=RENDER_EXTRA_BYTES):
            return work()
    except Refused:
        raise
    except OutOfTime:
        raise TemplateError(f"the model's chat template took more than {RENDER_LIMIT_S:.0f} s") from None
    except MemoryError:
        raise TemplateError(
            f"the model's chat template needs more than {RENDER_EXTRA_BYTES >> 20} MiB of memory"
        ) from None
    except Exception as error:
        text = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        raise TemplateError(f"the model's chat template {what_failed}: {text}") from error


def _bounded_range(*args: int) -> range:
    result = range(*args)
    # Not len(): it fails on a range beyond the machine's word.
    if result[MAX_RANGE : MAX_RANGE + 1]:
        raise TemplateError(f"the template loops more than {MAX_RANGE} times")
    return result


def _json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(indent, 8))


def _raise(message: str) -> NoReturn:
    raise TemplateError(f"the model's chat template refuses the messages: {message}")


def _now(form: str) -> str:
    # The C library knows widths ("%999999999d") and fills them.
    if len(form) > MAX_DATE_FORMAT:
        raise TemplateError(f"the template's date format has more than {MAX_DATE_FORMAT} characters")
    return datetime.now(tz=UTC).strftime(form)
