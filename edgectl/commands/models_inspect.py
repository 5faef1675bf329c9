"""`edgectl models inspect`: what the header of a model file says, here or on a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edgectl.commands.local_models import local_store, stored
from edgectl.errors import DownloadFailed, IntegrityError, NotFound
from edgectl.models.gguf import Header
from edgectl.output.terminal import emit_json, json_option, size

if TYPE_CHECKING:
    from edgectl.models.description import Description
    from edgectl.models.remote import RemoteHeader

SHOWN_CHARS = 120  # of a text in the file; a name has some ten
EPILOG = """\b
Examples:
  edgectl models inspect ./Qwen3.5-2B-Q4_K_M.gguf
  edgectl models inspect https://example.org/m.gguf     before fetching it: reads some MiB of it
  edgectl models inspect qwen3.5-2b:Q8_0 --json | jq .context_tokens

Exit codes: 0 shown · 2 no such file or model · 9 a damaged or hostile file · 75 the server did not answer
as it should, run it again."""


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """A header and where it came from. ``fetched_bytes`` is None for a file of this computer."""

    source: str
    header: Header
    fetched_bytes: int | None = None


@click.command("inspect", epilog=EPILOG)
@click.argument("file", metavar="FILE|URL|SPEC")
@json_option
def inspect_command(file: str, *, as_json: bool) -> None:
    """Show what a GGUF file says about itself: architecture, size, quantization, context, licence.

    FILE is a path, URL an http or https address, SPEC a stored model or one of the catalogue. Only the header
    is read, from a server too (it must answer Range requests), and every length in it is checked. What a
    file says about itself may be wrong: `edgectl models verify` compares stored files with their SHA-256.
    """
    from edgectl.models.description import describe

    found = inspect(file)
    description = describe(found.header)
    if as_json:
        facts = msgspec.to_builtins(description)
        emit_json({"source": found.source, "fetched_bytes": found.fetched_bytes, **facts})
        return
    rows = shown(description)
    width = max(len(title) for title in rows)
    for title, value in {"file": found.source, **rows}.items():
        click.echo(f"{title:<{width}}  {printable(value)}")
    if found.fetched_bytes is not None:
        click.echo(f"{'fetched':<{width}}  {size(found.fetched_bytes)} of it")


def inspect(word: str) -> Inspection:
    """The header of what ``word`` names: an address, else a file, else a stored or catalogued model."""
    if "://" in word:
        from edgectl.models.remote import read_remote_header
        from edgectl.models.sources import web_source

        source = web_source(word)
        return from_server(source.label, read_remote_header(source))
    path = Path(word)
    if path.exists() or "/" in word or word.lower().endswith(".gguf"):
        return from_file(path, word)
    store = local_store()
    try:
        ref = stored(store, word)
    except NotFound:
        return from_catalog(word)
    return from_file(store.path_of(ref), ref.spec)


def from_file(path: Path, label: str) -> Inspection:
    """The header of a file of this computer. Raises NotFound unless it is one."""
    from edgectl.models.gguf import read_header
    from edgectl.models.storage import storage_errors

    if not path.is_file():  # a pipe or a device would never end
        what = "is no regular file" if path.exists() else "does not exist"
        raise NotFound(f"{path} {what}", hint="name a .gguf file, an address, or a model")
    with storage_errors("reading the file", path):
        return Inspection(source=label, header=read_header(path))


def from_server(label: str, remote: RemoteHeader) -> Inspection:
    return Inspection(source=label, header=remote.header, fetched_bytes=remote.fetched_bytes)


def from_catalog(spec: str) -> Inspection:
    """The header of a file of the catalogue: of an installed package, else of the first server that has it.

    Raises NotFound for an unknown name, the last server's DownloadFailed or IntegrityError.
    """
    from edgectl.install.obtain import download_of
    from edgectl.models.remote import read_remote_header
    from edgectl.models.sources import package_file
    from edgectl.planning.catalog import load_catalog

    entry, file = load_catalog().find(spec)
    label = f"{entry.id}:{file.quant}"
    carried = package_file(file.package, file.package_path) if file.package and file.package_path else None
    if carried is not None:
        return from_file(carried, label)
    failure: DownloadFailed | IntegrityError | None = None
    for source in download_of(entry, file).sources:
        try:
            remote = read_remote_header(source)
        except (DownloadFailed, IntegrityError) as error:
            failure = error
            continue
        if remote.header.file_size_bytes == file.bytes:
            return from_server(label, remote)
        failure = IntegrityError(
            f"{source.label} has {remote.header.file_size_bytes:,} bytes, not the {file.bytes:,} of {label}",
            hint="the source has another version of the file",
        )
    raise failure or NotFound(f"nobody offers {label}", hint="`edgectl models list --available` shows others")


def shown(description: Description) -> dict[str, str]:
    """The rows that a person reads, in their order."""
    unknown = "not said"
    kind = "" if description.kind == "model" else f" ({description.kind})"
    part = f", one of {description.parts} parts" if description.parts > 1 else ""
    tokens, layers = description.context_tokens, description.layers
    vocabulary = description.vocabulary_tokens
    return {
        "name": description.name or unknown,
        "architecture": description.architecture + kind,
        "quantization": description.quantization,
        "parameters": count(description.parameters),
        "layers": unknown if layers is None else f"{layers:,}",
        "context": unknown if tokens is None else f"{tokens:,} tokens",
        "vocabulary": unknown if vocabulary is None else f"{vocabulary:,} tokens",
        "chat template": "yes" if description.has_chat_template else "no",
        "licence": description.licence or unknown,
        "size": f"{size(description.size_bytes)}{part}: header {size(description.header_bytes)}, "
        f"{description.tensors:,} tensors {size(description.weights_bytes)}",
    }


def count(number: int) -> str:
    """134515008 → "134.5 million"."""
    if number >= 1_000_000_000:
        return f"{number / 1e9:,.2f} billion"
    return f"{number / 1e6:,.1f} million" if number >= 1_000_000 else f"{number:,}"


def printable(text: str) -> str:
    """``text`` of an untrusted file without what could move the cursor or hide something."""
    cut = text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in cut)
