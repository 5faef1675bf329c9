"""Finds the data of ``profiles/`` and ``systemd/``, in a wheel and in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """The folder ``name`` ("profiles/models", "systemd", ...).

    Raises FileNotFoundError when neither the wheel nor the checkout has it.
    """
    for root in (_PACKAGE / "_data", _PACKAGE.parent):
        candidate = root / name
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"{name} is missing from this installation of edged; reinstall it")


def data_files(name: str, suffix: str = ".toml") -> list[Path]:
    """The files of folder ``name`` that end in ``suffix``, sorted by name."""
    return sorted(path for path in data_dir(name).iterdir() if path.suffix == suffix)
