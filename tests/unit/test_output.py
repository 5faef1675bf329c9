"""From tokens to messages: channels, calls, probabilities and the end, however tokens cut the bytes."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edged.api.events import whole_calls
from edged.api.requests import Sampling, Tool
from edged.ipc.messages import EngineOptions, Start
from edged.worker.backends.fake import END, FakeBackend, Script
from edged.worker.constrain import Forms
from edged.worker.output import Output

CUTS = st.lists(st.integers(0, 300), max_size=40)
CALL = '<tool_call>{"name": "ping", "arguments": {"x": "é"}}</tool_call>'
WORDS = [
    *("<think>", "</think>", CALL, "<tool_call>", "STOP", "ST", "OP", "é€😀", "a b", "\n", "<"),
    "��",
]
TEXT = st.lists(st.sampled_from(WORDS), max_size=10).map("".join)


class Pieces(FakeBackend):
    """The scripted engine with a vocabulary of its own: token n stands for ``pieces[n]``."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__(Script(), EngineOptions(context=4096, slots=1, ubatch=64, threads=1))
        self.pieces = pieces

    def piece(self, token: int) -> bytes:
        return self.pieces[token] if token < len(self.pieces) else b"prompt"

    def top(self, row: int, count: int) -> list[int]:
        return list(range(count))

    def log_probabilities(self, row: int, tokens) -> list[float]:
        return [-float(token) for token in tokens]


class Said:
    """What a client makes of the messages of one answer."""

    def __init__(self, data: bytes, cuts: list[int], *, end: bool = True, room: int = 4096, **order) -> None:
        edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
        self.pieces = [data[start:stop] for start, stop in itertools.pairwise(edges)]
        tools = (Tool(name="ping"),) if order.pop("tools", False) else ()
        start = Start(key=7, max_tokens=4096, sampling=Sampling(), tools=tools, **order)
        output = Output(Pieces(self.pieces), start, [999], room)
        self.messages = []
        for token in [*range(len(self.pieces)), *([END] if end else [])]:
            self.messages += output.push(token, token)
            if output.ended:
                break
        else:
            self.messages += output.finish()
        self.ended = output.ended
        self.text = self.channel("text")
        self.reasoning = self.channel("reasoning")
        self.calls = whole_calls(piece for message in self.messages for piece in message.tool_calls)
        self.logprobs = [one for message in self.messages for one in message.logprobs]

    def channel(self, name: str) -> str:
        return "".join(message.text for message in self.messages if message.channel == name)


@given(st.binary(max_size=80), CUTS)
def test_no_stream_holds_a_broken_code_point_and_the_pieces_joined_are_the_text(data, cuts):
    said = Said(data, cuts, op="generate")
    assert said.text == data.decode("utf-8", "replace")
    for message in said.messages:
        message.text.encode()


@given(st.text(max_size=40), CUTS)
def test_a_whole_text_never_shows_a_replacement_character_it_has_not(text, cuts):
    said = Said(text.encode(), cuts, op="generate")
    assert sum(message.text.count("�") for message in said.messages) == text.count("�")


@given(TEXT, CUTS, st.booleans(), st.sampled_from([(), ("STOP",)]))
@example(text="STOP" + CALL, cuts=[4], tools=True, stop=("STOP",))
@example(text=CALL + "STOP" + CALL, cuts=[1], tools=True, stop=("STOP",))
def test_where_tokens_cut_the_bytes_changes_nothing_that_is_said(text, cuts, tools, stop):
    data = text.encode()
    cut, whole = (Said(data, where, tools=tools, stop=stop) for where in (cuts, []))
    assert (cut.text, cut.reasoning) == (whole.text, whole.reasoning)
    assert [call.arguments for call in cut.calls] == [call.arguments for call in whole.calls]
    assert "STOP" not in cut.text or not stop


def test_the_thought_is_a_channel_of_its_own():
    said = Said(b"<think>\nHm.\n</think>\n\nYes.", [7, 9, 14, 22])
    assert (said.reasoning, said.text, said.ended) == ("Hm.", "Yes.", "stop")


def test_a_raw_prompt_is_answered_raw():
    said = Said(b"<think>a</think>b", [], op="generate")
    assert (said.reasoning, said.text) == ("", "<think>a</think>b")


def test_stop_strings_count_in_the_answer_and_not_in_the_thought():
    said = Said(b"<think>one STOP</think>two STOP three", [], stop=("STOP",))
    assert (said.reasoning, said.text, said.ended) == ("one STOP", "two ", "stop")


def test_calls_are_told_and_are_why_the_answer_ends():
    said = Said(f"Wait.\n{CALL}\n{CALL}".encode(), [10, 20, 90], tools=True)
    assert said.text == "Wait."
    assert [(call.name, json.loads(call.arguments)) for call in said.calls] == [("ping", {"x": "é"})] * 2
    assert len({call.id for call in said.calls}) == 2
    assert said.ended == "tool_calls"


def test_a_client_that_wants_one_call_at_a_time_gets_one():
    data = f"{CALL}\n{CALL}".encode()
    for cuts in ([], list(range(0, 300, 7))):
        said = Said(data, cuts, tools=True, parallel_tool_calls=False)
        assert len(said.calls) == 1
        assert (said.text, said.ended) == ("", "tool_calls")


