"""TLS as a client: from version 1.2 on, the server's certificate and name checked."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class _Socket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho would leave that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the signature of ssl
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def trusting(ca_file: Path | str | None) -> ssl.SSLContext:
    """A context that believes the authorities in ``ca_file``, or the system's; raises OSError."""
    made = ssl.create_default_context(cafile=ca_file)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.sslsocket_class = _Socket
    return made


def show_certificate(context: ssl.SSLContext, cert_file: Path | str, key_file: Path | str | None) -> None:
    """Have ``context`` show a certificate of ours; raises OSError, ssl.SSLError when the two do not fit."""
    # Asked for a password, OpenSSL would wait at a terminal.
    context.load_cert_chain(cert_file, key_file, password=lambda: "")
