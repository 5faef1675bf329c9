"""TLS towards the broker: whom we trust, who we are, and what a failure of either means."""

from __future__ import annotations

import re
import ssl
from types import MappingProxyType
from typing import TYPE_CHECKING

from edged.host.tls import show_certificate, trusting
from edged.transports.mqtt.credentials import credential_path
from edged.transports.mqtt.errors import BrokerRefused, BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edged.api.errors import EdgeError

CA_HINT = "mqtt.ca_file must be the PEM file of the authority that signed the broker's certificate"
CERT_HINT = (
    "mqtt.cert_file and mqtt.key_file must be a certificate and its own private key, without a password"
)
CLOCK_HINT = "is the clock of this box right? If so, the broker needs a new certificate"
NAME_HINT = "mqtt.host must be written as in the broker's certificate; `openssl x509 -text` shows its names"
TLS_PORT_HINT = "mqtt.port must be the broker's TLS port, 8883 by custom"

# Why the broker's certificate is not believed, by OpenSSL's number (X509_V_ERR_*).
_UNTRUSTED: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        9: ("its certificate is not valid yet", CLOCK_HINT),
        10: ("its certificate has expired", CLOCK_HINT),
        18: ("its certificate is signed by itself and not by mqtt.ca_file", CA_HINT),
        19: ("its certificate is signed by an authority that is not in mqtt.ca_file", CA_HINT),
        20: ("its certificate is signed by an authority that is not in mqtt.ca_file", CA_HINT),
        21: ("its certificate is signed by an authority that is not in mqtt.ca_file", CA_HINT),
        62: ("its certificate is for another name", NAME_HINT),
        64: ("its certificate is for another address", NAME_HINT),
    }
)

# What the broker said about us before it closed, by the name of the TLS alert (RFC 8446, 6.2).
_ALERTS: tuple[tuple[str, str, str], ...] = (
    (
        "CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE",
        "it wants a certificate from this box",
        "mqtt.cert_file and mqtt.key_file name one; the broker's log says which authority it trusts",
    ),
    (
        "UNKNOWN_CA",
        "it does not know the authority that signed mqtt.cert_file",
        "have its own authority sign it",
    ),
    ("CERTIFICATE_EXPIRED", "the certificate of this box has expired", "put a new one into mqtt.cert_file"),
    ("CERTIFICATE_REVOKED", "the certificate of this box is revoked", "put a new one into mqtt.cert_file"),
    ("CERTIFICATE", "it does not take the certificate of this box", "the broker's log says why"),
    ("PROTOCOL_VERSION", "it speaks no TLS from 1.2 on", "the broker must be brought up to date"),
)


def context(ca_file: str, cert_file: str = "", key_file: str = "") -> ssl.SSLContext:
    """TLS 1.2 or later, the broker's certificate and name checked; raises BrokerUnreachable.

    The files are read at each attempt to connect, so that renewed certificates need no restart.
    """
    authority = _readable("ca_file", ca_file, CA_HINT)
    try:
        made = trusting(authority)
    except ssl.SSLError:
        raise _unusable("ca_file", authority, "holds no certificate", CA_HINT) from None
    if cert_file:
        own = _readable("cert_file", cert_file, CERT_HINT)
        key = _readable("key_file", key_file, CERT_HINT)
        try:
            show_certificate(made, own, key)
        except ssl.SSLError as error:
            raise _unusable("key_file", key, _mismatch(error, own), CERT_HINT) from None
    return made


def failed(error: ssl.SSLError, host: str) -> EdgeError:
    """What a failed handshake with ``host`` means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why, hint = _UNTRUSTED.get(
            error.verify_code, (f"its certificate is no good: {error.verify_message}", CA_HINT)
        )
        if error.verify_code in {62, 64}:
            why = f"{why} than {host}"
        return BrokerUnreachable(why, hint=hint)
    told = alert(error.reason or "")
    if told is not None:
        return told
    return BrokerUnreachable(f"TLS failed ({error.reason or error})", hint=f"{TLS_PORT_HINT}; {CA_HINT}")


def alert(reason: str) -> BrokerRefused | None:
    """The refusal in OpenSSL's name of an alert, or in text that holds it; None when there is none."""
    if "ALERT" not in reason:
        return None
    for pattern, why, hint in _ALERTS:
        if re.search(pattern, reason):
            return BrokerRefused(why, hint=hint)
    return BrokerRefused(f"it ended TLS ({reason})", hint="the broker's log says why")


def last_word(stream: object) -> BrokerRefused | None:
    """The alert that lies unread in a socket to which nothing could be written any more."""
    if isinstance(stream, ssl.SSLSocket):
        try:
            stream.recv(1)
        except ssl.SSLError as error:
            return alert(error.reason or "")
        except OSError:
            return None
    return None


def _readable(key: str, name: str, hint: str) -> Path:
    path = credential_path(name)
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise _unusable(key, path, f"cannot be read: {error.strerror}", hint) from None


def _mismatch(error: ssl.SSLError, cert_file: Path) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"is not the key of {cert_file}"
    return f"and {cert_file} cannot be used ({error.reason or 'no PEM, or with a password'})"


def _unusable(key: str, path: Path, problem: str, hint: str) -> BrokerUnreachable:
    return BrokerUnreachable(f"mqtt.{key} {path} {problem}", hint=hint)
