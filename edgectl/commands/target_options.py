"""The options of every command that talks to a box: where it is, the key for it, how long to wait."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--url`` and ``--key-file``, passed on as ``url`` and ``key_file``."""
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
