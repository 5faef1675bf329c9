"""Each peer in a folder of its own below build/peers, installed once."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

from tests.bench.errors import BenchError
from tests.bench.machine import cpu_name

FOLDER = Path("build/peers").resolve()

# Pinned, so that figures of two days compare. llama-cpp-python is the very version that edged runs on, and
# pip has its compiled wheel from setting that up.
REQUIREMENTS = {
    "xllamacpp": "xllamacpp==2026.10.11549",
    "llama-cpp-python": f"llama-cpp-python[server]=={version('llama-cpp-python')}",
}
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
BUILD = (
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON", "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF",
)  # fmt: skip


def peer_python(name: str) -> Path:
    """The interpreter of the environment that holds peer ``name``, which is installed if need be.

    Raises BenchError with pip's last words when it cannot be installed.
    """
    folder, requirement = FOLDER / name, REQUIREMENTS[name]
    python = folder / "bin/python"
    if not _done(folder, requirement):
        print(f"Installing {requirement} in {folder}", file=sys.stderr, flush=True)
        _run(requirement, sys.executable, "-m", "venv", "--clear", folder)
        _run(requirement, python, *PIP, "install", requirement)
        _finish(folder, requirement)
    return python


def native_llama_server() -> Path:
    """llama-server compiled for this very CPU, from the sources that xllamacpp's wheel was made of.

    Raises BenchError with the last words of pip or cmake.
    """
    folder, requirement = FOLDER / "llama-server", REQUIREMENTS["xllamacpp"]
    binary = folder / "build/bin/llama-server"
    wanted = f"{requirement}, compiled for {cpu_name()}"
    if not _done(folder, wanted):
        print(f"Compiling llama-server in {folder}: 15 minutes on two cores", file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        sources = ("download", "--no-deps", "--no-binary", "xllamacpp", "--dest", folder)
        _run(wanted, sys.executable, *PIP, *sources, requirement)
        source = _unpack(next(folder.glob("*.tar.gz")), folder)
        _run(wanted, "cmake", "-S", source, "-B", folder / "build", *BUILD)
        jobs = str(os.cpu_count() or 1)
        _run(wanted, "cmake", "--build", folder / "build", "--target", "llama-server", "--parallel", jobs)
        _finish(folder, wanted)
    return binary


def _unpack(archive: Path, folder: Path) -> Path:
    """llama.cpp's sources, which lie in the package."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz") / "thirdparty/llama.cpp"


def _run(what: str, *command: str | Path) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BenchError(f"{what} needs {command[0]}, which is not installed") from None
    if done.returncode != 0:
        raise BenchError(f"{what} cannot be installed:\n{(done.stderr or done.stdout)[-3000:]}")


def _done(folder: Path, what: str) -> bool:
    stamp = folder / "installed"
    return stamp.exists() and stamp.read_text() == _stamp(what)


def _finish(folder: Path, what: str) -> None:
    (folder / "installed").write_text(_stamp(what))


def _stamp(what: str) -> str:
    return f"{what}\n{platform.python_version()}\n{FOLDER}\n"
