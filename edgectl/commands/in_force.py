"""The configuration that a daemon with this file would have in force: with the model that a job chose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edged.host.paths import SYSTEM, state_folder
from edged.host.switched import FILE, with_switched

if TYPE_CHECKING:
    from pathlib import Path

    from edged.api.config import Config


def in_force(config: Config, path: Path) -> tuple[Config, str]:
    """``config``, read from ``path``, with the model that a job has put in place of its own.

    The text says why nobody knows whether one has; "" when it is known.
    """
    ours = path == SYSTEM.config and not config.state_dir
    folder = SYSTEM.state if ours else state_folder(config)
    try:
        (folder / FILE).open("rb").close()
    except PermissionError:
        return config, f"whether a job has switched to another model stands in {folder / FILE}: needs root"
    except OSError:
        return config, ""
    return with_switched(config, folder), ""
