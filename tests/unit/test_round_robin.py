"""Promise P17: a client that floods cannot starve another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edged.scheduling.round_robin import QUANTUM_TOKENS, RoundRobin

COSTS = st.integers(1, 2000)


def drain(robin: RoundRobin) -> list:
    order = []
    while (served := robin.next()) is not None:
        order.append(served[1])
    return order


@given(st.lists(st.lists(COSTS, max_size=20), max_size=6), COSTS, st.integers(0, 40))
def test_a_client_waits_for_its_own_work_times_the_clients_at_most(floods, cost, before):
    robin: RoundRobin[tuple[str, int]] = RoundRobin()
    ticket = 0
    for name, costs in enumerate(floods):
        for one in costs:
            ticket += 1
            robin.add(f"flooder {name}", ticket, (f"flooder {name}", one), one)
    for _ in range(before):
        robin.next()
    flooders = robin.clients
    robin.add("light", ticket + 1, ("light", cost), cost)
    ahead: dict[str, list[int]] = {}
    for name, one in drain(robin):
        if name == "light":
            break
        ahead.setdefault(name, []).append(one)
    # Rounds until the light one is served: each of the others is given a quantum in each of them, and may
    # have one quantum and what was saved for its largest entry besides.
    rounds = -(-cost // QUANTUM_TOKENS)
    for costs in ahead.values():
        assert sum(costs) <= (rounds + 1) * QUANTUM_TOKENS + max(costs)
    assert len(ahead) <= flooders


@given(st.lists(st.tuples(st.sampled_from("abcdef"), COSTS), min_size=1, max_size=80))
def test_while_two_clients_wait_neither_gets_more_than_one_entry_ahead(entries):
    robin: RoundRobin[tuple[str, int]] = RoundRobin()
    waiting: dict[str, int] = {}
    for ticket, (name, cost) in enumerate(entries):
        robin.add(name, ticket, (name, cost), cost)
        waiting[name] = waiting.get(name, 0) + 1
    largest = max(cost for _, cost in entries)
    done = dict.fromkeys(waiting, 0)
    for name, cost in drain(robin):
        done[name] += cost
        waiting[name] -= 1
        still = [done[one] for one, count in waiting.items() if count]
        assert not still or max(still) - min(still) <= largest + QUANTUM_TOKENS


@given(st.lists(st.tuples(st.sampled_from("abc"), COSTS, st.booleans()), max_size=60))
def test_every_entry_leaves_exactly_once(entries):
    robin: RoundRobin[int] = RoundRobin()
    left: list[int] = []
    standing: dict[int, str] = {}
    for ticket, (name, cost, taken_out) in enumerate(entries):
        robin.add(name, ticket, ticket, cost)
        standing[ticket] = name
        if taken_out:
            first = next(iter(standing))
            left.append(robin.remove(standing.pop(first), first))
        elif ticket % 3 == 0:
            served = robin.next()
            assert served is not None
            standing.pop(served[0])
            left.append(served[1])
    left += drain(robin)
    assert sorted(left) == list(range(len(entries)))
    assert (len(robin), robin.clients, robin.work) == (0, 0, 0)


def test_a_client_that_asks_again_and_again_takes_turns_with_one_that_floods():
    robin: RoundRobin[str] = RoundRobin()
    for ticket in range(100):
        robin.add("flooder", ticket, "flood", 300)
    order = []
    for ticket in range(100, 120):
        robin.add("light", ticket, "light", 300)
        while (served := robin.next()) is not None:
            order.append(served[1])
            if served[1] == "light":
                break
    assert order.count("light") == 20
    assert order.count("flood") <= 21


def test_who_asks_for_long_answers_gets_as_many_tokens_and_not_as_many_answers():
    robin: RoundRobin[str] = RoundRobin()
    for ticket in range(100):
        robin.add("long", 1000 + ticket, "long", 900)
        robin.add("short", ticket, "short", 100)
    first = [robin.next() for _ in range(50)]
    answers = [served[1] for served in first if served]
    assert 4 <= answers.count("long") <= 6


def test_clients_that_are_gone_are_not_remembered():
    robin: RoundRobin[int] = RoundRobin()
    for ticket in range(5000):
        robin.add(f"client {ticket}", ticket, ticket, 10)
        assert robin.next() == (ticket, ticket)
    assert not robin._clients
    assert not robin._turns
