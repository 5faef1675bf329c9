"""`edgectl embed`: have a running edged make vectors of texts."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edgectl.commands.prompt_input import read_texts
from edgectl.commands.target_options import chosen_target, target_options, timeout_option
from edgectl.output.terminal import emit_json, json_option


@click.command(
    epilog="""\b
Examples:
  edgectl embed "The hall light is on." "Somebody is in the hall."
  edgectl embed --file sentences.txt > vectors.jsonl
  journalctl -b -o cat | tail -50 | edgectl embed --json | jq .usage.prompt_tokens

\b
Needs a box whose model is loaded for it (model.embeddings = true in its edged.toml). Exit status as of
`edgectl ask`."""
)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@target_options
@click.option(
    "--file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Read texts from FILE ('-': standard input), one a line; they follow those of the command line.",
)
@timeout_option(120.0, "Longest wait for the answer.")
@json_option
def command(
    *,
    texts: tuple[str, ...],
    url: str | None,
    key_file: Path | None,
    file: Path | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Print a vector for each TEXT, one a line, as a JSON list.

    Texts piped into the command, one a line, follow those of the command line. Vectors have length 1, so that
    the cosine of two is the sum of their products.
    """
    from edgectl.client.target import connect

    wanted = read_texts(texts, file)
    with connect(chosen_target(url, key_file), timeout_s=timeout_s) as client:
        found = client.embed(wanted)
    if as_json:
        emit_json(found)
        return
    for vector in found.vectors:
        click.echo(msgspec.json.encode(vector).decode())
