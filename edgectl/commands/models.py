"""`edgectl models`: the model files of this computer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from edgectl.commands.local_models import configured_model, is_used, local_store, stored, switched_model
from edgectl.commands.models_fit import fit_command
from edgectl.commands.models_import import import_command
from edgectl.commands.models_inspect import inspect_command
from edgectl.commands.models_pull import pull_command
from edgectl.errors import ConfirmationNeeded, IntegrityError, Usage
from edgectl.output.terminal import console, emit_json, json_option, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgectl.models.refs import Ref
    from edgectl.models.store import CheckedBlob, Store
    from edgectl.output.transfer import TransferReport

GROUP_EPILOG = """\b
Examples:
  edgectl models list --available          what could be fetched
  edgectl models pull qwen3.5-0.8b         fetch it
  edgectl models import /media/usb         or bring it on a stick
  edgectl models inspect my.gguf           what a file says about itself
  edgectl models verify                    is every file still what it was?

The files lie in /var/lib/edged/models for root and in ~/.local/share/edged/models for others; EDGED_STATE
names another place, such as a larger disk."""


STORED_TITLES = {
    "spec": "Model", "size_bytes": "Size", "added_at": "Added", "source": "From", "in_use": "In use",
}  # fmt: skip
AVAILABLE_TITLES = {
    "spec": "Model", "name": "Name", "size_bytes": "Size", "licence": "Licence", "stored": "Here",
}  # fmt: skip


@click.group(epilog=GROUP_EPILOG)
def command() -> None:
    """Fetch, list, import, inspect, verify and remove model files.

    A file becomes loadable only after its SHA-256 and its header were checked.
    """


command.add_command(pull_command)
command.add_command(import_command)
command.add_command(inspect_command)
command.add_command(fit_command)


@command.command(
    "list",
    epilog="""\b
Examples:
  edgectl models list                what is here
  edgectl models list --available    what the catalogue offers
  edgectl models list --json | jq -r '.[].path'""",
)
@click.option("--available", is_flag=True, help="Show what the catalogue offers instead.")
@json_option
def list_command(*, available: bool, as_json: bool) -> None:
    """Show the stored models, and which one the configuration uses."""
    store = local_store()
    rows = available_rows(store) if available else stored_rows(store)
    if as_json:
        emit_json(rows)
    elif rows:
        show_table(rows, AVAILABLE_TITLES if available else STORED_TITLES)
    else:
        click.echo("No model is stored yet; `edgectl models list --available` shows what can be fetched.")
    say_oddities(store)


def stored_rows(store: Store) -> list[dict[str, Any]]:
    try:
        served = switched_model() or configured_model()
    except Usage as error:
        click.echo(f"{error.message}", err=True)
        served = None
    return [
        {
            "spec": ref.spec, "model": ref.model, "quant": ref.quant, "size_bytes": ref.size_bytes,
            "sha256": ref.sha256, "path": str(store.path_of(ref)), "source": ref.source,
            "added_at": ref.added_at, "licence": ref.licence, "present": store.has(ref),
            "in_use": is_used(store, ref, served),
        }
        for ref in store.list()
    ]  # fmt: skip


def available_rows(store: Store) -> list[dict[str, Any]]:
    from edgectl.planning.catalog import load_catalog

    return [
        {
            "spec": f"{entry.id}:{file.quant}", "model": entry.id, "quant": file.quant, "name": entry.name,
            "size_bytes": file.bytes, "sha256": file.sha256, "licence": entry.licence,
            "stored": store.has_blob(file.sha256, file.bytes),
        }
        for entry in load_catalog().models
        for file in entry.files
        if file.sha256 is not None
    ]  # fmt: skip


def show_table(rows: list[dict[str, Any]], titles: dict[str, str]) -> None:
    """Print ``rows`` with the columns of ``titles``."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for key, title in titles.items():
        table.add_column(title, justify="right" if key == "size_bytes" else "left", no_wrap=key == "spec")
    for row in rows:
        table.add_row(*(escape(_cell(key, row)) for key in titles))
    console().print(table)


def _cell(key: str, row: dict[str, Any]) -> str:
    value = row[key]
    if key == "size_bytes":
        return size(value) if row.get("present", True) else "file missing"
    if key == "added_at":
        return str(value)[:10]
    if isinstance(value, bool):
        return "yes" if value else ""
    return str(value)


def say_oddities(store: Store) -> None:
    """Mention on standard error what lies in the store and is no model."""
    unfinished = store.unfinished()
    if unfinished:
        total_bytes = sum(item.size_bytes for item in unfinished)
        click.echo(
            f"{len(unfinished)} unfinished ({size(total_bytes)}): pull it again to go on, or remove it with "
            "`edgectl models rm --unfinished`",
            err=True,
        )
    nameless = store.nameless()
    if nameless:
        total_bytes = sum(path.stat().st_size for path in nameless)
        click.echo(
            f"{len(nameless)} without a name or damaged ({size(total_bytes)}): "
            "`edgectl models rm --unfinished` removes what no configuration uses",
            err=True,
        )
    for path in store.broken():
        click.echo(f"not a readable manifest: {path}", err=True)


