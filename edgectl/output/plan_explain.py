"""How the parts of a plan look to a person: bars, the longest first cause on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgectl.output.plan import speed_source

if TYPE_CHECKING:
    from rich.console import Console

    from edgectl.planning.candidate import Candidate
    from edgectl.planning.explain import Explanation, Term

MIB = 1 << 20
LEAST_BAR, MOST_BAR = 12, 40
NOTE_COLUMNS = 100  # from here on there is room to say how each part comes about


def show_explanation(out: Console, told: Explanation, candidate: Candidate) -> None:
    """Three bar charts: memory, one token, the first token; then what keeps it out."""
    out.print(f"[bold]{told.model}:{told.quant}[/], {candidate.name}")
    kind = speed_source(told.speed_kind, told.speed_source)
    mib, decode = told.memory_bytes / MIB, told.decode_ms
    _chart(out, f"Memory: {mib:,.0f} MiB, computed from its geometry", told.memory, 1 / MIB, "MiB")
    _chart(out, f"One token: {decode:,.0f} ms, {1000 / decode:.1f} tokens/s ({kind})", told.decode, 1.0, "ms")
    heading = f"First token after a prompt of 500: {told.first_token_ms / 1000:,.1f} s ({told.speed_kind})"
    _chart(out, heading, told.first_token, 1.0, "ms")
    if candidate.fits:
        out.print("\nIt fits.")
        return
    out.print(f"\nIt does not fit: {'; '.join(miss.message for miss in candidate.misses)}.", markup=False)
    for remedy in candidate.remedies:
        out.print(f"  To make it fit: {remedy.text}", markup=False)


def _chart(out: Console, heading: str, terms: tuple[Term, ...], scale: float, unit: str) -> None:
    from rich.markup import escape
    from rich.text import Text

    out.print(f"\n[bold]{escape(heading)}[/]")
    total = sum(term.amount for term in terms) or 1.0
    largest = max((term.amount for term in terms), default=1.0) or 1.0
    names = max(len(term.name) for term in terms)
    figures = [_figure(term.amount * scale, unit) for term in terms]
    figure_columns = max(len(figure) for figure in figures)
    left = out.width - names - figure_columns - 8
    wide = out.width >= NOTE_COLUMNS
    columns = min(max(left // 2 if wide else left, LEAST_BAR), MOST_BAR)
    for term, figure in zip(terms, figures, strict=True):
        bar = bar_text(term.amount / largest, columns, ascii_only=out.options.ascii_only)
        line = Text(f"{term.name:<{names}}  {figure:>{figure_columns}} {term.amount / total:>4.0%} ")
        line.append(bar, style="cyan")
        if wide and term.note:
            line.append(f"{'':<{columns - len(bar)}} {term.note}", style="dim")
        line.truncate(out.width, overflow="ellipsis")
        out.print(line)


def _figure(amount: float, unit: str) -> str:
    return f"{amount:,.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"


def bar_text(share: float, columns: int, *, ascii_only: bool = False) -> str:
    """A bar of at most ``columns``, to an eighth of one; anything above 0 shows."""
    share = min(max(share, 0.0), 1.0)
    if ascii_only:
        return "#" * max(round(share * columns), 1 if share > 0 else 0)
    eighths = max(round(share * columns * 8), 1 if share > 0 else 0)
    full, part = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[part] if part else "")
