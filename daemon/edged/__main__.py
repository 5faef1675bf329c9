"""The entry of edged: arguments, configuration, logging, exit status."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edged import __version__
from edged.api.errors import ConfigInvalid, EdgeError
from edged.host.config import load
from edged.host.paths import default_paths, state_folder

if TYPE_CHECKING:
    from edged.api.config import Config

EXIT_PASSING = 1  # a port that is taken, an address that is not there yet: the unit tries again
EXIT_CONFIG = 78  # sysexits.h EX_CONFIG: the unit does not restart on it

log = logging.getLogger("edged")


def main(argv: list[str] | None = None) -> None:
    """Run ``edged`` and exit: 0 stopped as told · 1 defect, or nowhere to listen now · 78 configuration."""
    parser = argparse.ArgumentParser(
        prog="edged",
        description="Serve a language model over MQTT and HTTP inside hard memory limits.",
        epilog="Exit status: 0 stopped, 1 defect or nowhere to listen now, 2 usage, 78 configuration."
        " Example: edged --config x.toml",
    )
    paths = default_paths()
    about = f"configuration file (default {paths.config})"
    parser.add_argument("--config", type=Path, default=paths.config, help=about)
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument("--version", action="version", version=f"edged {__version__}")
    sys.exit(run(parser.parse_args(argv)))


def run(arguments: argparse.Namespace) -> int:
    """The exit status of one run with parsed ``arguments``."""
    try:
        config = load(arguments.config)
        if arguments.check:
            print(f"{arguments.config} is valid")
            return 0
        _require_daemon_extra()
    except EdgeError as error:
        return _refuse(error)
    # journald stamps the time itself; under a terminal or in a test it is wanted.
    form = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    form += "level=%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=config.log.level.upper(), format=form)
    for noisy in ("httpx", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    log.info("edged %s node=%s model=%s", __version__, config.node, config.model.name)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve(config, state_folder(config), arguments.config))
    except EdgeError as error:
        return _refuse(error)
    return 0


async def _serve(config: Config, state_dir: Path, config_path: Path) -> None:
    from edged.app import App  # noqa: PLC0415 - so that --help and a bad configuration need no transports

    await App(config, state_dir, config_path).run()


def _require_daemon_extra() -> None:
    missing = [name for name in ("starlette", "uvicorn", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigInvalid(
            "this installation",
            (f"{', '.join(missing)} missing; in the checkout: pip install '.[daemon]'",),
        )


def _refuse(error: EdgeError) -> int:
    print(f"edged: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  → {error.hint}", file=sys.stderr)
    return EXIT_CONFIG if isinstance(error, ConfigInvalid) else EXIT_PASSING


if __name__ == "__main__":
    main()
