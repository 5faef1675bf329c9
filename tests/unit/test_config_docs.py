from __future__ import annotations

from typing import get_type_hints

import pytest
from msgspec import Struct

from edged.api.config import Config
from edged.api.config_docs import EXPLANATIONS


def keys_of(kind: type[Struct], prefix: str = "") -> list[str]:
    keys = []
    for name, wanted in get_type_hints(kind).items():
        keys.append(f"{prefix}{name}")
        if isinstance(wanted, type) and issubclass(wanted, Struct):
            keys += keys_of(wanted, f"{prefix}{name}.")
    return keys


def test_every_key_of_the_configuration_is_explained_and_nothing_else():
    assert sorted(EXPLANATIONS) == sorted(keys_of(Config))


@pytest.mark.parametrize("key", EXPLANATIONS)
def test_an_explanation_is_one_sentence_of_its_own(key):
    text = EXPLANATIONS[key]
    assert text.endswith((".", "..."))
    assert "\n" not in text
    assert list(EXPLANATIONS.values()).count(text) == 1
