"""Certificates made on the fly with openssl: an authority, and what it signs for brokers and devices."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """A certificate authority of its own; ``file`` is what others have to trust."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder / name
        self._folder.mkdir()
        self.file, self._key = self._folder / "ca.pem", self._folder / "ca.key"
        _openssl(
            "req", "-x509", *_NEW_KEY, "-days", "2", "-keyout", self._key, "-out", self.file,
            "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def issue(self, name: str, *alternatives: str, days: int = 2) -> tuple[Path, Path]:
        """(certificate, key) for common name ``name``; a negative ``days`` is over already."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        asked, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text(
            "basicConstraints=critical,CA:FALSE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
            + (f"subjectAltName={','.join(alternatives)}\n" if alternatives else "")
        )
        _openssl("req", "-new", *_NEW_KEY, "-keyout", key, "-out", asked, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", asked, "-CA", self.file, "-CAkey", self._key, "-CAcreateserial",
            "-days", days, "-extfile", extensions, "-out", certificate,
        )  # fmt: skip
        key.chmod(0o644)  # mosquitto gives up root before it reads it
        return certificate, key

    def server(self, days: int = 2) -> tuple[Path, Path]:
        """What a broker on loopback shows."""
        return self.issue("localhost", "DNS:localhost", "IP:127.0.0.1", days=days)


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
