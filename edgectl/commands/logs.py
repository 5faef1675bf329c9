"""`edgectl logs`: the service's log, from the journal."""

from __future__ import annotations

import os
import shutil
import sys

import click

from edgectl.errors import CommandFailed, NotFound

PATIENCE_S = 10.0  # for one question to systemd


@click.command(
    epilog="""\b
Examples:
  edgectl logs                     the last 50 lines
  edgectl logs -f                  and what comes
  edgectl logs --since -10min -n all
  edgectl logs --json | jq -r .MESSAGE"""
)
@click.option("-f", "--follow", is_flag=True, help="Go on as new lines come; Ctrl-C ends it.")
@click.option("-n", "--lines", default="50", show_default=True, metavar="N", help="How many lines, or 'all'.")
@click.option("--since", metavar="TIME", help='For example "today", "-10min", "2026-01-31 12:00".')
@click.option("--user", is_flag=True, help="The service of this user, not of the system.")
@click.option("--json", "as_json", is_flag=True, help="Print each line as the journal's JSON object.")
def command(lines: str, since: str | None, *, follow: bool, user: bool, as_json: bool) -> None:
    """Show the log of the edged service.

    This is `journalctl` for the right unit. Prompts and answers are never in the log.
    """
    if lines != "all" and not lines.isdecimal():
        raise click.BadParameter("a number or 'all' is needed", param_hint="--lines")
    journalctl = shutil.which("journalctl")
    if journalctl is None:
        raise NotFound(
            "there is no journalctl on this computer",
            hint="edged writes its log to standard error: look where it was started (docker logs, a file)",
        )
    _require_unit(user=user)
    arguments = [journalctl, "--user-unit=edged" if user else "--unit=edged", f"--lines={lines}"]
    arguments += ["--follow"] if follow else []
    arguments += [f"--since={since}"] if since else []
    arguments += ["--output=json"] if as_json else []
    if not sys.stdout.isatty():
        arguments.append("--no-pager")
    sys.stdout.flush()
    os.execv(journalctl, arguments)  # noqa: S606 - a fixed program with checked options


def _require_unit(*, user: bool) -> None:
    """Raises NotFound, saying where the log is instead, when systemd knows no such unit."""
    from edgectl.install.runner import run
    from edgectl.install.systemd import BOOTED, Systemd

    if not BOOTED.is_dir():
        raise NotFound(
            "this computer does not run systemd, so it keeps no log of edged",
            hint="edged writes its log to standard error: look where it was started (docker logs, a file)",
        )

    def is_known(*, user: bool) -> bool:
        service = Systemd(lambda command, _limit_s: run(command, PATIENCE_S), user=user)
        return service.state().load not in {"", "not-found"}

    try:
        known = is_known(user=user)
    except CommandFailed as error:
        raise NotFound(
            f"systemd does not answer, so it keeps no log of edged: {error.message}",
            hint="edged writes its log to standard error: look where it was started",
        ) from None
    if known:
        return
    try:
        other = is_known(user=not user)
    except CommandFailed:
        other = False
    where = "of the system" if user else "of this user (--user)"
    raise NotFound(
        f"there is no {'user ' if user else ''}service edged on this computer",
        hint=f"there is one {where}"
        if other
        else "`edgectl install` installs it; run by hand, edged logs to standard error",
    )
