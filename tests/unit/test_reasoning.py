"""A thought is told apart from the answer, however the text is cut into pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edged.worker.reasoning import CLOSE, ENOUGH, OPEN, Thought, opened_by

CUTS = st.lists(st.integers(0, 200), max_size=30)
# Words and the pieces that tags are made of, so that near misses are common.
TEXT = st.lists(
    st.sampled_from([OPEN, CLOSE, "<", "think", "</", ">", "<tool_call>", "<tool", " ", "\n", "é", "Hm."]),
    max_size=12,
).map("".join)


def split(text: str, cuts: list[int], **how) -> tuple[str, str]:
    thought = Thought(**{"opened": False, **how})
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [thought.push(text[start:end]) for start, end in itertools.pairwise(edges)]
    pieces.append(thought.finish())
    return "".join(piece[0] for piece in pieces), "".join(piece[1] for piece in pieces)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("Hello", "", "Hello"),
        ("  Hello", "", "  Hello"),
        ("<think>\nHm.\n</think>\n\nHello", "Hm.", "Hello"),
        ("\n<think>Hm.</think>Hello ", "Hm.", "Hello "),
        ("<think>\n\n</think>\n\nHello", "", "Hello"),
        ("<think>a\n b</think>", "a\n b", ""),
        ("<think>never closed \n", "never closed", ""),
        ("<thinking>no</thinking>", "", "<thinking>no</thinking>"),
        ("The tag <think> is text here</think>", "", "The tag <think> is text here</think>"),
        ("<thi", "", "<thi"),
        ("", "", ""),
    ],
)
def test_a_thought_stands_at_the_beginning_between_its_tags(text, reasoning, answer):
    assert split(text, []) == (reasoning, answer)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("Hm.\n</think>\n\nHello", "Hm.", "Hello"),
        ("</think>Hello", "", "Hello"),
        ("Hm. </think", "Hm. </think", ""),
    ],
)
def test_a_template_may_have_opened_it_in_the_prompt(text, reasoning, answer):
    assert split(text, [], opened=True) == (reasoning, answer)


def test_a_tool_call_ends_a_thought_that_was_never_closed_and_belongs_to_the_answer():
    text = "I need the weather.\n<tool_call>{}"
    assert split(text, [], opened=True, also_ends=("<tool_call>",)) == (
        "I need the weather.",
        "<tool_call>{}",
    )
    assert split(text, [], opened=True) == (text, "")


@given(TEXT, CUTS, st.booleans(), st.sampled_from([(), ("<tool_call>",)]))
@example(text="<think>a</think> b", cuts=list(range(20)), opened=False, also_ends=())
def test_where_the_text_is_cut_does_not_matter(text, cuts, opened, also_ends):
    how = {"opened": opened, "also_ends": also_ends}
    assert split(text, cuts, **how) == split(text, [], **how)


@given(TEXT, CUTS, st.booleans())
def test_nothing_but_tags_and_blanks_around_them_is_lost(text, cuts, opened):
    reasoning, answer = split(text, cuts, opened=opened)
    rest = text.lstrip().removeprefix(OPEN) if not opened and reasoning else text
    joined = "".join((reasoning + answer).split())
    assert joined in {"".join(rest.replace(CLOSE, "", 1).split()), "".join(rest.split())} or (
        not reasoning and joined in "".join(text.split())
    )


def test_the_state_says_whether_the_answer_has_begun():
    thought = Thought(opened=False)
    states = []
    for piece in ("\n", "<think>", "a", "</think>", "\n\n", "b"):
        thought.push(piece)
        states.append(thought.state)
    assert states == ["undecided", "thinking", "thinking", "between", "between", "answering"]


def test_the_prompt_opens_a_thought_only_at_its_very_end():
    assert opened_by("<|im_start|>assistant\n<think>\n")
    assert not opened_by("<think>\n\n</think>\n\n")
    assert not opened_by("What does <think> mean?<|im_end|>\n<|im_start|>assistant\n")


def test_the_words_that_end_a_thought_close_it():
    reasoning, answer = split("Let me see" + ENOUGH + "42", [], opened=True)
    assert reasoning.startswith("Let me see\n\nConsidering")
    assert answer == "42"
