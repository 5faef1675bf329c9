"""The public client: one box, the same calls over HTTP and MQTT."""

from __future__ import annotations

import contextlib
import json
import secrets
from typing import TYPE_CHECKING, Any, Self, TypedDict

import msgspec

from edgectl.client.address import HttpAddress, parse
from edgectl.client.answer import Answer, AnswerStream, Classification, Embeddings
from edgectl.errors import Usage
from edged.api.errors import BadRequest
from edged.api.events import Finished
from edged.api.requests import ID_PATTERN, Message, Op, Request, Sampling, ScoringRule, Tool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Unpack

    from edgectl.client.port import Transport
    from edged.api.status import Info, Status

DEFAULT_TIMEOUT_S = 120.0  # a long prompt on a slow board takes a minute before its first token


class Terms(TypedDict, total=False):
    """When an answer is wanted, what is left out is the box's own default.

    ``ttl_s`` is how long the request is worth answering. ``priority`` goes from 0 (background) to 9 (urgent).
    ``timeout_s`` is how long to wait here.
    """

    ttl_s: float | None
    priority: int
    timeout_s: float | None


class Options(Terms, total=False):
    """What answers may set; what is left out is the box's own default.

    ``thinking`` lets models that can think aloud do so, for ``thinking_budget`` tokens. One of ``choices``,
    ``schema`` (a JSON schema, or its text) and ``json_mode`` says what the answer must look like. ``tools``
    are functions that the model may call: Tool, or "name", "description" and "parameters" (a JSON schema, or
    its text); ``tool_choice`` is auto, none, required or a name. ``logprobs`` is how many alternatives to
    tell beside each token. ``template`` names a system message of the box.
    """

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repeat_penalty: float | None
    seed: int | None
    stop: Iterable[str]
    thinking: bool | None
    thinking_budget: int | None
    choices: Iterable[str]
    schema: Mapping[str, Any] | str
    json_mode: bool
    tools: Iterable[Tool | Mapping[str, Any]]
    tool_choice: str
    parallel_tool_calls: bool
    logprobs: int | None
    template: str


