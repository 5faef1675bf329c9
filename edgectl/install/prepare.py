"""Gathers what an installation depends on: options, computer, plan, model file, and the files they make."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from edgectl.errors import NeedsRoot, NotFound, NothingFits, Usage
from edgectl.planning.calibration import calibration_here
from edgectl.planning.catalog import Catalog, load_catalog
from edgectl.planning.plan import Plan, PlanResult, Wishes, best_candidate, plan, require_choice
from edgectl.planning.speed import device_speed
from edged.host import cgroup
from edged.host.files import read_int

if TYPE_CHECKING:
    from edgectl.device import Device
    from edgectl.install.manifest import Options
    from edgectl.install.places import Places
    from edgectl.models.fetch import Listener
    from edgectl.models.store import Store
    from edgectl.probe import DeviceProfile

CGROUPS = Path("/sys/fs/cgroup")
SPEED_OPTIONS = re.compile(r"--(?:min-tps|max-ttft) \S+?(?: --max-ttft \S+?)?(?=[ ;]|$)")
AUTO = "auto"  # --model auto: choose again


class Choice(Struct, frozen=True, kw_only=True):
    """A plan, where its model file is or will be, and whether it has to be fetched first."""

    plan: Plan
    model_path: Path
    sha256: str
    absent: bool


def settled(options: Options, earlier: Options) -> Options:
    """What counts: these options over those of an earlier installation; "auto" forgets its model."""
    merged = options.over(earlier)
    return structs.replace(merged, model=None) if merged.model == AUTO else merged


def check(asked: Options, earlier: Options) -> None:
    """Raises Usage or NotFound for options that cannot go together or name what is not there.

    What goes together is judged with those of an ``earlier`` installation; files are those ``asked`` for now.
    """
    if asked.model_file is not None and (asked.model is not None or asked.quant is not None):
        raise Usage("--model-file is the model; --model and --quant do not go with it")
    options = asked.over(earlier)
    if options.model_file is not None and (options.model is not None or options.quant is not None):
        raise Usage(
            f"the model is the file {options.model_file}, which --quant does not go with",
            hint="name a model as well: `--model MODEL:QUANT`",
        )
    if (options.mqtt_username is None) != (options.mqtt_password_file is None):
        raise Usage("--mqtt-username and --mqtt-password-file belong together")
    if (options.mqtt_cert_file is None) != (options.mqtt_key_file is None):
        raise Usage("--mqtt-cert-file and --mqtt-key-file belong together")
    if options.mqtt_cert_file is not None and options.mqtt_ca_file is None:
        raise Usage("--mqtt-cert-file needs --mqtt-ca-file: without TLS nobody asks for a certificate")
    tls_hint = "TLS with the broker needs PEM files that are there"
    for name, hint in (
        (asked.mqtt_password_file, "write the broker's password into it, and `chmod 600` it"),
        (asked.mqtt_ca_file, tls_hint),
        (asked.mqtt_cert_file, tls_hint),
        (asked.mqtt_key_file, tls_hint),
    ):
        if name is not None and not Path(name).is_file():
            raise NotFound(f"there is no file {name}", hint=hint)


def choose(
    options: Options,
    device: Device,
    profile: DeviceProfile | None,
    places: Places,
    store: Store,
) -> Choice:
    """The plan for ``options`` on ``device``.

    Raises NothingFits with the planner's words, NotFound for a model nobody knows, Usage for wishes without
    sense or a model file that the service could not read.
    """
    usual = Wishes()
    catalog, model = load_catalog(), options.model
    if options.model_file is not None:
        from edgectl.install.model_file import entry_of, require_usable

        path = Path(options.model_file)
        require_usable(path, user=places.user)
        entry = entry_of(path)
        catalog, model = Catalog((entry,)), entry.id
    wishes = structs.replace(
        usual,
        model=model,
        quant=options.quant,
        context_tokens=options.context_tokens or usual.context_tokens,
        slots=options.slots or usual.slots,
        reserve_mib=options.reserve_mib,
    )
    stored = _stored(store)
    if options.model_file is not None:
        stored += [file.sha256 or "" for file in catalog.models[0].files]
    calibration, _problem = calibration_here(device)
    speed = device_speed(device, profile, calibration)
    choice = _require(plan(device, profile, catalog, wishes, stored_sha256=stored, speed=speed))
    if options.model_file is not None:
        return Choice(plan=choice, model_path=Path(options.model_file), sha256="", absent=False)
    sha256 = choice.file.sha256 or ""
    path = places.models / "blobs" / f"sha256-{sha256}"
    return Choice(
        plan=choice, model_path=path, sha256=sha256, absent=not store.has_blob(sha256, choice.file.bytes)
    )


def _stored(store: Store) -> list[str]:
    """The hashes of what is in the store; none where nobody may look (a dry run without root)."""
    try:
        return [ref.sha256 for ref in store.list()]
    except (NeedsRoot, PermissionError):
        return []


def _require(result: PlanResult) -> Plan:
    """The choice. Raises NothingFits with what would help in the options of an installation.

    Those have no bounds on speed: a model that is named may be slow.
    """
    try:
        return require_choice(result)
    except NothingFits as error:
        if result.candidates:
            near = best_candidate(result)
            error.hint = SPEED_OPTIONS.sub(f"--model {near.model}:{near.quant}", error.hint)
        raise


def bring(choice: Choice, store: Store, listener: Listener) -> None:
    """Have the file of the chosen model in the store, named there. Raises what `obtain` raises."""
    if choice.sha256:
        from edgectl.install.obtain import obtain

        entry = load_catalog().model(choice.plan.model)
        obtain(store, entry, choice.plan.file, listener)


def with_running_service(device: Device, control_group: str) -> Device:
    """``device`` as it will be when the service that runs now has stopped, and given its memory back."""
    folder = CGROUPS / control_group.lstrip("/")
    if not control_group.strip("/") or read_int(folder / "memory.current") is None:
        return device
    held = cgroup.unreclaimable_bytes(folder)
    memory = structs.replace(device.memory, available_bytes=device.memory.available_bytes + held)
    return structs.replace(device, memory=memory)


def board_name(device: Device) -> str:
    return device.board.model or device.cpu.model
