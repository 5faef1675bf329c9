"""Every error has a code of its own, and every code has its place in every table."""

from __future__ import annotations

import inspect

import pytest

import edgectl.errors
import edged.api.errors
from edgectl.errors import EXIT_CODES, exit_code
from edged.api.errors import BY_CODE, REQUEST_ERRORS, ConfigInvalid, EdgeError
from edged.api.events import Failed


def leaves(module) -> set[type[EdgeError]]:
    return {
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, EdgeError) and kind is not EdgeError
    }


DAEMON = leaves(edged.api.errors)
ALL = DAEMON | leaves(edgectl.errors)


def made(kind: type[EdgeError]) -> EdgeError:
    return kind("file", ("a problem",)) if kind is ConfigInvalid else kind("it happened", hint="do that")


def test_codes_are_unique():
    codes = [kind.code for kind in ALL]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("kind", sorted(ALL, key=lambda kind: kind.__name__))
def test_every_leaf_has_an_exit_code_a_docstring_and_an_own_code(kind):
    assert kind.code in EXIT_CODES
    assert "code" in vars(kind)
    assert kind.__doc__
    assert exit_code(made(kind)) == EXIT_CODES[kind.code]
    assert exit_code(made(kind)) != 0


def test_no_exit_code_is_listed_for_a_code_that_does_not_exist():
    assert set(EXIT_CODES) == {kind.code for kind in ALL}


def test_retryable_request_errors_exit_with_try_again():
    for kind in REQUEST_ERRORS:
        if kind.retryable and kind.code not in {"engine_lost", "internal"}:
            assert EXIT_CODES[kind.code] == 75


@pytest.mark.parametrize("kind", REQUEST_ERRORS)
def test_a_failed_event_gives_the_same_error_back(kind):
    error = kind("it happened", retry_after_s=3.0)
    back = Failed.of("id", error).error()
    assert type(back) is kind
    assert (back.message, back.retry_after_s, back.retryable) == ("it happened", 3.0, error.retryable)


def test_by_code_holds_exactly_the_request_errors():
    assert set(BY_CODE.values()) == set(REQUEST_ERRORS)
    box = {"config", "port_in_use", "no_address", "model"}
    assert {kind.code for kind in DAEMON} - set(BY_CODE) == box


def test_an_unknown_code_becomes_internal():
    assert Failed(id="x", code="from_the_future", message="m").error().code == "internal"
