"""Says that the service cannot replace its own software, and who can."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from edged import __version__
from edged.maintenance.records import JobFailed

if TYPE_CHECKING:
    from edged.maintenance.records import Record
    from edged.maintenance.runner import Running


class Update:
    """The code belongs to root and is read-only for us, so that who breaks in cannot stay."""

    resumable = False

    async def run(self, job: Running) -> dict[str, object]:  # noqa: ARG002 - there is nothing to ask
        """Raises JobFailed, always."""
        raise JobFailed(
            "unsupported",
            f"edged {__version__} runs here, {_installed()}; the service may not replace its own software",
            hint="on the box, as root: upgrade the package with pip, then `edgectl install`",
        )

    def after_restart(self, record: Record) -> None:  # noqa: ARG002 - it was not done
        return None


def _installed() -> str:
    try:
        found = version("edged")
    except PackageNotFoundError:
        return "from a checkout"
    return "the newest installed" if found == __version__ else f"{found} is installed and waits for a restart"
