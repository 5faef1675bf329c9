"""Reads the text that a command sends to a box: from the command line, a file, or what is piped in."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

from edgectl.errors import NotFound, Usage

if TYPE_CHECKING:
    from pathlib import Path

MAX_PROMPT_BYTES = 8 << 20  # the most limits.max_prompt_bytes can be


def read_prompt(words: tuple[str, ...], file: Path | None, *, command: str) -> str:
    """The prompt of ``command`` from its line, ``file`` and what is piped in; raises Usage without one."""
    parts = [" ".join(words), _beside(file)]
    question = "\n\n".join(part.strip("\n") for part in parts if part.strip())
    if not question:
        raise Usage("there is no prompt", hint=f'edgectl {command} "your question", or pipe a text into it')
    return question


def read_texts(texts: tuple[str, ...], file: Path | None) -> tuple[str, ...]:
    """``texts``, then the lines of ``file`` or of what is piped in, without empty ones; raises Usage."""
    found = [text for text in (*texts, *_beside(file).splitlines()) if text.strip()]
    if not found:
        raise Usage("there is no text", hint='edgectl embed "a text", or pipe texts into it, one a line')
    return tuple(found)


def _beside(file: Path | None) -> str:
    """What ``file`` says, or else what is piped in."""
    if file is not None and str(file) != "-":
        return _read_file(file)
    if file is not None or _is_piped():
        return _decoded(sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1), "standard input")
    return ""


def _is_piped() -> bool:
    """Whether standard input is a pipe or a file; a terminal, a socket or /dev/null holds no prompt."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):  # closed, or replaced by a test
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return _decoded(file.read(MAX_PROMPT_BYTES + 1), str(path))
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except OSError as error:
        raise Usage(f"{path} cannot be read: {error.strerror}") from None


def _decoded(raw: bytes, source: str) -> str:
    if len(raw) > MAX_PROMPT_BYTES:
        raise Usage(f"{source} has more than {MAX_PROMPT_BYTES} bytes; no box takes such a prompt")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Usage(f"{source} is not UTF-8 text (byte {error.start})") from None
