"""The options of every command that talks to a box: where it is, keys and certificates, how long to wait."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgectl.client.target import Target

_TLS_FILES = {
    "--ca-file": "Certificate authority to trust with https and mqtts, instead of the system's (PEM).",
    "--cert-file": "Certificate of this client, where the MQTT broker asks for one (PEM).",
    "--cert-key-file": "Private key of --cert-file; not needed when that holds both.",
}


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--url`` and ``--key-file``, passed on as ``url`` and ``key_file``, and what `chosen_target` adds."""
    for name, text in reversed(_TLS_FILES.items()):
        command = click.option(
            name,
            type=click.Path(path_type=Path, dir_okay=False),
            help=text,
            expose_value=False,
            callback=_keep,
        )(command)
    command = click.option(
        "--key-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File with the API key, or for MQTT the broker's password. [env: EDGECTL_KEY_FILE]",
    )(command)
    return click.option(
        "--url",
        help="The box: http://HOST:PORT or mqtt://[USER@]HOST[:PORT][/BASE/NODE]; https and mqtts use TLS."
        " Default: this computer's configuration. [env: EDGECTL_URL]",
    )(command)


def chosen_target(url: str | None, key_file: Path | None) -> Target:
    """`find_target`, with the files of TLS that the command line of this moment names."""
    from edgectl.client.target import find_target

    given = click.get_current_context().meta.get(__name__, {})
    return structs.replace(find_target(url, key_file), **given)


def _keep(context: click.Context, option: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.meta.setdefault(__name__, {})[option.name] = value


def timeout_option(default_s: float, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--timeout``, passed on as ``timeout_s``."""
    return click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=default_s,
        show_default=True,
        metavar="SECONDS",
        help=text,
    )
