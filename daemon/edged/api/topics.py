"""The topics of a node that a box and its clients both know."""

from __future__ import annotations

from msgspec import Struct


class NodeTopics(Struct, frozen=True):
    """``base`` may itself have levels ("site/hall/edged"). A client or op "+" makes a filter of a topic."""

    base: str
    node: str

    @property
    def root(self) -> str:
        return f"{self.base}/{self.node}"

    @property
    def status(self) -> str:
        return f"{self.root}/status"

    @property
    def info(self) -> str:
        return f"{self.root}/info"

    @property
    def health(self) -> str:
        return f"{self.root}/health"

    @property
    def ask(self) -> str:
        return f"{self.root}/ask"

    @property
    def answer(self) -> str:
        return f"{self.root}/answer"

    def request(self, client: str, op: str) -> str:
        return f"{self.root}/request/{client}/{op}"

    def response(self, client: str, op: str) -> str:
        return f"{self.root}/response/{client}/{op}"

    def stream(self, client: str) -> str:
        return f"{self.root}/stream/{client}"

    def cancel(self, client: str) -> str:
        return f"{self.root}/cancel/{client}"