@command.command(
    "verify",
    epilog="""\b
Examples:
  edgectl models verify                   every stored model
  edgectl models verify qwen3.5-2b --json

Exit codes: 0 all are intact · 9 one is damaged, missing or unreadable.""",
)
@click.argument("spec", required=False)
@json_option
def verify_command(spec: str | None, *, as_json: bool) -> None:
    """Read every stored model, or SPEC, and compare it with its SHA-256.

    A damaged file is renamed so that nothing loads it; `edgectl models pull` fetches it anew.
    """
    from edgectl.output.transfer import transfer_report

    store = local_store()
    refs = store.list() if spec is None else (stored(store, spec),)
    checked: list[CheckedBlob] = []
    for ref in refs:
        with transfer_report(ref.spec) as report:
            checked += store.verify([ref], for_blob(report))
        if not as_json:
            detail = f" ({checked[-1].detail})" if checked[-1].detail else ""
            click.echo(f"{ref.spec}: {checked[-1].state}{detail}")
    if as_json:
        emit_json([{"spec": c.ref.spec, "state": c.state, "detail": c.detail} for c in checked])
    bad = [item for item in checked if item.state != "ok"]
    if bad:
        listed = ", ".join(f"{item.ref.spec} is {item.state}" for item in bad)
        raise IntegrityError(
            listed, hint="`edgectl models pull` fetches a file anew; repeated damage means a failing card"
        )
    if not refs and not as_json:
        click.echo("No model is stored.")


def for_blob(report: TransferReport) -> Callable[[Ref, int], None]:
    return lambda ref, done_bytes: report.progress(done_bytes, ref.size_bytes)


@command.command(
    "rm",
    epilog="""\b
Examples:
  edgectl models rm qwen3.5-2b:Q4_K_M
  edgectl models rm --unfinished          drop broken-off downloads""",
)
@click.argument("spec", required=False)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Remove it even if it is in use.")
@click.option("--unfinished", is_flag=True,
              help="Remove unfinished downloads and files without a name instead of a model.")  # fmt: skip
@json_option
def rm_command(spec: str | None, *, yes: bool, force: bool, unfinished: bool, as_json: bool) -> None:
    """Remove the stored model SPEC; its bytes go when no other name needs them.

    Refuses the model that the installed configuration names, because edged could not start without it, and
    the one that a job has put in its place.
    """
    store = local_store()
    if unfinished == (spec is not None):
        raise Usage("name a model, or give --unfinished", hint="`edgectl models list` shows the names")
    if spec is None:
        remove_unfinished(store, as_json=as_json)
        return
    ref = stored(store, spec)
    if not force and is_used(store, ref, configured_model()):
        raise Usage(
            f"{ref.spec} is the model that the configuration uses",
            hint="`edgectl install` with another model first, or --force",
        )
    if not force and is_used(store, ref, switched_model()):
        raise Usage(
            f"{ref.spec} is the model that edged serves since a job has switched to it",
            hint="switch to another one first, or --force",
        )
    confirm(ref, yes=yes)
    freed = store.remove(ref)
    if as_json:
        emit_json({"removed": ref.spec, "freed_bytes": ref.size_bytes if freed else 0})
    else:
        click.echo(f"removed {ref.spec}" + (f", {size(ref.size_bytes)} freed" if freed else ""))


def remove_unfinished(store: Store, *, as_json: bool) -> None:
    """Downloads that nobody works on, and files that no name and no configuration needs."""
    removed = store.clean(downloads_older_than_s=0)
    part_bytes = sum(item.size_bytes for item in removed)
    nameless_bytes = 0
    if store.nameless():
        used = {path.resolve() for path in (configured_model(), switched_model()) if path is not None}
        nameless_bytes = store.remove_nameless(keep=lambda path: path.resolve() in used)
    if as_json:
        emit_json({"unfinished": len(removed), "freed_bytes": part_bytes + nameless_bytes})
        return
    click.echo(f"removed {len(removed)} unfinished ({size(part_bytes)})")
    if nameless_bytes:
        click.echo(f"removed {size(nameless_bytes)} without a name")


def confirm(ref: Ref, *, yes: bool) -> None:
    """Ask a person; raise ConfirmationNeeded when the answer is no or nobody can answer."""
    question = f"Remove {ref.spec} ({size(ref.size_bytes)})?"
    if yes or (sys.stdin.isatty() and click.confirm(question, err=True)):
        return
    raise ConfirmationNeeded(f"{ref.spec} was not removed", hint="--yes removes it without asking")
