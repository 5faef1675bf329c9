"""Messages and tools as chat templates expect them, and text in them that only looks like a control token."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edged.worker.refused import Refused
from edged.worker.tools import CALL, END_CALL, parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from edged.api.requests import Message, Tool, ToolCall

# Code points that are reserved for use inside a program and stand for no character.
MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))

# For templates that have no words for tools. These are the words that Hermes and Qwen models know.
_INTRODUCTION = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> \
XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


class Guard:
    """Finds the names of control tokens in what people and programs say.

    ``names`` are those of the model. A mark behind the first character of each keeps the tokenizer, which is
    given the text cut at the marks, from taking it for the token.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name for name in names if len(name) > 1)
        self._first = frozenset(name[0] for name in self._names)
        self._lengths = sorted({len(name) for name in self._names})

    def mark(self, text: str, mark: str) -> str:
        cuts = [
            index + 1
            for index, char in enumerate(text)
            if char in self._first and any(text[index : index + n] in self._names for n in self._lengths)
        ]
        return mark.join(text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True))


def unused_mark(texts: Iterable[str]) -> str:
    """A mark that is in none of ``texts``. Raises Refused when they hold them all."""
    free = set(MARKS)
    for text in texts:
        free.difference_update(text)
    if not free:
        raise Refused("messages: they hold every one of the code points U+FDD0 to U+FDEF")
    return min(free)


def told(messages: Sequence[Message], say: Callable[[str], str]) -> list[dict[str, Any]]:
    """The messages for a template that knows tools; ``say`` marks what people and programs said."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return [_told(message, names, say) for message in messages]


def offered(tools: Sequence[Tool], say: Callable[[str], str]) -> list[dict[str, Any]]:
    """The tools for a template that knows them."""
    return [
        {
            "type": "function",
            "function": {
                "name": say(tool.name),
                "description": say(tool.description),
                "parameters": _marked(parameters(tool) or {"type": "object", "properties": {}}, say),
            },
        }
        for tool in tools
    ]


def in_words(
    messages: Sequence[Message], tools: Sequence[Tool], say: Callable[[str], str]
) -> list[dict[str, Any]]:
    """The messages for a template that knows no tools: calls and their results are text of the turns."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        content = say(message.content)
        role = "user" if message.role == "tool" else message.role
        if message.role == "tool":
            content = f"<tool_response>\n{content}\n</tool_response>"
            if turns and turns[-1]["result"]:
                turns[-1]["content"] += f"\n{content}"
                continue
        calls = [f"{CALL}\n{_called(call, say)}\n{END_CALL}" for call in message.tool_calls]
        content = "\n".join([*([content] if content or not calls else []), *calls])
        turns.append({"role": role, "content": content, "result": message.role == "tool"})
    if tools:
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in offered(tools, say))
        words = _INTRODUCTION.format(tools=listed)
        if turns and turns[0]["role"] == "system":
            turns[0]["content"] += f"\n\n{words}"
        else:
            turns.insert(0, {"role": "system", "content": words})
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _told(message: Message, names: dict[str, str], say: Callable[[str], str]) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": say(message.content)}
    if message.reasoning:
        turn["reasoning_content"] = say(message.reasoning)
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": say(call.id),
                "type": "function",
                "function": {"name": say(call.name), "arguments": _marked(_arguments(call), say)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        name = names.get(message.tool_call_id, "")
        turn |= {"tool_call_id": say(message.tool_call_id), "name": say(name)}
    return turn


def _called(call: ToolCall, say: Callable[[str], str]) -> str:
    said = {"name": say(call.name), "arguments": _marked(_arguments(call), say)}
    return json.dumps(said, ensure_ascii=False)


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise Refused(f"messages: the arguments of the call {call.name!r} are no JSON object")
    return arguments


def _marked(value: Any, say: Callable[[str], str]) -> Any:
    """``value``, a JSON tree, with every text in it marked."""
    if isinstance(value, str):
        return say(value)
    if isinstance(value, list):
        return [_marked(item, say) for item in value]
    if isinstance(value, dict):
        return {say(key): _marked(item, say) for key, item in value.items()}
    return value


def texts_of(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[str]:
    """Every text that a mark might be in; JSON as it is written may hide one behind an escape."""
    for message in messages:
        yield message.content
        yield message.reasoning
        yield message.tool_call_id
        for call in message.tool_calls:
            yield from (call.id, call.name)
            yield from _strings(_arguments(call))
    for tool in tools:
        yield tool.description
        yield from _strings(parameters(tool))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
