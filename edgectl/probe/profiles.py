"""The boards edgectl knows: load profiles/devices, find the one that fits a computer."""

from __future__ import annotations

import difflib
import fnmatch
import tomllib
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from edgectl.device import Device, Note
from edgectl.errors import DataInvalid, NotFound
from edgectl.probe.profile_schema import BoardEntry, Engine, MatchRules, Published
from edgectl.resources import data_files

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "profiles/devices"
MIB = 1 << 20
Rank = tuple[int, int, int]


class DeviceProfile(Struct, frozen=True, kw_only=True):
    """One board in one memory size.

    Decoding one token takes ``overhead_s + file bytes / bandwidth_bytes_per_s`` seconds; prefill runs at
    ``prefill_params_per_s / parameters`` tokens/s. ``estimate`` and ``source`` say how far to trust them.
    """

    id: str  # "pi5-8gb"; boards of one size have no suffix
    name: str
    memory_mib: int  # nominal
    bandwidth_bytes_per_s: float
    overhead_s: float
    prefill_params_per_s: float
    engine: Engine
    estimate: bool
    source: str
    published: tuple[Published, ...]
    quirks: tuple[Note, ...]
    board: BoardEntry


def load_profiles(directory: Path | None = None) -> tuple[DeviceProfile, ...]:
    """Every board of ``directory`` (default: the installed ones) in every size, sorted by file and size.

    Raises DataInvalid naming file, key and rule when an entry is broken.
    """
    files = data_files(FOLDER) if directory is None else sorted(directory.glob("*.toml"))
    profiles: dict[str, DeviceProfile] = {}
    for file in files:
        for profile in _sizes(_read(file)):
            if profile.id in profiles:
                raise _invalid(file, f"key id: {profile.id!r} is taken by another file")
            profiles[profile.id] = profile
    return tuple(profiles.values())


def find_profile(profile_id: str, profiles: tuple[DeviceProfile, ...] | None = None) -> DeviceProfile:
    """The profile called ``profile_id``. Raises NotFound with the names that are close."""
    known = {profile.id: profile for profile in (load_profiles() if profiles is None else profiles)}
    if profile_id in known:
        return known[profile_id]
    close = [name for name in known if name.startswith(f"{profile_id}-")]
    close = close or difflib.get_close_matches(profile_id, known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"
    raise NotFound(f"there is no device profile {profile_id!r}", hint=hint)


def match(device: Device, profiles: tuple[DeviceProfile, ...]) -> DeviceProfile | None:
    """The most specific profile for ``device``, in the size nearest its memory; None when none fits.

    Device-tree names beat firmware names beat CPU models beat architectures; then the longer glob wins.
    """
    ranked = [
        (rank, profile) for profile in profiles if (rank := _rank(profile.board.match, device)) is not None
    ]
    if not ranked:
        return None
    best = max(rank for rank, _ in ranked)
    sizes = [profile for rank, profile in ranked if rank == best]
    wanted_mib = device.board.nominal_memory_mib or device.memory.total_bytes / MIB
    # The kernel reports less than is soldered, so the right size is the first that is not smaller.
    enough = [profile for profile in sizes if profile.memory_mib >= wanted_mib]
    return min(enough, key=lambda p: p.memory_mib) if enough else max(sizes, key=lambda p: p.memory_mib)


def _rank(rules: MatchRules, device: Device) -> Rank | None:
    """How specific a match is: (group, -position of the string, literal characters of the glob)."""
    groups = (
        (rules.arch, (device.cpu.arch,)),
        (rules.cpu, (device.cpu.model,)),
        (rules.dmi, (f"{device.board.vendor} {device.board.model}",)),
        (rules.compatible, device.board.compatible),
    )
    best: Rank | None = None
    for group, (globs, values) in enumerate(groups):
        if not globs:
            continue
        hits = [
            (group, -position, len(glob) - glob.count("*"))
            for position, value in enumerate(values)
            for glob in globs
            if fnmatch.fnmatchcase(value.lower(), glob.lower())
        ]
        if not hits:
            return None
        best = max(hits)
    return best


def _read(file: Path) -> BoardEntry:
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
        return msgspec.convert(tree, BoardEntry)
    except tomllib.TOMLDecodeError as error:
        raise _invalid(file, f"not TOML: {error}") from error
    except msgspec.ValidationError as error:
        rule, _, place = str(error).partition(" - at `$")
        raise _invalid(file, f"key {place.strip('.`') or '(top level)'}: {rule}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(file, f"cannot be read: {error}") from error


def _invalid(file: Path, problem: str) -> DataInvalid:
    return DataInvalid(f"device profile {file.name}: {problem}", hint="correct the file, or reinstall edged")


def _sizes(entry: BoardEntry) -> list[DeviceProfile]:
    several = len(entry.memory.nominal_mib) > 1
    return [
        DeviceProfile(
            id=f"{entry.id}-{nominal_mib // 1024}gb" if several else entry.id,
            name=f"{entry.name}, {nominal_mib // 1024} GB" if several else entry.name,
            memory_mib=nominal_mib,
            bandwidth_bytes_per_s=entry.speed.bandwidth_gbps * 1e9,
            overhead_s=entry.speed.overhead_s,
            prefill_params_per_s=entry.speed.prefill_params_per_s,
            engine=entry.speed.engine,
            estimate=entry.speed.estimate,
            source=entry.speed.source,
            published=entry.published,
            quirks=tuple(quirk.note() for quirk in entry.quirks),
            board=entry,
        )
        for nominal_mib in entry.memory.nominal_mib
    ]
