"""How a plan looks to a person: the table of candidates, the choice, the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.output.terminal import mib, size
from edgectl.planning.candidate import distance

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgectl.planning.candidate import Candidate
    from edgectl.planning.plan import Plan, PlanResult

THOUGHT_TOKENS = 1000  # what a model thinks before an answer of middling difficulty
WIDE_COLUMNS = 100  # from here on the verdict is a phrase instead of a word
SMALL_COLUMNS = 70  # below it the verdict has no room beside every figure

_SHORT = {
    "unpinned": "no hash",
    "bits": "2 bits",
    "thinking": "cannot think",
    "vision": "no images",
    "context": "context",
    "memory": "too large",
    "disk": "no disk",
    "speed": "too slow",
    "first_token": "too late",
}


def show_plan(out: Console, result: PlanResult, *, everything: bool, next_command: str) -> None:
    """Print ``result``; ``everything`` shows every file instead of the best of each model."""
    from rich.markup import escape

    rows = result.candidates if everything else best_of_each_model(result)
    smallest = {
        one.model: one.download_bytes for one in sorted(result.candidates, key=_download, reverse=True)
    }
    rows = tuple(sorted(rows, key=lambda one: (one.demo, smallest[one.model], one.download_bytes)))
    device = result.device
    out.print(f"[bold]{escape(device.name)}[/]: {_memory_line(result)}\n")
    out.print(_table(rows, result.choice, columns=out.width))
    hidden = len(result.candidates) - len(rows)
    _show_ways(out, rows)
    out.print()
    if hidden:
        out.print(f"[dim]{hidden} more files are not shown; --all shows them.[/]")
    out.print(f"[dim]{escape(_legend(result))}[/]")
    if result.choice is not None:
        out.print()
        _show_choice(out, result.choice, next_command)


def _show_ways(out: Console, rows: tuple[Candidate, ...]) -> None:
    """For every row that is out: what would bring it in."""
    from rich.markup import escape

    ways = [(f"{one.model}:{one.quant}", one.remedies[0].text) for one in rows if one.remedies]
    if not ways:
        return
    out.print("\n[bold]What would make the others fit[/]")
    table = _pairs()
    for name, text in ways:
        table.add_row(name, escape(text))
    out.print(table)


def _legend(result: PlanResult) -> str:
    """What the figures are, and how sure."""
    kind = "measured" if any(one.speed.kind == "measured" for one in result.candidates) else "estimated"
    speed = speed_source(kind, result.device.speed_source)
    return (
        f"~ is an estimate. Speed: {speed}, for one request alone; first token after a prompt of 500 tokens. "
        "Memory: the limit, computed from the model's geometry. Quality: mean of the published MMLU-Pro and "
        "IFEval in thinking mode, less the loss of the quantization."
    )


def best_of_each_model(result: PlanResult) -> tuple[Candidate, ...]:
    """The chosen file, else the best that fits, else the nearest miss, of each model meant for work."""
    models: dict[str, list[Candidate]] = {}
    for one in result.candidates:
        if not one.demo or result.wishes.model:
            models.setdefault(one.model, []).append(one)
    return tuple(
        next((one for one in group if one.fits), None) or min(group, key=distance)
        for group in models.values()
    )


def _download(one: Candidate) -> int:
    return one.download_bytes


def _memory_line(result: PlanResult) -> str:
    free = f"{mib(result.available_bytes)} available, {_reserve(result)}"
    if result.usable_bytes < result.available_bytes - result.reserve_bytes:
        free = "the limit of this control group"
    return f"{mib(result.usable_bytes)} for a model ({free}), {_threads(result.device.threads)}"


def _reserve(result: PlanResult) -> str:
    """`802 MiB kept free: a tenth of the memory`, each part with its size when there are several."""
    parts = result.reserve
    why = parts[0].why if len(parts) == 1 else ", ".join(f"{mib(part.bytes)} {part.why}" for part in parts)
    return f"{mib(result.reserve_bytes)} kept free: {why}"


def _table(rows: tuple[Candidate, ...], choice: Plan | None, *, columns: int) -> Table:
    from rich.table import Table

    wide = columns >= WIDE_COLUMNS
    left_out = {"file", "first"} if columns < SMALL_COLUMNS else set()
    table = Table(box=None, pad_edge=False, padding=(0, 2 if wide else 1, 0, 0), header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("quant", no_wrap=True)
    names = _WIDE if wide else _NARROW
    for name in names:
        if name not in left_out:
            table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for one in rows:
        chosen = choice is not None and (one.model, one.quant) == (choice.model, choice.quant)
        mark = "~" if one.speed.kind == "estimated" else ""
        figures = (
            "stored" if one.stored else size(one.download_bytes),
            f"~{size(one.needed_bytes)}",
            mark + _figure(one.speed.decode_tps),
            mark + _seconds(one.speed.ttft_500_s),
            f"{one.quality:.0f}",
        )
        table.add_row(
            one.model,
            one.quant,
            *(figure for name, figure in zip(names, figures, strict=True) if name not in left_out),
            _verdict(one, chosen=chosen, wide=wide),
            style="bold green" if chosen else "" if one.fits else "dim",
        )
    return table


_WIDE = ("download", "memory", "tokens/s", "first token", "quality")
_NARROW = ("file", "memory", "tok/s", "first", "qual.")


def _verdict(one: Candidate, *, chosen: bool, wide: bool) -> str:
    if chosen:
        return "chosen"
    if one.fits:
        return "fits"
    first, *rest = one.misses
    if wide:
        return ", ".join((first.message, *(_SHORT[miss.kind] for miss in rest)))
    return _SHORT[first.kind]


def _show_choice(out: Console, choice: Plan, next_command: str) -> None:
    from rich.markup import escape

    memory, speed = choice.memory, choice.speed
    out.print(f"[bold]Choice: {escape(choice.name)}, {choice.quant}.[/] {escape(choice.reason)}")
    thinking = "thinking on" if choice.thinking else "thinking off"
    requests = "1 request" if choice.slots == 1 else f"{choice.slots} requests"
    weights = f"{mib(memory.weights_bytes)} model file, " if choice.mmap else ""
    shares = {
        "weights": memory.loaded_bytes,
        "repacked weights": memory.repacked_bytes,
        "prompts kept": memory.cache_bytes,
    }
    parts = ", ".join(f"{mib(size)} for {what}" for what, size in shares.items() if size)
    worker = f"{mib(memory.anon_bytes)} worker" + (f" ({parts})" if parts else "")
    lines = {
        "serves": f"{requests} at once, {choice.context_tokens:,} tokens of context each, {thinking}",
        "speed": f"{_figure(speed.decode_tps)} tokens/s, prompts at {_figure(speed.prefill_tps)} "
        f"({speed_source(speed.kind, speed.source)})",
        "memory": f"{weights}{worker}, {mib(memory.supervisor_bytes)} daemon",
        "limits": f"{mib(choice.worker_budget_bytes)} worker, {mib(choice.unit_memory_max_bytes)} service",
        "engine": f"{_threads(choice.threads)}, KV cache {choice.kv_type}, steps of {choice.ubatch} tokens",
    }
    if choice.thinking:
        wait = _seconds(THOUGHT_TOKENS / speed.decode_tps)
        lines["thinking"] = f"about {THOUGHT_TOKENS:,} tokens before the answer, which take {wait}"
    if choice.vision is not None:
        projector = f"{choice.vision.filename} ({mib(choice.vision.bytes)})"
        lines["images"] = f"room for {projector}; edged itself answers to text alone"
    table = _pairs()
    for name, text in lines.items():
        table.add_row(name, escape(text))
    out.print(table)
    if next_command:
        out.print(f"\nNext: [bold]{escape(next_command)}[/]", soft_wrap=True)  # to be copied whole


def speed_source(kind: str, source: str) -> str:
    """`measured by ...`, or `estimated from reference figures of ...`."""
    return f"measured by {source}" if kind == "measured" else f"{kind} from {source}"


def _pairs() -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    return table


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _figure(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _seconds(value_s: float) -> str:
    if value_s < 10:
        return f"{value_s:.1f} s"
    return f"{value_s:.0f} s" if value_s < 120 else f"{value_s / 60:.0f} min"
