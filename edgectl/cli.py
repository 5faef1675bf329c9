"""The command table of edgectl: names, one-line helps, and lazy loading."""

from __future__ import annotations

import importlib

import click

from edged import __version__

# name → what --help says; the verb lives in edgectl/commands/<name>.py as `command`.
COMMANDS: dict[str, str] = {
    "demo": "Run the whole product once, here, with a small real model.",
    "probe": "Show what this computer is: board, CPU, memory, storage, heat.",
    "plan": "Say which model fits this computer, how fast and how large.",
    "calibrate": "Measure in a minute how fast models run here, for better plans.",
    "models": "Fetch, list, import, verify and remove model files.",
    "install": "Install edged as a service and prove that it answers.",
    "uninstall": "Remove the service, and on request its data.",
    "status": "Show the health of a running edged.",
    "top": "Watch a running edged live.",
    "ask": "Ask a running edged something and stream the answer.",
    "classify": "Have a running edged say which of some choices fits a text.",
    "embed": "Have a running edged make vectors of texts.",
    "logs": "Show the service's log.",
    "discover": "Find edged boxes on the local network.",
    "config": "Check, show and explain the configuration.",
    "keys": "Make, list and remove the API keys of this computer.",
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        command = importlib.import_module(f"edgectl.commands.{cmd_name}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"edgectl.commands.{cmd_name}.command is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(unknown_command(args[0]))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def unknown_command(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"there is no command {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")


EPILOG = """\b
Examples:
  edgectl demo                     the whole product in one go
  edgectl plan                     which model suits this computer
  sudo edgectl install             choose, fetch, install, prove
  edgectl ask "Is it raining?"     ask the box

Exit codes: 0 ok · 1 bug · 2 usage · 3 nothing fits · 4 device unsupported · 5 daemon unreachable ·
6 unhealthy · 7 failed and rolled back · 8 rollback failed too · 9 integrity · 10 needs root · 75 try again"""


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgectl")
def cli() -> None:
    """Profile a small computer, pick the language model that runs well on it, and install edged."""
