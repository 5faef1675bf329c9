"""Talk to a box that runs edged, over HTTP or MQTT.

    from edgectl.client import ChatSession, EdgeClient

    with EdgeClient("http://127.0.0.1:8642") as client:
        print(client.generate("Is the hall light on?", max_tokens=40).text)
        print(client.classify("The pump hums at 4 bar.", ["fine", "call someone"]).choice)

Importing this loads neither httpx nor paho-mqtt; the first call over either does.
"""

from __future__ import annotations

from edgectl.client.answer import Answer, AnswerStream, Classification, Embeddings
from edgectl.client.edge_client import EdgeClient
from edgectl.client.session import ChatSession
from edgectl.errors import EdgeError, Unauthorized, Unhealthy, Unreachable

__all__ = [
    "Answer",
    "AnswerStream",
    "ChatSession",
    "Classification",
    "EdgeClient",
    "EdgeError",
    "Embeddings",
    "Unauthorized",
    "Unhealthy",
    "Unreachable",
]
