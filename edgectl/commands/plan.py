"""`edgectl plan`: say which model fits this computer, how fast and how large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from edgectl.output.terminal import console, emit_json, json_option

if TYPE_CHECKING:
    from edgectl.device import Device
    from edgectl.planning.plan import PlanResult
    from edgectl.probe import DeviceProfile

EPILOG = """\b
Examples:
  edgectl plan                                  what suits this computer
  edgectl plan --device pi5-8gb                 what would suit a Raspberry Pi 5 with 8 GB
  edgectl plan --context 8192 --concurrency 1   one client with long documents
  edgectl plan --prefer speed --max-ttft 5      short waits matter most
  edgectl plan --model qwen3.5-4b --all         every file of one model
  edgectl plan --json | jq .choice.model        for scripts

\b
How the choice is made:
  A file is out when it needs more memory than is available less the
  reserve, when it would write fewer tokens a second than --min-tps, when
  the first one would take longer than --max-ttft, or when its hash is not
  pinned. Of the rest the best answers win: with --prefer balanced each
  halving of the speed below 10 tokens/s costs 4 points of quality, with
  --prefer speed each halving below 30 costs 9, with --prefer quality none.

Nothing is downloaded or changed. Exit status 3: nothing fits."""


@click.command(epilog=EPILOG)
@click.option("--context", "context_tokens", type=click.IntRange(min=1), default=4096, show_default=True,
              metavar="TOKENS", help="Context of each request: prompt and answer together.")  # fmt: skip
@click.option("--concurrency", "slots", type=click.IntRange(min=1), default=2, show_default=True, metavar="N",
              help="Requests worked on at once; each has a context of its own.")  # fmt: skip
@click.option("--min-tps", type=click.FloatRange(min=0), metavar="N",
              help="Least tokens a second. [default: 4; none with --model]")  # fmt: skip
@click.option("--max-ttft", "max_ttft_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="Longest wait for the first token after a prompt of 500. "
                   "[default: 60; none with --model]")  # fmt: skip
@click.option("--reserve", "reserve_mib", type=click.IntRange(min=0), metavar="MIB",
              help="Memory left to everything else. [default: a tenth, 128 to 1024]")  # fmt: skip
@click.option("--thinking/--no-thinking", default=None,
              help="Let the model think before it answers. [default: where it is quick enough]")  # fmt: skip
@click.option("--prefer", type=click.Choice(["speed", "balanced", "quality"]), default="balanced",
              show_default=True, help="What matters more.")  # fmt: skip
@click.option("--model", metavar="MODEL[:QUANT]", help="Plan for this model, slow or not.")
@click.option("--quant", metavar="QUANT", help="Weigh only files of this quantization.")
@click.option(
    "--device", "profile_id", metavar="PROFILE", help="Plan for a board of the profiles, not for here."
)
@click.option("--all", "everything", is_flag=True, help="Show every file, not the best one of each model.")
@json_option
def command(
    *,
    context_tokens: int,
    slots: int,
    min_tps: float | None,
    max_ttft_s: float | None,
    reserve_mib: int | None,
    thinking: bool | None,
    prefer: Literal["speed", "balanced", "quality"],
    model: str | None,
    quant: str | None,
    profile_id: str | None,
    everything: bool,
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

    wishes = Wishes(
        context_tokens=context_tokens,
        slots=slots,
        min_tps=min_tps,
        max_ttft_s=max_ttft_s,
        reserve_mib=reserve_mib,
        thinking=thinking,
        prefer=prefer,
        model=model,
        quant=quant,
    )
    device, profile = _device(profile_id)
    result = plan(device, profile, load_catalog(), wishes)
    if as_json:
        emit_json(result)
    else:
        from edgectl.output.plan import show_plan

        show_plan(console(), result, everything=everything, next_command=_next_command(result, profile_id))
    require_choice(result)


def _device(profile_id: str | None) -> tuple[Device, DeviceProfile | None]:
    """The computer to plan for, and the profile with its figures."""
    from edgectl.probe import find_profile, load_profiles, planned_device, probe_device

    profiles = load_profiles()
    if profile_id is not None:
        return planned_device(profile_id, profiles), find_profile(profile_id, profiles)
    device = probe_device()
    return device, find_profile(device.profile, profiles) if device.profile else None


def _next_command(result: PlanResult, profile_id: str | None) -> str:
    from edgectl.planning.plan import Wishes

    choice, wishes, usual = result.choice, result.wishes, Wishes()
    if choice is None:
        return ""
    if choice.file.package:
        return "edgectl demo"
    install = f"sudo edgectl install --model {choice.model}:{choice.quant}"
    install += f" --context {wishes.context_tokens}" * (wishes.context_tokens != usual.context_tokens)
    install += f" --concurrency {wishes.slots}" * (wishes.slots != usual.slots)
    return f"on the board: {install}" if profile_id else install
