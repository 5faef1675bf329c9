"""Requests that wait unacknowledged: whose turn it is, and what fits."""

from __future__ import annotations

import pytest

from edged.transports.mqtt import held
from edged.transports.mqtt.exchange import Receipt
from edged.transports.mqtt.held import Held, HeldRequest
from edged.transports.mqtt.incoming import Incoming
from edged.transports.mqtt.topics import Ask, RequestTopic


class Link:
    """A connection, as far as what waits asks about it."""

    alive = True


LINK = Link()


def request(client, number, *, link=LINK, size=1):
    message = Incoming(topic="", payload=b"x" * size, mid=number, qos=1, retain=False, dup=False)
    place = RequestTopic(client, "chat") if client else Ask()
    return HeldRequest(place, message, Receipt(link, number), 0.0)


def taken(waiting):
    found = []
    while (one := waiting.take()) is not None:
        found.append((one.client, one.message.mid))
    return found


def test_clients_take_turns_and_each_keeps_its_order():
    waiting = Held()
    for number in range(4):
        assert waiting.put(request("flood", number))
    for number, client in enumerate(("meter", "", "meter"), 10):
        assert waiting.put(request(client, number))
    assert taken(waiting) == [
        ("flood", 0), ("meter", 10), ("ask", 11), ("flood", 1), ("meter", 12), ("flood", 2), ("flood", 3),
    ]  # fmt: skip
    assert len(waiting) == 0


def test_who_comes_while_others_wait_has_the_turn_behind_each_of_them_once():
    waiting = Held()
    for number in range(3):
        waiting.put(request("flood", number))
    assert waiting.take().message.mid == 0
    waiting.put(request("meter", 9))
    assert taken(waiting) == [("flood", 1), ("meter", 9), ("flood", 2)]


def test_those_of_a_connection_that_is_gone_are_passed_over():
    gone = Link()
    waiting = Held()
    for number, link in enumerate((gone, LINK, gone)):
        waiting.put(request("me", number, link=link))
    gone.alive = False
    assert taken(waiting) == [("me", 1)]


def test_one_can_be_taken_out_of_the_middle():
    waiting = Held()
    for number in range(3):
        waiting.put(request("me", number))
    waiting.remove(waiting.of("me")[1])
    assert [one.message.mid for one in waiting.of("me")] == [0, 2]
    assert waiting.of("you") == []
    assert taken(waiting) == [("me", 0), ("me", 2)]


@pytest.mark.parametrize(("limit", "value"), [("MAX_COUNT", 2), ("MAX_BYTES", 20)])
def test_what_does_not_fit_is_said_to_be_left(monkeypatch, limit, value):
    monkeypatch.setattr(held, limit, value)
    waiting = Held()
    assert waiting.put(request("a", 1, size=10))
    assert waiting.put(request("b", 2, size=10))
    assert not waiting.left
    assert not waiting.put(request("c", 3, size=10))
    assert waiting.left
    waiting.take()
    assert waiting.put(request("c", 3, size=10)), "room comes back with each that is taken"
    waiting.clear()
    assert (len(waiting), waiting.take()) == (0, None)


def test_when_it_is_full_the_newest_of_whoever_holds_most_goes_back_to_the_broker(monkeypatch):
    monkeypatch.setattr(held, "MAX_COUNT", 4)
    waiting = Held()
    for number in range(4):
        assert waiting.put(request("flood", number))
    assert waiting.put(request("meter", 10))
    assert waiting.left
    assert not waiting.put(request("flood", 4)), "who holds most has no room"
    assert taken(waiting) == [("flood", 0), ("meter", 10), ("flood", 1), ("flood", 2)]


def test_few_large_ones_are_as_much_as_many_small_ones(monkeypatch):
    monkeypatch.setattr(held, "MAX_BYTES", 100)
    waiting = Held()
    for number in range(3):
        waiting.put(request("camera", number, size=30))
    assert waiting.put(request("meter", 10, size=20))
    assert taken(waiting) == [("camera", 0), ("meter", 10), ("camera", 1)]


def test_those_of_a_connection_that_is_gone_make_room(monkeypatch):
    monkeypatch.setattr(held, "MAX_COUNT", 2)
    gone = Link()
    waiting = Held()
    for number in range(2):
        waiting.put(request("me", number, link=gone))
    gone.alive = False
    assert waiting.of("me") == []
    assert waiting.put(request("me", 2))
    assert (len(waiting), waiting.left) == (1, False)
