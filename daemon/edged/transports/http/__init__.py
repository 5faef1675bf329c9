"""Requests over HTTP in the dialects of OpenAI and Ollama, health and status."""

from edged.transports.http.server import HttpTransport

__all__ = ["HttpTransport"]
