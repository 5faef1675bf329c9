"""One compute step: the budget is kept, nobody starves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edged.worker.batch import Work, plan_step


@st.composite
def works(draw):
    """Work in order of arrival, and a budget that the configuration rules allow: at least one a slot."""
    kinds = draw(st.lists(st.booleans(), max_size=12))
    work = [
        Work(
            slot=slot,
            pending=1 if decoding else draw(st.integers(1, 300)),
            decoding=decoding,
            stops=not decoding and draw(st.booleans()),
            priority=draw(st.integers(0, 9)),
        )
        for slot, decoding in enumerate(kinds)
    ]
    return work, draw(st.integers(max(1, len(work)), 128))


@given(works(), st.booleans())
def test_the_budget_is_kept_and_no_other_prompt_ends_in_what_is_left_of_it(case, oldest_first):
    work, budget = case
    shares = {share.slot: share.tokens for share in plan_step(work, budget, oldest_first=oldest_first)}
    left = budget - sum(shares.values())
    assert left >= 0
    most = max((item.priority for item in work if item.slot not in shares), default=None)
    assert all(item.pending > left for item in work if item.slot not in shares and item.priority == most)


@given(works(), st.booleans())
def test_one_prompt_at_most_is_cut_and_only_where_the_step_ends(case, oldest_first):
    """A piece that fills a step would be evaluated in a pass of its own."""
    work, budget = case
    shares = plan_step(work, budget, oldest_first=oldest_first)
    pending = {item.slot: item.pending for item in work}
    cut = [share for share in shares if share.tokens < pending[share.slot]]
    assert len(cut) <= 1
    if cut:
        assert sum(share.tokens for share in shares) == budget


@given(works())
def test_every_decoding_slot_is_served_in_every_step(case):
    work, budget = case
    served = {share.slot for share in plan_step(work, budget)}
    assert {item.slot for item in work if item.decoding} <= served


@given(works())
def test_a_share_is_at_least_one_token_and_at_most_what_is_pending_and_last_says_when_it_is_all(case):
    work, budget = case
    pending = {item.slot: item.pending for item in work}
    shares = plan_step(work, budget)
    assert len({share.slot for share in shares}) == len(shares)
    for share in shares:
        assert 1 <= share.tokens <= pending[share.slot]
        assert share.last == (share.tokens == pending[share.slot] and not work[share.slot].stops)


@given(works())
def test_prompts_stand_in_order_of_arrival_behind_what_decodes(case):
    work, budget = case
    decoding = {item.slot for item in work if item.decoding}
    slots = [share.slot for share in plan_step(work, budget)]
    assert slots == sorted(slots, key=lambda slot: (slot not in decoding, slot))


@given(works())
def test_the_oldest_prompt_has_all_it_can_take_when_its_turn_comes(case):
    work, budget = case
    prompts = [item for item in work if not item.decoding]
    left = budget - (len(work) - len(prompts))
    if prompts and left:
        shares = plan_step(work, budget, oldest_first=True)
        (oldest,) = [share for share in shares if share.slot == prompts[0].slot]
        assert oldest.tokens == min(prompts[0].pending, left)


@given(works())
def test_prompts_together_take_no_more_steps_than_one_after_the_other(case):
    work, budget = case
    work = [item for item in work if not item.decoding]
    steps = 0
    limit = sum(-(-item.pending // budget) for item in work)
    while work:
        shares = {share.slot: share.tokens for share in plan_step(work, budget, oldest_first=steps % 4 == 3)}
        rest = [(item.slot, item.pending - shares.get(item.slot, 0)) for item in work]
        work = [Work(slot, pending, decoding=False) for slot, pending in rest if pending]
        steps += 1
    assert steps <= limit


def test_nothing_to_do_is_an_empty_step():
    assert plan_step([], 64) == []


@given(works())
def test_no_prompt_takes_part_while_a_more_urgent_one_is_not_done(case):
    work, budget = case
    shares = {share.slot: share.tokens for share in plan_step(work, budget)}
    for item in (item for item in work if not item.decoding and item.slot in shares):
        urgent = [one for one in work if not one.decoding and one.priority > item.priority]
        assert all(shares.get(one.slot, 0) == one.pending for one in urgent)
