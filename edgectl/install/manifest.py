"""What is installed, as `edgectl install` left it: the wishes, and how to tell that files were edited."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

if TYPE_CHECKING:
    from pathlib import Path

    from edgectl.device import Device

MANIFEST = "installed.json"
MAX_MANIFEST_BYTES = 64 << 10


class Options(Struct, frozen=True, kw_only=True):
    """What a person asked for; None leaves it to what was asked before, else to edgectl.

    ``model`` "auto" lets the planner choose again. Paths are absolute.
    """

    model: str | None = None
    quant: str | None = None
    model_file: str | None = None
    context_tokens: int | None = None
    slots: int | None = None
    reserve_mib: int | None = None
    node: str | None = None
    mqtt_host: str | None = None
    mqtt_port: int | None = None
    mqtt_username: str | None = None
    mqtt_password_file: str | None = None
    mqtt_ca_file: str | None = None
    mqtt_cert_file: str | None = None
    mqtt_key_file: str | None = None
    http_port: int | None = None

    def over(self, earlier: Options) -> Options:
        """These options, with ``earlier`` where these say nothing. A model replaces the whole choice."""
        if self.model is not None or self.model_file is not None:
            earlier = structs.replace(earlier, model=None, quant=None, model_file=None)
        ours = {name: value for name, value in structs.asdict(self).items() if value is not None}
        return structs.replace(earlier, **ours)


class Computer(Struct, frozen=True, kw_only=True):
    """What a plan depends on and does not change from minute to minute: another board, another plan."""

    cpu: str
    usable_cpus: float
    memory_bytes: int

    def is_like(self, other: Computer) -> bool:
        """Whether they are the same but for what one boot or kernel reserves more than the next."""
        same = (self.cpu, self.usable_cpus) == (other.cpu, other.usable_cpus)
        return same and math.isclose(self.memory_bytes, other.memory_bytes, rel_tol=0.05)


class Manifest(Struct, frozen=True, kw_only=True):
    """``created`` are the folders that were made, outermost first; the digests are of the files written."""

    version: str
    options: Options
    computer: Computer
    command: tuple[str, ...]
    config_sha256: str
    unit_sha256: str
    model_path: str
    created: tuple[str, ...] = ()
    lingering: str = ""  # the user whose lingering was turned on
    unstarted: bool = False  # the edged that runs was started before this installation
    schema: int = 1


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in ``folder``; None when there is none that can be understood."""
    try:
        return read_text((folder / MANIFEST).read_bytes()[:MAX_MANIFEST_BYTES])
    except OSError:
        return None


def read_text(raw: bytes) -> Manifest | None:
    """The manifest that ``raw`` is; None when it is none."""
    try:
        return msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError:
        return None


def manifest_text(manifest: Manifest) -> str:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2).decode() + "\n"


def digest(text: str) -> str:
    """Of ``text`` as it is on the disk; what is not UTF-8 in it is escaped (see `installer.look`)."""
    return hashlib.sha256(as_bytes(text)).hexdigest()


def as_bytes(text: str) -> bytes:
    """``text`` as it was read: bytes that are not UTF-8 are surrogates in it."""
    return text.encode(errors="surrogateescape")


def computer_of(device: Device) -> Computer:
    return Computer(
        cpu=f"{device.cpu.arch} {device.cpu.model}",
        usable_cpus=device.cpu.usable_cpus,
        memory_bytes=device.memory.total_bytes,
    )
