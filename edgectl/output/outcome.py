"""Runs the command line and turns every outcome into a message and an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, TextIO, TypeGuard

import click

from edgectl.errors import EdgeError, NeedsRoot, NoSpace, RolledBack, StorageFailed, exit_code

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_INTERRUPTED = 128 + signal.SIGINT


def run(command: click.Command, argv: list[str] | None = None) -> int:
    """The exit status of ``edgectl argv``; no traceback reaches a person."""
    try:
        result = command.main(args=argv, prog_name="edgectl", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("\nInterrupted.", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except EdgeError as error:
        return report(error)
    except SystemExit:
        # Not ours: click and rich end so on a closed pipe (`edgectl … | head`). The reader has all it wanted.
        discard_output()
        return 0
    except Exception as error:  # noqa: BLE001 - the last stop before a person
        return report_unforeseen(error)
    return result if isinstance(result, int) else 0


@contextlib.contextmanager
def unread_is_failure() -> Iterator[None]:
    """For a command that changes something: a closed output stops it before it does, and that is no success.

    Raises RolledBack. What is done is told through `told_if_read`.
    """
    try:
        yield
    except (BrokenPipeError, SystemExit):  # SystemExit: how rich ends on a closed pipe
        discard_output()
        raise RolledBack(
            "the output was closed, so nothing was changed", hint="run it again without `| head` or the like"
        ) from None


@contextlib.contextmanager
def told_if_read() -> Iterator[None]:
    """For what is said of a deed that is done, whether or not somebody reads it."""
    try:
        yield
    except (OSError, SystemExit):
        discard_output()


def report(error: EdgeError) -> int:
    """Show ``error``, if anybody can see it; its exit status."""
    try:
        show(error)
    except OSError:
        discard_output(sys.stderr)
    return exit_code(error)


def report_unforeseen(error: Exception) -> int:
    """What the system refused, named; else it is a defect."""
    if is_full_disk(error):
        return report_full_disk(error)
    if isinstance(error, PermissionError) and error.filename:
        return report(no_permission(error))
    return report_bug(error)


def no_permission(error: PermissionError) -> EdgeError:
    said = f"{error.filename}: {error.strerror}"
    if os.geteuid() == 0:
        return StorageFailed(said, hint="not even root may do that: is the file system remote, or locked?")
    return NeedsRoot(said, hint="run the same command with sudo, or as the owner of that file")


def show(error: EdgeError) -> None:
    """Two lines: what happened, and what to do next."""
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {error.message}", err=True)
    hint = error.hint
    if not hint and error.retry_after_s:
        hint = f"try again in {error.retry_after_s:.0f} s"
    if hint:
        click.echo(f"  → {hint}", err=True)


def discard_output(stream: TextIO | None = None) -> None:
    """What is still buffered (of standard output) goes nowhere, instead of into a closed pipe at exit."""
    with contextlib.suppress(OSError):  # replaced by something without a descriptor
        closed = (stream or sys.stdout).fileno()
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, closed)
        os.close(descriptor)


def is_full_disk(error: Exception) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def report_full_disk(error: OSError) -> int:
    where = error.filename or "where the output goes"
    full = NoSpace(f"{where}: {error.strerror}", hint="`df -h` shows what is full")
    discard_output()
    return report(full)


def report_bug(error: Exception) -> int:
    if os.environ.get("EDGECTL_DEBUG"):
        traceback.print_exception(error)
    else:
        place = traceback.extract_tb(error.__traceback__)[-1]
        click.echo(
            f"Error: unexpected {type(error).__name__}: {error} (at {place.name}, line {place.lineno})\n"
            "  → this is a defect of edgectl; EDGECTL_DEBUG=1 shows the details to report",
            err=True,
        )
    return 1