def test_a_call_is_told_while_it_is_said_and_held_to_its_form():
    text = '<tool_call>{"name": "ping", "arguments": {"x": "é'
    backend = Pieces([text.encode()[:-1], text.encode()[-1:], b'"}', b"}", b"</tool_call>", b" Done."])
    tools = (Tool(name="ping"),)
    output = Output(backend, Start(key=1, max_tokens=99, sampling=Sampling(), tools=tools), [999], 4096)
    assert output.allows is None
    told = []
    for token in range(5):
        (message,) = output.push(token, 0) or [None]
        told.append(message and [(piece.name, piece.arguments) for piece in message.tool_calls])
        held = output.allows is not None
        assert held == (token < 4)
        assert not held or (output.allows(token + 1) and not output.allows(END))
    assert told == [[("ping", ""), ("", '{"x": "')], [("", "é")], [("", '"}')], None, None]
    assert [message.text for message in output.push(5, 0)] == [" Done."]


def test_with_tool_choice_none_a_call_is_text():
    said = Said(CALL.encode(), [], tools=True, tool_choice="none")
    assert (said.text, said.calls, said.ended) == (CALL, (), "stop")


def test_an_answer_cut_at_its_length_tells_what_was_held_back():
    said = Said(b"yes <tool", [4], tools=True, room=2, stop=("</x>",))
    assert (said.text, said.ended) == ("yes <tool", "length")


def test_the_first_token_is_told_even_when_it_says_nothing():
    assert [message.text for message in Said(b"", []).messages] == [""]
    said = Said("é".encode(), [1], end=False)
    assert [message.text for message in said.messages] == ["", "é"]


def test_a_circle_ends_with_a_reason_of_its_own():
    class Same(Pieces):
        def piece(self, token: int) -> bytes:
            return b"la "

    output = Output(Same([]), Start(key=1, max_tokens=4096, sampling=Sampling()), [999], 4096)
    count = next(number for number in range(1, 4096) if output.push(5, 0) and output.ended)
    assert output.ended == "repetition"
    assert count < 300


@given(TEXT, CUTS)
def test_probabilities_are_those_of_the_answers_tokens_in_order(text, cuts):
    said = Said(text.encode(), cuts, op="generate", logprobs=2)
    assert [one.token for one in said.logprobs] == said.pieces
    assert [one.logprob for one in said.logprobs] == [-float(n) for n in range(len(said.pieces))]
    assert all(len(one.top) == 2 for one in said.logprobs)


def test_probabilities_of_the_thought_and_of_a_stop_string_are_not_told():
    said = Said(b"<think>Hm.</think>one two STOP three", [7, 10, 18, 22, 26, 28], stop=("STOP",), logprobs=0)
    assert [one.token for one in said.logprobs] == [b"one ", b"two "]
    assert said.logprobs[0].top == ()


@pytest.mark.parametrize("budget", [1, 3])
def test_a_thought_beyond_its_budget_is_closed_for_the_model(budget):
    start = Start(key=1, max_tokens=4096, sampling=Sampling(), thinking_budget=budget)
    backend = Pieces([b"<think>", b"a ", b"b ", b"c ", b"d "])
    output = Output(backend, start, [999], 4096)
    for token in range(budget):
        assert output.closing() == []
        output.push(token, 0)
    closing = output.closing()
    assert bytes(closing).decode().rstrip().endswith("</think>")
    output.feed([])
    backend.pieces = [bytes([byte]) for byte in range(256)]
    output.feed(closing)
    assert output.closing() == []
    assert [message.text for message in output.push(ord("4"), 0)] == ["4"]


def test_a_thought_is_not_closed_where_no_room_is_left_for_an_answer():
    start = Start(key=1, max_tokens=4096, sampling=Sampling(), thinking_budget=1)
    output = Output(Pieces([b"<think>"]), start, [999], 50)
    output.push(0, 0)
    assert output.closing() == []


def test_what_stands_on_both_sides_of_a_call_is_no_stop_string():
    said = Said(f"a{CALL}b".encode(), [1, 40], tools=True, stop=("ab",))
    assert (said.text, said.ended) == ("ab", "tool_calls")
    first = next(n for n, message in enumerate(said.messages) if message.tool_calls)
    assert "".join(message.text for message in said.messages[: first + 1]) == "a"


@pytest.mark.parametrize("form", ["hermes", "functions"])
def test_a_text_in_an_answer_of_a_form_that_looks_like_a_call_is_no_call(form):
    text = '"<tool_call>\\n<function=ping>\\n</function>\\n</tool_call>' + r'<tool_call>{\"name\": \"ping\"}"'
    order = Start(
        key=7, max_tokens=99, sampling=Sampling(), tools=(Tool(name="ping"),), schema='{"type": "string"}'
    )
    data = text.replace("\\n", "").encode()
    backend = Pieces([data[:20], data[20:]])
    output = Output(backend, order, [999], 99, Forms(form).read(order))
    messages = [*output.push(0, 0), *output.push(1, 1), *output.finish()]
    assert "".join(message.text for message in messages) == data.decode()
    assert not any(message.tool_calls for message in messages)
