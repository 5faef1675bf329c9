"""What the answers of HTTP look like, for `/openapi.json` alone; tests hold real answers against it."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from edged.api.events import FinishReason, Score, Timings
from edged.api.status import Condition, ServiceState


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exactly these fields."""


class ErrorDetail(Answer, frozen=True, kw_only=True):
    """``param`` is the field at fault; ``retry_after_s`` seconds make another try worth while."""

    message: str
    type: str
    code: str
    param: str | None
    retry_after_s: float | UnsetType = UNSET


class ErrorObject(Answer, frozen=True, kw_only=True):
    error: ErrorDetail


class OllamaError(Answer, frozen=True, kw_only=True):
    error: str


# --- about the box ------------------------------------------------------------------------


class Alive(Answer, frozen=True, kw_only=True):
    alive: bool


class Readiness(Answer, frozen=True, kw_only=True):
    ready: bool
    state: ServiceState
    conditions: list[Condition] = []  # where keys are asked for, only to who has one


class Index(Answer, frozen=True, kw_only=True):
    name: Literal["edged"]
    version: str
    routes: dict[str, list[str]]


class Model(Answer, frozen=True, kw_only=True):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Answer, frozen=True, kw_only=True):
    object: Literal["list"]
    data: list[Model]


# --- answers of the model -----------------------------------------------------------------


class CachedTokens(Answer, frozen=True, kw_only=True):
    cached_tokens: int


class ReasoningTokens(Answer, frozen=True, kw_only=True):
    reasoning_tokens: int


class UsageObject(Answer, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens | UnsetType = UNSET


class AnswerHead(Answer, frozen=True, kw_only=True):
    id: str
    created: int
    model: str


class WholeAnswer(AnswerHead, frozen=True, kw_only=True):
    usage: UsageObject
    timings: Timings


class Called(Answer, frozen=True, kw_only=True):
    name: str
    arguments: str


class Call(Answer, frozen=True, kw_only=True):
    id: str
    type: Literal["function"]
    function: Called


class CalledPiece(Answer, frozen=True, kw_only=True):
    name: str | UnsetType = UNSET
    arguments: str


class CallPiece(Answer, frozen=True, kw_only=True):
    """Only the first piece of a call has its id and name; all arguments of one index joined are its own."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: CalledPiece


class LikelyToken(Answer, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]


class DrawnToken(LikelyToken, frozen=True, kw_only=True):
    top_logprobs: list[LikelyToken]


class ChatLogprobs(Answer, frozen=True, kw_only=True):
    content: list[DrawnToken]
    refusal: None


class TextLogprobs(Answer, frozen=True, kw_only=True):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AnswerMessage(Answer, frozen=True, kw_only=True):
    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[Call] | UnsetType = UNSET


class ChatChoice(Answer, frozen=True, kw_only=True):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(WholeAnswer, frozen=True, kw_only=True):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class ChunkDelta(Answer, frozen=True, kw_only=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallPiece] | UnsetType = UNSET


class ChunkChoice(Answer, frozen=True, kw_only=True):
    index: int
    delta: ChunkDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(AnswerHead, frozen=True, kw_only=True):
    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: UsageObject | UnsetType | None = UNSET
    timings: Timings | UnsetType = UNSET


class TextChoice(Answer, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class TextCompletion(WholeAnswer, frozen=True, kw_only=True):
    object: Literal["text_completion"]
    choices: list[TextChoice]


class TextCompletionChunk(AnswerHead, frozen=True, kw_only=True):
    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: UsageObject | UnsetType | None = UNSET
    timings: Timings | UnsetType = UNSET


class Classification(WholeAnswer, frozen=True, kw_only=True):
    object: Literal["classification"]
    choice: str
    scores: list[Score]


class Vector(Answer, frozen=True, kw_only=True):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class VectorList(WholeAnswer, frozen=True, kw_only=True):
    object: Literal["list"]
    data: list[Vector]


class ResponseUsage(Answer, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseObject(Struct, frozen=True, kw_only=True):
    """OpenAI's response; what the request asked for stands beside these fields."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    output: list[dict[str, Any]]
    usage: ResponseUsage | None
    timings: Timings | UnsetType = UNSET


class ResponseEvent(Struct, frozen=True, kw_only=True):
    """One of OpenAI's typed events, numbered from 0."""

    type: str
    sequence_number: int


class Document(Struct, frozen=True, kw_only=True):
    """An OpenAPI document."""

    openapi: Literal["3.1.0"]
    info: dict[str, Any]
    paths: dict[str, Any]
