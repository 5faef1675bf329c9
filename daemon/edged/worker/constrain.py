"""Keeps the tokens of an answer within the form its request asks for."""

from __future__ import annotations

import codecs
import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from edged.worker.confine import OutOfTime, confined
from edged.worker.forms.calls import calls_of
from edged.worker.forms.grammar import Grammar, Part, alt
from edged.worker.forms.json_parts import OBJECT, VALUES
from edged.worker.forms.schema import SchemaReader
from edged.worker.refused import Refused, defect
from edged.worker.tools import json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from edged.ipc.messages import Start
    from edged.worker.backends.base import Backend
    from edged.worker.forms.calls import CallForm
    from edged.worker.forms.grammar import State

# Schemas that people write take a millisecond, the largest of the tests 6 ms; boards are up to ten times as
# slow. Nobody is answered meanwhile.
COMPILE_LIMIT_S = 0.3
COMPILE_EXTRA_BYTES = 64 << 20
GRAMMARS_REMEMBERED = 16
GRAMMARS_BYTES = 16 << 20  # of all that are remembered, with what they remember
PARTS_BYTES = 8 << 20  # of one
REFUSED_FOR_S = 60.0  # what took too long is not tried again; the board may have been busy, so not for ever
TOO_LARGE = "the form that the answer must have is too large or too deep"
log = logging.getLogger("edged.worker")
_SHORTEST = {2: 0x80, 3: 0x800, 4: 0x10000}  # the first code point that takes so many bytes


class Forms:
    """Grammars of requests, each made once: devices ask for the same form again and again."""

    def __init__(self, call_form: CallForm, clock: Callable[[], float] = time.monotonic) -> None:
        self._call_form = call_form
        self._clock = clock
        self._made: OrderedDict[Hashable, Grammar] = OrderedDict()
        self._refused: OrderedDict[Hashable, float] = OrderedDict()  # what took too long → until when

    def read(self, order: Start) -> Grammar | None:
        """What the answer must look like; None when it is free. Raises Refused."""
        must_call = bool(order.tools) and order.tool_choice not in {"auto", "none"}
        if order.op not in {"chat", "generate"}:
            return None
        if not (order.choices or order.schema or order.json_mode or must_call):
            return None
        called = order.tools if order.tool_choice != "none" else ()
        key = (
            order.choices,
            order.schema,
            order.json_mode,
            called,
            order.tool_choice,
            order.parallel_tool_calls,
        )
        grammar = self._made.pop(key, None) or self._make(key, order)
        grammar.tidy()
        self._made[key] = grammar
        while len(self._made) > 1 and (
            len(self._made) > GRAMMARS_REMEMBERED
            or sum(one.size_bytes for one in self._made.values()) > GRAMMARS_BYTES
        ):
            self._made.popitem(last=False)
        return grammar

    def _make(self, key: Hashable, order: Start) -> Grammar:
        if self._refused.get(key, 0.0) > self._clock():
            raise Refused(TOO_LARGE)
        try:
            return _bounded(order, self._call_form)
        except OutOfTime:
            self._refused[key] = self._clock() + REFUSED_FOR_S
            if len(self._refused) > GRAMMARS_REMEMBERED:
                self._refused.popitem(last=False)
            raise Refused(TOO_LARGE) from None


def _bounded(order: Start, call_form: CallForm) -> Grammar:
    """Raises Refused, and OutOfTime."""
    try:
        with confined(seconds=COMPILE_LIMIT_S, extra_bytes=COMPILE_EXTRA_BYTES):
            return _make(order, call_form)
    except Refused:
        raise
    except (MemoryError, RecursionError):
        raise Refused(TOO_LARGE) from None
    except Exception as error:  # noqa: BLE001 - one request must not end the others
        log.error("a form could not be made: %s", defect(error))  # noqa: TRY400 - its text may be a client's
        raise Refused(f"the form that the answer must have cannot be made ({defect(error)})") from None


def _make(order: Start, call_form: CallForm) -> Grammar:
    options: list[Part] = list(order.choices)
    rules: dict[str, Part] = {}
    if order.json_mode:
        options, rules = [OBJECT], dict(VALUES)
    if order.schema:
        schema = _schema(order.schema)
        reader = SchemaReader(schema)
        options, rules = [reader.part(schema, "schema")], reader.rules
    if order.tools and order.tool_choice != "none":
        tools = [tool for tool in order.tools if order.tool_choice in {"auto", "required", tool.name}]
        calls, more = calls_of(tools, call_form, several=order.parallel_tool_calls)
        options, rules = [*(options if order.tool_choice == "auto" else ()), calls], rules | more
    grammar = Grammar(alt(*options), rules)
    if grammar.size_bytes > PARTS_BYTES:
        raise Refused(TOO_LARGE)
    return grammar


def _schema(text: str) -> object:
    try:
        return json_value(text)
    except ValueError as error:
        raise Refused(f"schema: is not JSON: {error}") from None


class Constraint:
    """Where one answer stands in its grammar, in bytes: tokens may end inside a code point."""

    def __init__(self, grammar: Grammar, backend: Backend) -> None:
        self._grammar = grammar
        self._backend = backend
        self._state = grammar.start
        self._begun = b""  # bytes of a code point whose rest is to come

    @property
    def complete(self) -> bool:
        """The answer may end here."""
        return self._state.complete and not self._begun

    @property
    def over(self) -> bool:
        """The answer can only end here."""
        return self.complete and self._state.stacks == {None}

    def allows(self, token: int) -> bool:
        """Whether ``token`` may come next."""
        if self._backend.is_end(token):
            return self.complete
        return self.admits(self._backend.piece(token))

    def admits(self, piece: bytes) -> bool:
        """Whether bytes may come next; none at all, as of control tokens, may not."""
        return bool(piece) and self._after(piece) is not None

    def take(self, piece: bytes) -> bool:
        """Go on behind ``piece``; False, and nothing changed, when it may not come."""
        after = self._after(piece)
        if after is not None:
            self._state, self._begun = after
            self._grammar.tidy()
        return after is not None

    def _after(self, piece: bytes) -> tuple[State, bytes] | None:
        try:
            text, begun = _decode(self._begun + piece)
        except UnicodeDecodeError:
            return None
        state = self._grammar.follow(self._state, text)
        if state is None or (begun and not self._grammar.admits(state, *_span(begun))):
            return None
        return state, begun


def _decode(data: bytes) -> tuple[str, bytes]:
    """Whole code points, and the bytes of one that is not complete. Raises UnicodeDecodeError."""
    text, used = codecs.utf_8_decode(data, "strict", False)  # noqa: FBT003 - not the last bytes
    return text, data[used:]


def _span(begun: bytes) -> tuple[int, int]:
    """The first and the last code point that begin with these bytes."""
    length = 4 if begun[0] >= 0xF0 else 3 if begun[0] >= 0xE0 else 2
    value = begun[0] & (0x7F >> length)
    for byte in begun[1:]:
        value = value << 6 | byte & 0x3F
    missing = 6 * (length - len(begun))
    return max(value << missing, _SHORTEST[length]), (value + 1 << missing) - 1
