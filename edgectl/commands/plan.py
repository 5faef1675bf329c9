"""`edgectl plan`: say which model fits this computer, how fast and how large."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

import click

from edgectl.errors import Usage
from edgectl.output.terminal import console, emit_json, json_option

if TYPE_CHECKING:
    from edgectl.device import Device
    from edgectl.planning.catalog import Catalog
    from edgectl.planning.plan import PlanResult
    from edgectl.planning.speed import DeviceSpeed
    from edgectl.probe import DeviceProfile

MEASURE_S = 60.0
SYSTEMD_PATIENCE_S = 5.0  # a plan must not hang on a service manager that does

EPILOG = """\b
Examples:
  edgectl plan                                  what suits this computer
  edgectl plan --device pi5-8gb                 what would suit a Raspberry Pi 5 with 8 GB
  edgectl plan --context 8192 --concurrency 1   one client with long documents
  edgectl plan --prefer speed --max-ttft 5      short waits matter most
  edgectl plan --model qwen3.5-4b --all         every file of one model
  edgectl plan --measure                        measure for a minute first
  edgectl plan --explain qwen3.5-2b:Q4_K_M      where every MiB and every millisecond goes
  edgectl plan --json | jq .choice.model        for scripts

\b
How the choice is made:
  A file is out when it needs more memory than is available less the
  reserve, when it would write fewer tokens a second than --min-tps, when
  the first one would take longer than --max-ttft, or when its hash is not
  pinned; files of two bits a weight are always out. Of the rest the best
  answers win: with --prefer balanced each halving of the speed below 10
  tokens/s costs 4 points of quality, with --prefer speed each halving
  below 30 costs 9, with --prefer quality none. Less than the usual context
  and concurrency costs 2 points a step.
  Of the settings of a file, an exact KV cache (f16) comes before long
  steps, and context and concurrency before an exact cache; weights may be
  repacked where memory holds a second copy of them.

\b
The reserve, unless --reserve says it:
  a tenth of the memory, 128 to 1024 MiB; 512 MiB more with a desktop; half
  of what databases and a quarter of what other large programs hold now;
  and what will come back from swap. At most half of the memory.

