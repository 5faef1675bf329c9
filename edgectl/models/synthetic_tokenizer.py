"""A made-up tokenizer as large as a real one: what a model without text needs to be loaded and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgectl.errors import DataInvalid
from edgectl.models.gguf_metadata import Array
from edgectl.models.gguf_types import STRING
from edgectl.models.gguf_writer import INT32

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgectl.models.gguf_metadata import Value

__all__ = ["CHAT_TEMPLATE", "tokenizer_metadata"]

# Token types, `enum llama_token_type` of llama.h.
NORMAL: Final = 1
CONTROL: Final = 3
USER_DEFINED: Final = 4
UNUSED: Final = 5

# Qwen3.5's first special tokens, in order. Of its 248,320 tokens the last 276 are special or padding.
SPECIALS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
RESERVED: Final = 276
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Letters of one byte and, for the languages that need two bytes a letter, of two.
_LETTERS: Final = "".join(map(chr, (*range(0x61, 0x7B), *range(0xC0, 0xC0 + 46))))
# Words of 4 and 8 letters in percent; the rest has 16. Letters and shares together make a header as large as
# Qwen3.5's published ones, within 0.1 %, and decoded words of 7.1 bytes, as its load logs give them; so the
# tokenizer takes the memory of the real one.
FOUR_LETTERS: Final = 53
EIGHT_LETTERS: Final = 32


def tokenizer_metadata(vocab: int, pre: str = "qwen35") -> dict[str, Value]:
    """The keys of a byte-level BPE tokenizer with ``vocab`` tokens; ``pre`` names its splitting rule.

    Every text can be tokenized: all bytes are tokens, and every other word has its merge. Raises DataInvalid
    when ``vocab`` has no room for them.
    """
    reserved = RESERVED if vocab >= 1 << 16 else len(SPECIALS)
    count = vocab - reserved - 256
    if count < 0:
        raise DataInvalid(
            f"a vocabulary of {vocab} tokens has no room for all bytes",
            hint=f"at least {256 + len(SPECIALS)} tokens are needed",
        )
    words = list(_words(count))
    specials = [*SPECIALS, *(f"[PAD{index}]" for index in range(reserved - len(SPECIALS)))]
    kinds = [CONTROL] * 3 + [USER_DEFINED] * 2 + [UNUSED] * (reserved - len(SPECIALS))
    first_special = vocab - reserved
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": _array(STRING, [*_byte_tokens(), *(a + b for a, b in words), *specials]),
        "tokenizer.ggml.token_type": _array(INT32, [NORMAL] * first_special + kinds),
        "tokenizer.ggml.merges": _array(STRING, [f"{a} {b}" for a, b in words]),
        "tokenizer.ggml.bos_token_id": first_special,
        "tokenizer.ggml.eos_token_id": first_special + 2,
        "tokenizer.ggml.padding_token_id": first_special,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _array(kind: int, items: list[str] | list[int]) -> Array:
    return Array(kind, len(items), tuple(items))


def _byte_tokens() -> Iterator[str]:
    """One printable character a byte, as byte-level BPE writes them: itself, or one from U+0100 on."""
    shifted = 0
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE:
            yield chr(byte)
        else:
            yield chr(0x100 + shifted)
            shifted += 1


def _words(count: int) -> Iterator[tuple[str, str]]:
    """``count`` different words, as the two shorter ones that each is merged from, which came before it."""
    level = [(a, b) for a in _LETTERS for b in _LETTERS][:count]
    yield from level
    for wanted in _levels(count - len(level)):
        shorter = [a + b for a, b in level]
        level = [_pair(shorter, index) for index in range(wanted)]
        yield from level


def _levels(count: int) -> tuple[int, int, int]:
    """How many of ``count`` words have 4, 8 and 16 letters."""
    if count < 1000:  # too few short ones to build longer ones from
        return count, 0, 0
    four, eight = count * FOUR_LETTERS // 100, count * EIGHT_LETTERS // 100
    return four, eight, count - four - eight


def _pair(words: list[str], index: int) -> tuple[str, str]:
    """The ``index``-th of all ordered pairs, each of them once."""
    row, column = divmod(index, len(words))
    return words[column], words[(column + row) % len(words)]
