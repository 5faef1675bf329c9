"""Errors of the command line, and the exit code of every error."""

from __future__ import annotations

from edged.api.errors import EdgeError as EdgeError  # noqa: PLC0414 - re-exported for the commands


class Usage(EdgeError):
    """The command line asks for something that does not make sense."""

    code = "usage"


class NotFound(EdgeError):
    """A model, file or device that was named does not exist."""

    code = "not_found"


class NothingFits(EdgeError):
    """No model of the catalogue runs on this device with these wishes."""

    code = "nothing_fits"


class DeviceUnsupported(EdgeError):
    """The device lacks something that cannot be done without."""

    code = "device_unsupported"


class Unreachable(EdgeError):
    """No daemon or broker answers at the address."""

    code = "unreachable"
    retryable = True


class Unauthorized(EdgeError):
    """The daemon or broker wants a key or password, or another one."""

    code = "unauthorized"


class Unhealthy(EdgeError):
    """The daemon answers, but not as it should."""

    code = "unhealthy"


class RolledBack(EdgeError):
    """A change failed and everything is as it was before."""

    code = "rolled_back"


class RollbackFailed(EdgeError):
    """A change failed, and undoing it failed too."""

    code = "rollback_failed"


class IntegrityError(EdgeError):
    """Bytes are not the bytes they should be: wrong hash, size or format."""

    code = "integrity"


class NeedsRoot(EdgeError):
    """The operation needs root."""

    code = "needs_root"


class NoSpace(EdgeError):
    """The disk has too little free space."""

    code = "no_space"


class StorageFailed(EdgeError):
    """The disk does not do what it must: read-only, failing, or in the way of it."""

    code = "storage"


class DownloadFailed(EdgeError):
    """A download broke off; what arrived is kept and the next try goes on from there."""

    code = "download_failed"
    retryable = True


class DataInvalid(EdgeError):
    """A catalogue or profile entry breaks its schema; names file, key and rule."""

    code = "data"


class CommandFailed(EdgeError):
    """A program of the system (systemctl, loginctl) refused or did not end; the message has its words."""

    code = "command"


class ConfirmationNeeded(EdgeError):
    """The command would change something and was not told to go on."""

    code = "confirmation"


# One table, one place: what a script sees for each code.
EXIT_CODES: dict[str, int] = {
    "internal": 1, "data": 1,
    "usage": 2, "not_found": 2, "bad_request": 2, "too_large": 2, "config": 2, "confirmation": 2,
    "unauthorized": 2,
    "nothing_fits": 3, "no_space": 3, "storage": 3,
    "device_unsupported": 4, "no_box": 4,
    "unreachable": 5,
    "unhealthy": 6, "engine_lost": 6, "model": 6, "port_in_use": 6, "no_address": 6, "command": 6,
    "rolled_back": 7,
    "rollback_failed": 8,
    "integrity": 9,
    "needs_root": 10,
    "busy": 75, "expired": 75, "loading": 75, "memory_guard": 75, "thermal": 75, "cancelled": 75,
    "draining": 75, "download_failed": 75,
}  # fmt: skip


def exit_code(error: EdgeError) -> int:
    """The process exit status for ``error``; 1 for a code nobody listed (a test forbids that)."""
    return EXIT_CODES.get(error.code, 1)
