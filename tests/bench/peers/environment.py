"""Each peer in an environment of its own below build/peers, made once."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

FOLDER = Path("build/peers")

# Pinned, so that figures of two days compare. llama-cpp-python is the very version that edged runs on, and
# pip has its compiled wheel from setting that up.
REQUIREMENTS = {
    "xllamacpp": "xllamacpp==2026.10.11549",
    "llama-cpp-python": f"llama-cpp-python[server]=={version('llama-cpp-python')}",
}


def peer_python(name: str) -> Path:
    """The interpreter of the environment that holds peer ``name``, which is installed if need be.

    Raises SystemExit with pip's last words when it cannot be installed.
    """
    folder = FOLDER / name
    python = (folder / "bin/python").absolute()
    wanted = f"{REQUIREMENTS[name]}\n{sys.version}\n{folder.absolute()}\n"
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return python
    print(f"Installing {REQUIREMENTS[name]} in {folder}", file=sys.stderr, flush=True)
    stamp.unlink(missing_ok=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", folder],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENTS[name]],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{REQUIREMENTS[name]} cannot be installed:\n{done.stderr[-2000:]}")
    stamp.write_text(wanted)
    return python
