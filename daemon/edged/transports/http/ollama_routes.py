"""The routes of Ollama's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edged.transports.http.at_once import AtOnce
from edged.transports.http.completions import Completions
from edged.transports.http.described import About, Described
from edged.transports.http.ollama import CHAT, GENERATE
from edged.transports.http.ollama_answers import Line
from edged.transports.http.ollama_models import (
    OllamaModels,
    RunningModels,
    Show,
    Shown,
    Tags,
    Version,
)
from edged.transports.http.ollama_vectors import Embed, Embeddings, OllamaVector, OllamaVectors

if TYPE_CHECKING:
    from edged.transports.http.connection import Patience
    from edged.transports.port import Service


def ollama_routes(service: Service, patience: Patience) -> list[Described]:
    """What Ollama has and makes sense here; changes of models are refused like unknown paths."""
    models, show = OllamaModels(service), Show(service)
    chat = _about("Continue a conversation.", CHAT.body, Line, stream=Line)
    generate = _about("Answer a question, or go on with a raw text.", GENERATE.body, Line, stream=Line)
    embed = _about("Make vectors of texts.", Embed.body, OllamaVectors)
    embeddings = _about("Make a vector of one text.", Embeddings.body, OllamaVector)
    return [
        Described("/api/version", models.version, _about("The version of the API.", None, Version)),
        Described("/api/tags", models.tags, _about("The model there is.", None, Tags)),
        Described("/api/ps", models.running, _about("The model that is loaded.", None, RunningModels)),
        Described(
            "/api/show", Completions(service, show, patience), _about("More about it.", show.body, Shown)
        ),
        Described("/api/chat", Completions(service, CHAT, patience), chat),
        Described("/api/generate", Completions(service, GENERATE, patience), generate),
        Described("/api/embed", AtOnce(service, Embed(), patience), embed),
        Described("/api/embeddings", AtOnce(service, Embeddings(), patience), embeddings),
    ]


def _about(summary: str, body: Any, answer: type, *, stream: type | str = "") -> About:
    return About(
        summary=summary,
        body=body,
        answer=answer,
        stream=stream,
        stream_media_type="application/x-ndjson",
        error="OllamaError",
    )
