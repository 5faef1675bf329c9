"""`edgectl classify`: have a running edged say which of some choices fits a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from edgectl.commands.prompt_input import read_prompt
from edgectl.commands.target_options import chosen_target, target_options, timeout_option
from edgectl.errors import Usage
from edgectl.output.terminal import console, emit_json, json_option
from edged.api.requests import ScoringRule

if TYPE_CHECKING:
    from edgectl.client import Classification


@click.command(
    epilog="""\b
Examples:
  edgectl classify --choices yes,no "Is the door open? It creaks in the wind."
  edgectl classify --choices "go on,call someone,stop" "The pump hums at 4 bar, normal is 2. What now?"
  tail -1 door.log | edgectl classify --choices quiet,knock,break-in --json | jq -r .choice

\b
The box reads the text once and generates nothing. Put the choices into the text, too: a model that knows
them seldom wants to say something else. Exit status as of `edgectl ask`."""
)
@click.argument("prompt", nargs=-1)
@target_options
@click.option("--choices", "-c", required=True, multiple=True, help="The choices, A,B,C; may be repeated.")
@click.option("--system", help="System message: who the model is to be.")
@click.option(
    "--file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Read the text from FILE ('-': standard input); it follows PROMPT when both are given.",
)
@click.option(
    "--scoring",
    type=click.Choice(get_args(ScoringRule)),
    default="constrained",
    show_default=True,
    help="What counts: the tokens that tell choices apart, or all of each, in sum or mean.",
)
@timeout_option(120.0, "Longest wait for the answer.")
@json_option
def command(
    *,
    prompt: tuple[str, ...],
    url: str | None,
    key_file: Path | None,
    choices: tuple[str, ...],
    system: str | None,
    file: Path | None,
    scoring: ScoringRule,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Say how likely each of some choices is as the answer to PROMPT.

    Prints a line for each choice with its probability, the likeliest first. Text piped into the command is
    the prompt, or follows PROMPT when both are there.
    """
    from edgectl.client.target import connect

    wanted = [choice.strip() for listed in choices for choice in listed.split(",")]
    if len(wanted) < 2 or not all(wanted):
        raise Usage("--choices: at least two are needed, none of them empty", hint="--choices yes,no")
    question = read_prompt(prompt, file, command="classify")
    with connect(chosen_target(url, key_file), timeout_s=timeout_s) as client:
        found = client.classify(question, wanted, system=system, scoring=scoring)
    if as_json:
        emit_json(found)
    else:
        show(found)


def show(found: Classification) -> None:
    """The choices with their probabilities, the likeliest first."""
    for score in sorted(found.scores, key=lambda score: -score.probability):
        console().print(f"{score.probability:.3f}  {score.choice}", markup=False)
