"""`edgectl uninstall`: remove the service, and on request its data."""

from __future__ import annotations

import click

from edgectl.commands.install import require_right_user

EPILOG = """\b
Examples:
  sudo edgectl uninstall            remove the service; keep models and what you edited
  sudo edgectl uninstall --purge    remove everything, models too
  edgectl uninstall --user          the service of yourself alone
  edgectl uninstall --dry-run       show what would go and what would stay

\b
Safe to repeat. What another program put beside our files stays, and so do this program and the files of your
own that the service was told to read. Exit codes: 0 removed, or nothing there · 2 usage, or you said no ·
4 no systemd · 6 systemd refused · 7 the output was closed before anything was removed · 8 something could not
be removed (it is named) · 10 needs root · 75 try again · 130 stopped before anything was removed"""


@click.command(epilog=EPILOG)
@click.option("--user", is_flag=True, help="Remove the service of yourself alone.")
@click.option("--purge", is_flag=True, help="Remove models, state and an edited configuration as well.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and change nothing.")
def command(*, user: bool, purge: bool, yes: bool, dry_run: bool) -> None:
    """Remove the service, and on request its data.

    Stops edged, takes it out of the boot, and removes unit and configuration. Models stay for a later
    install, and so does a configuration that was edited by hand, unless --purge is given.
    """
    from edgectl.commands.installing import Session
    from edgectl.output.outcome import unread_is_failure

    if dry_run:
        Session(user=user).show_removal(purge=purge)
        return
    require_right_user("uninstall", user=user)
    with unread_is_failure():
        Session(user=user).uninstall(purge=purge, yes=yes)
