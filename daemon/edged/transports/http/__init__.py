"""Requests over HTTP: the OpenAI dialect, health and status."""

from edged.transports.http.server import HttpTransport

__all__ = ["HttpTransport"]
