"""Requests as edged's HTTP reads them: the OpenAI dialect, and what edged adds to it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec
from msgspec import Raw

from edged.api.requests import Op, ToolChoice

if TYPE_CHECKING:
    from edged.api.requests import Message, Request, Tool

PATHS: dict[Op, str] = {
    "chat": "/v1/chat/completions",
    "generate": "/v1/completions",
    "classify": "/v1/classify",
    "embed": "/v1/embeddings",
}


def body(request: Request, *, stream: bool) -> bytes:
    """The JSON of ``request``; what it leaves open is left out, so that the box's defaults hold."""
    asked: dict[str, Any] = {
        "id": request.id,
        "ttl_s": request.ttl_s,
        "priority": None if request.priority == 5 else request.priority,
        "messages": [_turn(message) for message in request.messages] or None,
        "prompt": request.prompt or None,
        "choices": list(request.choices) or None,
    }
    if request.op == "classify":
        asked["scoring"] = request.scoring
    elif request.op == "embed":
        asked |= {"input": list(request.inputs), "encoding_format": "base64"}
    else:
        asked |= _wishes(request)
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode({name: value for name, value in asked.items() if value is not None})


def _wishes(request: Request) -> dict[str, Any]:
    """What only answers in words have."""
    wishes: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "stop": list(request.stop) or None,
        "template": request.template or None,
        "thinking_budget": request.thinking_budget,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "parallel_tool_calls": None if request.parallel_tool_calls else False,
        **msgspec.to_builtins(request.sampling),
    }
    if request.thinking is not None:
        wishes["chat_template_kwargs"] = {"enable_thinking": request.thinking}
    if request.schema:
        schema = {"name": "answer", "schema": Raw(request.schema.encode())}
        wishes["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif request.json_mode:
        wishes["response_format"] = {"type": "json_object"}
    if request.tool_choice in get_args(ToolChoice):
        wishes["tool_choice"] = None if request.tool_choice == "auto" else request.tool_choice
    else:
        wishes["tool_choice"] = {"type": "function", "function": {"name": request.tool_choice}}
    if request.logprobs is not None:
        chat = {"logprobs": True, "top_logprobs": request.logprobs}
        wishes |= chat if request.op == "chat" else {"logprobs": request.logprobs}
    return wishes


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        function["parameters"] = Raw(tool.parameters.encode())
    return {"type": "function", "function": function}
