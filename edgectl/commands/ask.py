"""`edgectl ask`: put a question to a running edged and stream the answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edgectl.commands.prompt_input import read_prompt
from edgectl.commands.target_options import chosen_target, target_options, timeout_option
from edgectl.errors import Usage
from edgectl.output.terminal import emit_json, json_option

if TYPE_CHECKING:
    from edgectl.client import Answer, EdgeClient
    from edgectl.client.edge_client import Options

# What could steer a terminal: C0 and C1 controls but tab and line feed, and DEL.
CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


@click.command(
    epilog="""\b
Examples:
  edgectl ask "Is it going to rain?"
  edgectl ask --max-tokens 60 --temperature 0 "Name three birds."
  journalctl -b -p err | edgectl ask "What went wrong here?"
  edgectl ask --file question.txt --json | jq -r .text
  edgectl ask --url mqtt://broker.local/edged/kitchen "Hello"
  edgectl ask --url mqtts://broker.lan --ca-file ca.pem --cert-file me.pem --cert-key-file me.key "Hello"

\b
Exit status:
  0 answered · 2 bad request, key or address · 5 nothing answers there · 6 the engine or model fails ·
  75 try again (busy, loading, expired) · 130 interrupted; then the request was cancelled on the box"""
)
@click.argument("prompt", nargs=-1)
@target_options
@click.option("--system", help="System message: who the model is to be.")
@click.option(
    "--file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Read the prompt from FILE ('-': standard input); it follows PROMPT when both are given.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens of the answer.")
@click.option("--temperature", type=click.FloatRange(0, 5), help="0: always the likeliest token.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Makes draws repeatable.")
@click.option("--raw", is_flag=True, help="Give the prompt to the model as it is, without a chat template.")
@click.option("--thinking/--no-thinking", default=None, help="Let the model think aloud, if it can.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is complete.")
@timeout_option(120.0, "Longest wait: for the next piece, with --no-stream for the whole answer.")
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Print tokens and speed even when output is redirected.")
def command(
    *,
    prompt: tuple[str, ...],
    url: str | None,
    key_file: Path | None,
    system: str | None,
    file: Path | None,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    timeout_s: float,
    raw: bool,
    thinking: bool | None,
    no_stream: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Ask a running edged PROMPT and stream the answer to standard output.

    Text piped into the command is the prompt, or follows PROMPT when both are there; `</dev/null` keeps a
    script's own input out. On a terminal a line with tokens, time to the first token and speed follows on
    standard error. Ctrl-C cancels the request on the box too.

    Keys never go on the command line: they are read from a file.
    """
    from edgectl.client.target import connect

    question = read_prompt(prompt, file, command="ask")
    if raw and (system is not None or thinking is not None):
        raise Usage("--raw takes neither --system nor --thinking: the prompt is given as it is")
    options: Options = {
        "max_tokens": max_tokens, "temperature": temperature, "seed": seed, "thinking": thinking,
    }  # fmt: skip
    with connect(chosen_target(url, key_file), timeout_s=timeout_s) as client:
        if as_json or no_stream:
            answer = client.generate(question, system=system, raw=raw, **options)
        else:
            answer = _stream(client, question, system, options, raw=raw)
    if as_json:
        emit_json({**msgspec.to_builtins(answer), "tokens_per_s": answer.tokens_per_s})
        return
    if no_stream:
        _write(answer.text)
    if not answer.text.endswith("\n"):
        _write("\n")
    if verbose or sys.stdout.isatty():
        click.secho(summary(answer), err=True, dim=True)


def summary(answer: Answer) -> str:
    """One line on what the answer took."""
    usage, speed = answer.usage, answer.tokens_per_s
    facts = [
        f"{usage.completion_tokens} tokens (prompt {usage.prompt_tokens})",
        f"first after {answer.timings.first_ms / 1000:.2f} s",
        f"{answer.timings.total_ms / 1000:.2f} s in all",
    ]
    if speed is not None:
        facts.insert(2, f"{speed:.1f} tok/s")
    if answer.finish == "length":
        facts.append("cut at the token limit (--max-tokens)")
    return " · ".join(facts)


def _stream(client: EdgeClient, question: str, system: str | None, options: Options, *, raw: bool) -> Answer:
    with client.stream(question, system=system, raw=raw, **options) as stream:
        for piece in stream:
            _write(piece)
        return stream.answer


def _write(text: str) -> None:
    click.echo(text.translate(CONTROLS) if sys.stdout.isatty() else text, nl=False)
