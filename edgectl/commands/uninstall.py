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
Safe to repeat. What another program put beside our files stays. Exit codes: 0 removed, or nothing there ·
8 something could not be removed (it is named) · 10 needs root"""


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

    if not dry_run:
        require_right_user("uninstall", user=user)
    Session(user=user).uninstall(purge=purge, yes=yes, dry_run=dry_run)
