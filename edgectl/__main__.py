"""The entry of edgectl: what a stop from outside does, and where output goes that nobody wants."""

from __future__ import annotations

import io
import os
import signal
import sys


def main(argv: list[str] | None = None) -> None:
    """Run ``edgectl`` with ``argv`` and exit."""
    interactive = (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )  # else ignored: a job with `&`
    if interactive:  # while modules load there is nothing to clean up, and a traceback would say nothing
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from edgectl.cli import cli
    from edgectl.output.outcome import run

    # From here on a stop unwinds, so that clean-ups run: Ctrl-C, a service manager or `timeout`.
    if interactive:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # a closed terminal; under nohup it is ignored
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by who started us: `>&-`, some cron jobs
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - open as long as we run
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a locale that lacks a character; stderr escapes it anyway
    sys.exit(run(cli, argv))


if __name__ == "__main__":
    main()