class EdgeClient:
    """A box that runs edged, reached at ``url``.

    ``http://HOST:PORT`` and ``https://HOST`` take an ``api_key``; ``mqtt://[USER@]HOST[:PORT][/BASE/NODE]``
    and ``mqtts://`` (TLS) take the broker's ``password``. Without a node, the only one below the base is
    taken. ``ca_file`` names the certificate authority to trust instead of the system's; ``cert_file`` and
    ``cert_key_file`` are the certificate of this client and its key, where a broker asks for one.

    ``timeout_s`` bounds every wait: for the next piece of a stream, else for the whole answer. When it runs
    out, or the wait is interrupted, the request is cancelled on the box.

    ``client`` is the name the box files MQTT requests under (a topic segment, for broker ACLs); by default
    each object has a new one. Nothing is connected before the first call. One object may be used from
    several threads.

    Raises what the box says (the leaves of `edged.api.errors`; Busy has ``retry_after_s``), Unreachable when
    nothing answers, Expired when an answer took longer than ``timeout_s``, Unhealthy when what came back
    makes no sense, and Usage for a bad address.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        password: str | None = None,
        ca_file: Path | str | None = None,
        cert_file: Path | str | None = None,
        cert_key_file: Path | str | None = None,
        client: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        if not timeout_s > 0:
            raise Usage(f"timeout_s must be above 0, not {timeout_s}")
        if client is not None and not ID_PATTERN.fullmatch(client):
            raise Usage(f"client {client!r}: 1 to 64 characters of A-Z a-z 0-9 . _ : - are allowed")
        self.url = url
        self.timeout_s = timeout_s
        self._client = client or f"edgectl-{secrets.token_hex(6)}"
        authority = str(ca_file) if ca_file else None
        address = parse(url)
        self._transport: Transport
        if isinstance(address, HttpAddress):
            from edgectl.client.http import HttpTransport

            self._transport = HttpTransport(address, api_key=api_key, ca_file=authority)
        else:
            from edgectl.client.mqtt import MqttTransport

            self._transport = MqttTransport(
                address,
                client=self._client,
                shared=client is not None,
                password=password,
                ca_file=authority,
                cert_file=str(cert_file) if cert_file else None,
                cert_key_file=str(cert_key_file) if cert_key_file else None,
            )

    def generate(
        self, prompt: str, *, system: str | None = None, raw: bool = False, **options: Unpack[Options]
    ) -> Answer:
        """Answer ``prompt``; ``raw`` gives it to the model as it is, without the chat template."""
        return self._answer(self._of_prompt(prompt, system, options, raw=raw), options)

    def stream(
        self, prompt: str, *, system: str | None = None, raw: bool = False, **options: Unpack[Options]
    ) -> AnswerStream:
        """Like `generate`, piece by piece as the answer is written."""
        return self._stream(self._of_prompt(prompt, system, options, raw=raw), options)

    def chat(self, messages: Iterable[Message | Mapping[str, Any]], **options: Unpack[Options]) -> Answer:
        """Answer the last of ``messages``; each is a Message or has its fields, as "role" and "content"."""
        return self._answer(self._of_messages(messages, options), options)

    def stream_chat(
        self, messages: Iterable[Message | Mapping[str, Any]], **options: Unpack[Options]
    ) -> AnswerStream:
        """Like `chat`, piece by piece as the answer is written."""
        return self._stream(self._of_messages(messages, options), options)

    def classify(
        self,
        prompt: str,
        choices: Iterable[str],
        *,
        system: str | None = None,
        scoring: ScoringRule = "constrained",
        **terms: Unpack[Terms],
    ) -> Classification:
        """How likely each of ``choices`` is as the answer to ``prompt``; nothing is generated.

        ``scoring`` says what probabilities are made of, see `edged.api.requests.Request`.
        """
        fields = {"choices": tuple(choices), "scoring": scoring}
        event = self._finished(
            self._request("classify", terms, messages=_turns(prompt, system), **fields), terms
        )
        return Classification(
            choice=event.text, scores=event.scores, usage=event.usage, timings=event.timings
        )

    def embed(self, texts: str | Iterable[str], **terms: Unpack[Terms]) -> Embeddings:
        """Vectors of ``texts``, by a box whose model is loaded for it (``model.embeddings``)."""
        inputs = (texts,) if isinstance(texts, str) else tuple(texts)
        event = self._finished(self._request("embed", terms, inputs=inputs), terms)
        return Embeddings(vectors=event.embeddings, usage=event.usage, timings=event.timings)

    def status(self) -> Status:
        """The state of the box now: queue, speed, memory, conditions.

        Over MQTT it is what the box publishes: ``pid`` is then 0, and uptime, counters and the engine's
        process are not known.
        """
        return self._transport.status(self.timeout_s)

    def info(self) -> Info:
        """What the box is: model, limits, version."""
        return self._transport.info(self.timeout_s)

    def close(self) -> None:
        """Let go of connections and threads; what is still being answered is cancelled."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, request: Request, options: Options) -> Answer:
        return Answer.of(self._finished(request, options))

    def _finished(self, request: Request, terms: Terms) -> Finished:
        timeout_s = terms.get("timeout_s") or self.timeout_s
        with contextlib.closing(self._transport.submit(request, stream=False, timeout_s=timeout_s)) as events:
            return next(event for event in events if isinstance(event, Finished))

    def _stream(self, request: Request, options: Options) -> AnswerStream:
        timeout_s = options.get("timeout_s") or self.timeout_s
        return AnswerStream(self._transport.submit(request, stream=True, timeout_s=timeout_s))

    def _of_prompt(self, prompt: str, system: str | None, options: Options, *, raw: bool) -> Request:
        if not raw:
            return self._of_messages(_turns(prompt, system), options)
        if system is not None or options.get("thinking") is not None:
            raise BadRequest(
                "raw: the prompt is given as it is, so it takes no system message and no thinking"
            )
        return self._request("generate", options, prompt=prompt, **_wishes(options))

    def _of_messages(self, messages: Iterable[Message | Mapping[str, Any]], options: Options) -> Request:
        try:
            said = msgspec.convert(
                [msgspec.to_builtins(message) for message in messages], tuple[Message, ...]
            )
        except msgspec.ValidationError as error:
            raise BadRequest(f"messages: {error}") from None
        return self._request("chat", options, messages=said, **_wishes(options))

    def _request(self, op: Op, terms: Terms, **fields: Any) -> Request:
        try:
            return msgspec.convert(
                {
                    "id": secrets.token_hex(8),
                    "client": self._client,
                    "op": op,
                    "ttl_s": terms.get("ttl_s"),
                    "priority": terms.get("priority", 5),
                    **fields,
                },
                Request,
            )
        except msgspec.ValidationError as error:
            raise BadRequest(str(error).replace(" - at `$.", ": `")) from None


def _turns(prompt: str, system: str | None) -> tuple[Message, ...]:
    said = () if system is None else (Message(role="system", content=system),)
    return (*said, Message(role="user", content=prompt))


def _wishes(options: Options) -> dict[str, Any]:
    """Fields of the request that only answers in words have; what is left out keeps its default."""
    stop = options.get("stop") or ()
    return {
        "max_tokens": options.get("max_tokens"),
        "stop": (stop,) if isinstance(stop, str) else tuple(stop),
        "sampling": {name: options.get(name) for name in Sampling.__struct_fields__},
        "thinking": options.get("thinking"),
        "thinking_budget": options.get("thinking_budget"),
        "choices": tuple(options.get("choices") or ()),
        "schema": _json_text(options.get("schema") or ""),
        "json_mode": options.get("json_mode", False),
        "tools": [_tool(tool) for tool in options.get("tools") or ()],
        "tool_choice": options.get("tool_choice", "auto"),
        "parallel_tool_calls": options.get("parallel_tool_calls", True),
        "logprobs": options.get("logprobs"),
        "template": options.get("template", ""),
    }


def _tool(tool: Tool | Mapping[str, Any]) -> Any:
    said = msgspec.to_builtins(tool)
    return (
        {**said, "parameters": _json_text(said.get("parameters") or "")} if isinstance(said, dict) else said
    )


def _json_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
