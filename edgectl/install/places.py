"""Where an installation puts its files: the system's places, or those of one user."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from edgectl.install.unit import UNIT_NAME
from edged.host.keys import own_key_path
from edged.host.paths import SYSTEM, default_paths, user_paths


class Places(Struct, frozen=True, kw_only=True):
    """``record`` keeps the manifest of what is installed, and the journal while that changes.

    ``private`` is where systemd keeps the state of a service without a user of its own; ``state`` becomes a
    link to it at the first start (systemd.exec(5), DynamicUser=).
    """

    user: bool
    config: Path
    unit: Path
    state: Path
    models: Path
    record: Path
    private: Path | None = None

    @property
    def backup(self) -> Path:
        """Where a hand-edited configuration goes when a new one takes its place."""
        return self.config.with_name(f"{self.config.name}.bak")

    @property
    def keys(self) -> tuple[Path, Path]:
        """Where `edgectl keys` puts hashes and the key of this computer, unless told otherwise."""
        hashes = self.config.with_name("keys.toml")
        return hashes, own_key_path(hashes)


def places(*, user: bool, root: Path = Path("/")) -> Places:
    """The places of this user, or of the system below ``root``."""
    if user:
        paths = user_paths()
        units = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"
        return Places(
            user=True,
            config=paths.config,
            unit=units / UNIT_NAME,
            state=paths.state,
            models=default_paths(user=True).models,
            record=paths.state.with_name("edged-install"),
        )
    models = default_paths(user=False).models
    return Places(
        user=False,
        config=_below(root, SYSTEM.config),
        unit=_below(root, Path("/etc/systemd/system") / UNIT_NAME),
        state=_below(root, SYSTEM.state),
        models=_below(root, models),
        record=_below(root, SYSTEM.state.with_name("edged-install")),
        private=_below(root, SYSTEM.state.parent / "private" / SYSTEM.state.name),
    )


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")