\b
Nothing is downloaded or changed. Exit status 3: nothing fits; --explain
says of what does not fit why, and ends with 0."""


@click.command(epilog=EPILOG)
@click.option("--context", "context_tokens", type=click.IntRange(min=1), metavar="TOKENS",
              help="Context of each request: prompt and answer together. "
                   "[default: 4096; 2048 where memory is short, more where it is plenty]")  # fmt: skip
@click.option("--concurrency", "slots", type=click.IntRange(min=1), metavar="N",
              help="Requests worked on at once; each has a context of its own. "
                   "[default: 2; 1 where memory is short]")  # fmt: skip
@click.option("--min-tps", type=click.FloatRange(min=0), metavar="N",
              help="Least tokens a second. [default: 4; none with --model]")  # fmt: skip
@click.option("--max-ttft", "max_ttft_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="Longest wait for the first token after a prompt of 500. "
                   "[default: 60; none with --model]")  # fmt: skip
@click.option("--reserve", "reserve_mib", type=click.IntRange(min=0), metavar="MIB",
              help="Memory left to everything else. [default: by what else runs here]")  # fmt: skip
@click.option("--thinking/--no-thinking", default=None,
              help="Let the model think before it answers. [default: where it is quick enough]")  # fmt: skip
@click.option("--vision", is_flag=True,
              help="Keep room for the image projector too; only models that have one.")  # fmt: skip
@click.option("--prefer", type=click.Choice(["speed", "balanced", "quality"]), default="balanced",
              show_default=True, help="What matters more.")  # fmt: skip
@click.option("--model", metavar="MODEL[:QUANT]", help="Plan for this model, slow or not.")
@click.option("--quant", metavar="QUANT", help="Weigh only files of this quantization.")
@click.option(
    "--device", "profile_id", metavar="PROFILE", help="Plan for a board of the profiles, not for here."
)
@click.option("--all", "everything", is_flag=True, help="Show every file, not the best one of each model.")
@click.option("--measure", is_flag=True, help="Measure this computer first, as `edgectl calibrate` does.")
@click.option("--explain", metavar="MODEL[:QUANT]", help="Show where its memory and its time go, as bars.")
@json_option
def command(
    *,
    context_tokens: int,
    slots: int,
    min_tps: float | None,
    max_ttft_s: float | None,
    reserve_mib: int | None,
    thinking: bool | None,
    vision: bool,
    prefer: Literal["speed", "balanced", "quality"],
    model: str | None,
    quant: str | None,
    profile_id: str | None,
    everything: bool,
    measure: bool,
    explain: str | None,
    as_json: bool,
) -> None:
    """Say which model fits this computer, how fast and how large.

    Weighs every file of the catalogue against the memory, disk and speed of this computer (or of the board
    named by --device), and shows one line for each model: what it downloads, the memory it needs with this
    context and concurrency, the tokens a second it would write, the wait for the first one, and how good its
    answers are.
    """
    from edgectl.planning.catalog import load_catalog
    from edgectl.planning.plan import Wishes, plan, require_choice
    from edgectl.planning.speed import device_speed
    from edgectl.planning.wishes import check_wishes

    if explain is not None and (model or quant or everything):
        raise Usage("--explain names the one file that it shows", hint="leave out --model, --quant and --all")
    wishes = Wishes(
        context_tokens=context_tokens,
        slots=slots,
        min_tps=min_tps,
        max_ttft_s=max_ttft_s,
        reserve_mib=reserve_mib,
        thinking=thinking,
        vision=vision,
        prefer=prefer,
        model=explain or model,
        quant=quant,
    )
    check_wishes(wishes)
    if measure and profile_id:
        raise Usage(
            "--measure measures this computer, and --device names another", hint="leave out one of them"
        )
    device, profile = _device(profile_id)
    speed = device_speed(device, profile) if profile_id else _speed_here(device, profile, measure=measure)
    catalog, stored = load_catalog(), () if profile_id else _stored()
    result = plan(device, profile, catalog, wishes, stored_sha256=stored, speed=speed)
    if explain is not None:
        _explain(result, catalog, speed, as_json=as_json)
        return
    if as_json:
        emit_json(result)
    else:
        from edgectl.output.plan import show_plan

        show_plan(console(), result, everything=everything, next_command=_next_command(result, profile_id))
    require_choice(result)


def _explain(result: PlanResult, catalog: Catalog, speed: DeviceSpeed, *, as_json: bool) -> None:
    """The parts of the best candidate that was asked for."""
    from edgectl.planning.catalog import find_file
    from edgectl.planning.explain import explain_candidate
    from edgectl.planning.plan import best_candidate

    candidate = best_candidate(result)
    entry = catalog.model(candidate.model)
    told = explain_candidate(candidate, entry, find_file(entry, candidate.quant), speed)
    if as_json:
        emit_json(told)
    else:
        from edgectl.output.plan_explain import show_explanation

        show_explanation(console(), told, candidate)


def _speed_here(device: Device, profile: DeviceProfile | None, *, measure: bool) -> DeviceSpeed:
    """What was measured here, now or before; without that, what the profile says."""
    from edgectl.planning.calibration import calibration_here
    from edgectl.planning.speed import device_speed

    if measure:
        from edgectl.commands.calibrate import measure_here

        return device_speed(device, profile, measure_here(device, seconds=MEASURE_S))
    calibration, problem = calibration_here(device)
    if problem:
        click.echo(f"note: {problem}", err=True)
    return device_speed(device, profile, calibration)


def _stored() -> list[str]:
    """The hashes of the files that are here already; none where the store cannot be read."""
    from edgectl.commands.local_models import local_store
    from edgectl.errors import EdgeError

    store = local_store()
    try:
        return [ref.sha256 for ref in store.list() if store.has(ref)]
    except (EdgeError, OSError):
        return []


def _device(profile_id: str | None) -> tuple[Device, DeviceProfile | None]:
    """The computer to plan for, and the profile with its figures."""
    from edgectl.probe import find_profile, load_profiles, planned_device, probe_device

    profiles = load_profiles()
    if profile_id is not None:
        return planned_device(profile_id, profiles), find_profile(profile_id, profiles)
    device = _without_service(probe_device())
    return device, find_profile(device.profile, profiles) if device.profile else None


def _without_service(device: Device) -> Device:
    """``device`` as `install` plans for it: a service that runs now will have given its memory back."""
    from edgectl.errors import CommandFailed
    from edgectl.install.prepare import with_running_service
    from edgectl.install.runner import run
    from edgectl.install.systemd import BOOTED, Systemd

    if not BOOTED.is_dir():
        return device
    for user in (False, True):
        manager = Systemd(lambda command, _limit_s: run(command, SYSTEMD_PATIENCE_S), user=user)
        with contextlib.suppress(CommandFailed):  # such as a user without a manager of his own
            if group := manager.state().control_group:
                return with_running_service(device, group)
    return device


def _next_command(result: PlanResult, profile_id: str | None) -> str:
    choice, wishes = result.choice, result.wishes
    if choice is None:
        return ""
    if choice.file.package:
        return "edgectl demo"
    install = f"sudo edgectl install --model {choice.model}:{choice.quant}"
    install += f" --context {wishes.context_tokens}" * (wishes.context_tokens is not None)
    install += f" --concurrency {wishes.slots}" * (wishes.slots is not None)
    install += f" --reserve {wishes.reserve_mib}" * (wishes.reserve_mib is not None)
    return f"on the board: {install}" if profile_id else install
