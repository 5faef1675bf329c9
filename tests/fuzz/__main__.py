"""`python -m tests.fuzz TARGET [options of libFuzzer]` fuzzes one reader of bytes from outside with atheris.

A target is a module of this folder: ``check(data)`` raises when what reads ``data`` did what it must not,
``WORDS`` are what the fuzzer may put together and, where that is JSON, ``split(data)`` is where it begins.
`make fuzz` runs them all. What they find belongs, cut down, into ``corpus``, which the unit tests replay.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz.json_mutation import mutate

if TYPE_CHECKING:
    from collections.abc import Iterable

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path("build/fuzz")  # new inputs, and what made a target fail
BOUNDS = ("-max_total_time=120", "-max_len=4096", "-timeout=10", "-rss_limit_mb=512")

# target → packages whose branches guide the fuzzer
TARGETS = {
    "gguf_header": ("edgectl.models",),
    "mqtt_message": ("edged.transports.mqtt", "edged.api"),
    "mqtt_packets": ("edged.transports.mqtt", "paho"),
    "http_request": ("edged.transports.http", "edged.api"),
    "ipc_frames": ("edged.ipc",),
}


def main() -> None:
    """Hand the command line to libFuzzer; a bound in it replaces ours."""
    import atheris

    program, name, *options = sys.argv
    with atheris.instrument_imports(include=list(TARGETS[name])):
        target = importlib.import_module(f"tests.fuzz.{name}")

    def check(data: bytes) -> None:
        target.check(data)  # libFuzzer takes a returned value for a status

    def change(data: bytes, most_bytes: int, seed: int) -> bytes:
        at = target.split(data)
        changed = mutate(data[at:], target.WORDS, seed, lambda text: atheris.Mutate(text, len(text) + 8))
        if changed is None or at + len(changed) > most_bytes or seed % 4 == 0:
            return bytes(atheris.Mutate(data, most_bytes))
        return data[:at] + changed

    grown, words = FOUND / name, FOUND / f"{name}.dict"
    grown.mkdir(parents=True, exist_ok=True)
    words.write_text(dictionary(target.WORDS))
    own = {"custom_mutator": change} if hasattr(target, "split") else {}
    places = (f"-dict={words}", f"-artifact_prefix={FOUND}/{name}-")
    atheris.Setup([program, *BOUNDS, *places, *options, str(grown), str(CORPUS / name)], check, **own)
    atheris.Fuzz()


def dictionary(words: Iterable[str | bytes]) -> str:
    """``words`` as libFuzzer reads them."""
    raw = (word.encode() if isinstance(word, str) else word for word in words)
    return "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in raw)


if __name__ == "__main__":
    main()
