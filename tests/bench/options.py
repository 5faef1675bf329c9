"""What a person chose on the command line, and what every scenario is given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from tests.bench.conditions import LLAMA_CPP_PYTHON, LLAMA_SERVER
from tests.bench.models import replica_model, smollm2_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.models import Model

PEERS = (LLAMA_SERVER, LLAMA_CPP_PYTHON)
MODELS = ("smollm2", "replica")


class Options(Struct, frozen=True, kw_only=True):
    """``folder`` is empty and on a disk; ``quick`` shrinks everything to prove that a bench works."""

    folder: Path
    quick: bool = False
    rounds: int = 0
    threads: int = 0
    models: tuple[str, ...] = MODELS
    peers: tuple[str, ...] = PEERS
    native: bool = False  # llama-server compiled for this CPU

    def count(self, full: int, quick: int) -> int:
        """A size of a scenario: tokens, requests."""
        return quick if self.quick else full

    def rounds_of(self, full: int) -> int:
        return self.rounds or (1 if self.quick else full)

    def open_models(self, *names: str) -> Iterator[Model]:
        """Those of ``names`` that were chosen, one after the other."""
        for name in names:
            if name not in self.models:
                continue
            opened = smollm2_model() if name == "smollm2" else replica_model(self.folder, quick=self.quick)
            with opened as model:
                yield model


def say(text: str) -> None:
    """Progress, for people; results go to standard output."""
    print(f"  {text}", file=sys.stderr, flush=True)
