"""`edgectl discover`: find edged boxes on the local network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from edgectl.output.terminal import console, emit_json, json_option

if TYPE_CHECKING:
    from edgectl.client.boxes import Box
    from edgectl.client.census import Sight

ANSWER_S = 3.0  # a board under full load answers a status within a second
EPILOG = """\b
Examples:
  edgectl discover                        the boxes that answer within 3 seconds
  edgectl discover --timeout 10           on a slow or crowded wireless network
  edgectl discover --no-ask               only what they announce
  edgectl discover --json | jq -r '.[].topic'

Boxes announce themselves by multicast DNS as _edged._tcp, and as _openai._tcp where others can use their
HTTP. It does not cross routers, and many guest and mesh networks block it. Each box is asked how it is, over
HTTP where it needs no key, else over MQTT; no key or password is ever sent. Of a box that cannot be asked
the table shows what it announced, marked with *. Exit status 0 also when nothing was found."""


@click.command(epilog=EPILOG)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 60),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to listen, 0.1 to 60.",
)
@click.option("--ask/--no-ask", default=True, help="Ask each box how it is.  [default: ask]")
@click.option("--interface", "interfaces", multiple=True, hidden=True, help="A local address to listen on.")
@json_option
def command(timeout_s: float, interfaces: tuple[str, ...], *, ask: bool, as_json: bool) -> None:
    """Find edged boxes on the local network.

    Shows each box with its model, speed, load and health, and with how to reach it: the URL of its HTTP
    interface if it has one for others, and the broker and the root of its topics. Nothing is changed and
    nothing needs root.
    """
    from edgectl.client.boxes import find_boxes
    from edgectl.client.census import Sight, ask_all

    boxes = find_boxes(timeout_s, interfaces)
    seen = ask_all(boxes, ANSWER_S) if ask else [Sight(box=box) for box in boxes]
    if as_json:
        emit_json([as_object(sight) for sight in seen])
    elif seen:
        show(seen)
    else:
        click.echo(f"No box announced itself within {timeout_s:g} seconds.")
        click.echo(
            "  → is it on, on this network, and is discovery.enabled true in its edged.toml?\n"
            "  → a longer --timeout helps on slow wireless networks; guest networks often block multicast"
        )


def as_object(sight: Sight) -> dict[str, object]:
    """What was announced, with ``status`` (null where the box did not say) and ``problem``."""
    return {
        **msgspec.to_builtins(sight.box),
        "status": sight.status,
        "problem": sight.problem or None,
    }


def show(seen: list[Sight]) -> None:
    """A table for a person; what a stranger on the network sent is shown as text, never as markup."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("NODE", "MODEL", "TOK/S", "LOAD", "HEALTH", "REACHED AT"):
        table.add_column(column, overflow="fold")
    for sight in seen:
        row = (sight.box.name, sight.box.model, speed(sight), load(sight), health(sight), ways(sight.box))
        table.add_row(*(escape(_plain(cell)) for cell in row))
    console().print(table)


def speed(sight: Sight) -> str:
    told = sight.status.decode_tps if sight.status else sight.box.tok_s
    return "–" if told is None else f"{told:.1f}{_mark(sight)}"


def load(sight: Sight) -> str:
    """Percent of its places; how many requests there are where a box over MQTT told no more."""
    status = sight.status
    if status is None:
        return "–" if sight.box.load is None else f"{sight.box.load}%*"
    if status.capacity:
        return f"{status.load:.0%}"
    return f"{status.running + status.queue} requests"


def health(sight: Sight) -> str:
    status = sight.status
    if status is not None:
        conditions = ", ".join(condition.code for condition in status.conditions)
        return f"{status.health}: {conditions}" if conditions else status.health
    announced = f"{sight.box.health}*" if sight.box.health else "–"
    return f"{announced} ({sight.problem})" if sight.problem else announced


def ways(box: Box) -> str:
    """How others reach it, one way a line."""
    key = " (API key)" if box.auth == "yes" else ""
    lines = [f"{box.url}{key}"] if box.url else []
    if box.mqtt:
        lines.append(f"mqtt://{box.broker}/{box.topic}")
    if box.pool:
        lines.append(f"pool {box.pool}")
    return "\n".join(lines) or "on the box only"


def _mark(sight: Sight) -> str:
    return "" if sight.status else "*"


def _plain(text: str) -> str:
    """Without what could steer a terminal."""
    return "".join(char for char in text if char.isprintable() or char == "\n")
