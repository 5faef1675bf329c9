"""`edgectl models import`: take model files from a disk or a USB stick into the store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgectl.commands.local_models import local_store, name_file, stored_bytes
from edgectl.errors import EdgeError, IntegrityError, NotFound, Usage
from edgectl.models.storage import storage_errors
from edgectl.output.terminal import emit_json, json_option, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgectl.models.naming import Wish
    from edgectl.models.refs import Ref
    from edgectl.models.store import Store
    from edgectl.planning.catalog import Catalog

MAX_DEPTH = 3  # folders below the one that was named

EPILOG = """\b
Examples:
  edgectl models import /media/usb                              every .gguf on the stick
  edgectl models import ~/Qwen3.5-2B-Q4_K_M.gguf                one file, recognised by its hash
  edgectl models import my.gguf --name house-model --quant Q8_0

A copy is made; the stick may be pulled out afterwards. Exit codes: 0 all are here · 3 no space ·
9 a file is damaged or hostile and was left out."""


@click.command("import", epilog=EPILOG)
@click.argument("path", metavar="FILE|DIR", type=click.Path(path_type=Path))
@click.option("--name", metavar="ID", help="Name for a file (default: the catalogue's, or from its header).")
@click.option("--quant", metavar="LABEL", help="Quantization label for a file.")
@json_option
def import_command(path: Path, name: str | None, quant: str | None, *, as_json: bool) -> None:
    """Copy a model file, or all .gguf files of a folder, into the store.

    A file that the catalogue knows by its SHA-256 gets its name there; another one is named from its header
    and file name. Every header is checked before the file becomes loadable.
    """
    from edgectl.models.naming import Wish
    from edgectl.planning.catalog import load_catalog

    files = model_files(path)
    if len(files) > 1 and (name or quant):
        raise Usage(f"{path} holds {len(files)} models; --name and --quant fit one", hint="name one file")
    store, catalog = local_store(), load_catalog()
    store.clean(downloads_older_than_s=float("inf"))
    failed: list[EdgeError] = []
    here: list[dict[str, Any]] = []
    for file in files:
        try:
            ref, fresh = import_file(store, catalog, file, Wish(model=name, quant=quant))
        except EdgeError as error:
            if len(files) == 1:
                raise
            failed.append(error)
            click.echo(f"{file.name}: {error.message}", err=True)
            continue
        stored = store.path_of(ref)
        here.append({
            "spec": ref.spec, "sha256": ref.sha256, "size_bytes": ref.size_bytes, "path": str(stored),
            "fresh": fresh,
        })  # fmt: skip
        if not as_json:
            state = "is now here" if fresh else "is already here"
            click.echo(f"{ref.spec} {state}: {stored} ({size(ref.size_bytes)})")
    if as_json:
        emit_json(here)
    if failed:
        damaged = [error for error in failed if isinstance(error, IntegrityError)]
        worst = (damaged or failed)[0]
        raise type(worst)(
            f"{len(failed)} of {len(files)} files were not imported",
            hint=worst.hint or "the reasons are above",
        )


def model_files(path: Path) -> list[Path]:
    """``path`` itself, or the .gguf files below it. Raises NotFound when there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise NotFound(f"there is no file or folder {path}", hint="check the path; is the USB stick mounted?")
    found = sorted(_models_below(path))
    if not found:
        raise NotFound(f"there is no .gguf file in {path}", hint="name the file itself")
    return found


def _models_below(top: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(top):
        here = Path(folder)
        if len(here.parts) - len(top.parts) >= MAX_DEPTH:
            folders.clear()
        yield from (
            here / name for name in names if name.lower().endswith(".gguf") and not name.startswith(".")
        )


def import_file(store: Store, catalog: Catalog, file: Path, wish: Wish) -> tuple[Ref, bool]:
    """The stored copy of ``file``, and whether it had to be made."""
    from edgectl.models.blobs import hash_file
    from edgectl.models.gguf import read_model
    from edgectl.output.transfer import transfer_report

    with storage_errors("reading the file", file):
        read_model(file)  # a hostile file is refused before gigabytes are copied; the copy is checked again
        total_bytes = file.stat().st_size
    with transfer_report(file.name) as report:

        def progress(done_bytes: int) -> None:
            report.progress(done_bytes, total_bytes)

        if any(ref.size_bytes == total_bytes for ref in store.list()):
            with storage_errors("reading the file", file):
                same = stored_bytes(store, hash_file(file, progress), wish)
            if same is not None:
                return same, False

        def describe(copy: Path, sha256: str, size_bytes: int) -> Ref:
            return name_file(
                store, catalog, copy, wish,
                filename=file.name, source=f"file {file.name}", sha256=sha256, size_bytes=size_bytes,
            )  # fmt: skip

        return store.add_file(file, describe, progress), True
