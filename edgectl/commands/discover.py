"""`edgectl discover`: find edged boxes on the local network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgectl.output.terminal import console, emit_json, json_option

if TYPE_CHECKING:
    from edgectl.client.boxes import Box

EPILOG = """\b
Examples:
  edgectl discover                        the boxes that answer within 3 seconds
  edgectl discover --timeout 10           on a slow or crowded wireless network
  edgectl discover --json | jq -r '.[].topic'

Boxes announce themselves by multicast DNS as _edged._tcp, which does not cross routers, and which many
guest and mesh networks block. A box whose HTTP listens on loopback only (the default) is reached over
MQTT. Exit status 0 also when nothing was found."""


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
@click.option("--interface", "interfaces", multiple=True, hidden=True, help="A local address to listen on.")
@json_option
def command(timeout_s: float, interfaces: tuple[str, ...], *, as_json: bool) -> None:
    """Find edged boxes on the local network.

    Shows each box with its model and with how to reach it: the URL of its HTTP interface if it has one
    for others, and the broker and the root of its topics. Nothing is changed and nothing needs root.
    """
    from edgectl.client.boxes import find_boxes

    boxes = find_boxes(timeout_s, interfaces)
    if as_json:
        emit_json(boxes)
    elif boxes:
        show(boxes)
    else:
        click.echo(f"No box announced itself within {timeout_s:g} seconds.")
        click.echo(
            "  → is it on, on this network, and is discovery.enabled true in its edged.toml?\n"
            "  → a longer --timeout helps on slow wireless networks; guest networks often block multicast"
        )


def show(boxes: list[Box]) -> None:
    """A table for a person; what a stranger on the network sent is shown as text, never as markup."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("NODE", "MODEL", "HTTP", "BROKER", "TOPICS", "VERSION"):
        table.add_column(column, overflow="fold")
    for box in boxes:
        url = box.url
        key = " (API key)" if box.auth == "yes" else ""
        http = f"{url}{key}" if url else {"loopback": "on the box only"}.get(box.http, "off")
        row = (box.name, box.model, http, box.broker or "off", box.topic, box.version)
        table.add_row(*(escape(cell) for cell in row))
    console().print(table)
