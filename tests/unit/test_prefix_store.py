"""The prefix store: the budget is kept, the longest is found, what proved useful stays longest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edged.worker.prefixes import PROVEN_SHARE, Prefix, PrefixStore, common_tokens, key_of

# Few different tokens, so that beginnings meet.
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=8)
LIMIT = 100


def prefix(names: list[int], size_bytes: int = 10, *, shared: bool = True) -> Prefix[str]:
    return Prefix(key_of(names), "".join(map(str, names)), size_bytes, shared=shared)


def store_of(*prefixes: Prefix[str], limit: int = LIMIT) -> PrefixStore[str]:
    store: PrefixStore[str] = PrefixStore(limit)
    for one in prefixes:
        assert store.make_room(one.size_bytes)
        store.put(one)
    return store


def common(one: list[int], other: list[int]) -> int:
    length = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        length += 1
    return length


@given(tokens, tokens)
def test_common_tokens_are_counted_like_one_by_one(one, other):
    assert common_tokens(key_of(one), key_of(other)) == common(one, other)


def test_tokens_whose_bytes_begin_alike_are_not_common():
    assert common_tokens(key_of([0x01020304]), key_of([0x01020305])) == 0
    assert common_tokens(key_of([0x04030201]), key_of([0x05030201])) == 0


class Store(RuleBasedStateMachine):
    """Any sequence of moves against a plain list of what was let in."""

    def __init__(self) -> None:
        super().__init__()
        self.store: PrefixStore[str] = PrefixStore(LIMIT)
        self.seen: dict[bytes, Prefix[str]] = {}

    @rule(names=tokens, size=st.integers(1, 120), shared=st.booleans())
    def put(self, names, size, shared):
        before = self.keys()
        if not self.store.make_room(size):
            assert size > self.store.limit_bytes
            assert self.keys() == before
            return
        entry = prefix(names, size, shared=shared)
        self.store.put(entry)
        self.seen[entry.key] = entry
        assert entry.key in self.keys()

    @rule(names=tokens, cut=st.booleans())
    def find(self, names, cut):
        found = self.store.longest(key_of(names), cut=cut)
        lengths = [
            length
            for entry in self.store
            if (length := common(names, list(map(int, entry.state)))) and (cut or length == entry.length)
        ]
        assert (found[1] if found else 0) == max(lengths, default=0)
        if found:
            assert self.seen[found[0].key] is found[0]
            assert common_tokens(key_of(names), found[0].key) == found[1]
            self.store.hit(found[0])
            assert found[0].key in self.keys()

    @precondition(lambda self: len(self.store))
    @rule(data=st.data())
    def supersede(self, data):
        entry = data.draw(st.sampled_from(list(self.store)))
        self.store.supersede(entry)
        assert next(iter(self.store)) is entry

    @rule(limit=st.integers(0, 150))
    def shrink(self, limit):
        self.store.shrink(limit)

    @rule(names=tokens)
    def drop(self, names):
        self.store.drop(key_of(names))
        assert key_of(names) not in self.keys()

    def keys(self) -> list[bytes]:
        return [entry.key for entry in self.store]

    @invariant()
    def the_budget_is_kept_and_every_byte_counted(self):
        assert self.store.held_bytes == sum(entry.size_bytes for entry in self.store)
        assert self.store.held_bytes <= self.store.limit_bytes
        assert len(set(self.keys())) == len(self.keys()) == len(self.store)


TestStore = Store.TestCase


def test_what_was_never_used_goes_before_what_was_however_long_ago():
    system = prefix([1, 1, 1], 30)
    store = store_of(system)
    store.hit(system)
    for number in range(50):
        assert store.make_room(20)
        store.put(prefix([2, number], 20))
    assert store.longest(key_of([1, 1, 1, 5]), cut=False) == (system, 3)


def test_of_what_was_used_the_least_recent_goes_first():
    first, second = prefix([1], 50), prefix([2], 50)
    store = store_of(first, second)
    for entry in (second, first):
        store.hit(entry)
    assert store.make_room(50)
    assert list(store) == [first]


def test_what_was_used_once_does_not_stay_for_ever():
    old = [prefix([1, number], 20) for number in range(5)]
    store = store_of(*old)
    for entry in old:
        store.hit(entry)
    new = [prefix([2, number], 20) for number in range(5)]
    for entry in new:
        store.make_room(20)
        store.put(entry)
        store.hit(entry)
    assert set(store) == set(new)


def test_what_was_used_leaves_room_for_what_is_new():
    old = [prefix([1, number], 25) for number in range(4)]
    store = store_of(*old)
    for entry in old:
        store.hit(entry)
    assert sum(entry.size_bytes for entry in store._proven.values()) <= PROVEN_SHARE * LIMIT


def test_an_entry_larger_than_the_budget_costs_the_others_nothing():
    entry = prefix([1])
    store = store_of(entry)
    assert not store.make_room(LIMIT + 1)
    assert list(store) == [entry]


def test_an_entry_without_room_is_refused():
    store = store_of(prefix([1], 60))
    with pytest.raises(ValueError, match="no room"):
        store.put(prefix([2], 60))
    assert store.held_bytes == 60


def test_the_same_tokens_again_replace_the_entry():
    store = store_of(prefix([1], 60))
    again = prefix([1], 40)
    store.put(again)
    assert (list(store), store.held_bytes) == ([again], 40)


def test_of_two_that_save_the_same_the_smaller_is_taken():
    small, large = prefix([1, 2], 10), prefix([1, 2, 3], 20)
    for store in (store_of(small, large), store_of(large, small)):
        assert store.longest(key_of([1, 2, 4]), cut=True) == (small, 2)


def test_superseding_what_is_gone_changes_nothing():
    first, second = prefix([1]), prefix([2])
    store = store_of(first, second)
    store.drop(first.key)
    store.supersede(first)
    assert list(store) == [second]


def test_a_store_shrunk_to_nothing_is_empty_and_grows_again():
    store = store_of(prefix([1]), prefix([2]))
    store.shrink(0)
    assert (len(store), store.held_bytes, store.make_room(1)) == (0, 0, False)
    store.shrink(50)
    assert store.make_room(50)


def test_what_saves_too_little_is_not_found():
    entry, short = prefix([1, 2, 3, 4, 5, 6, 7]), prefix([8, 9, 8, 9])
    store = store_of(entry, short)
    assert store.longest(key_of([1, 2, 5]), cut=True, least=3) is None
    assert store.longest(key_of([1, 2, 3, 5]), cut=True, least=3) == (entry, 3)
    assert store.longest(key_of([8, 1]), cut=True, least=3) is None
    assert store.longest(key_of([8, 9, 1]), cut=True, least=3) == (short, 2), "half of what is copied"


def test_the_same_tokens_again_stay_as_useful_to_as_many():
    first, newcomer = prefix([1], 30), prefix([2], 30)
    store = store_of(first, newcomer)
    store.hit(first)
    again = prefix([1], 30, shared=False)
    store.put(again)
    assert list(store) == [newcomer, again]
    assert again.shared


def test_what_has_no_room_supersedes_nothing():
    one, other = prefix([1]), prefix([2])
    store = store_of(one, other)
    assert not store.make_room(LIMIT + 1, instead_of=other)
    assert list(store) == [one, other]
    assert store.make_room(LIMIT - 10, instead_of=other)
    assert list(store) == [one]
