"""TLS: certificate and key, which can be exchanged while the server runs, and certificates of clients."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from penstock.errors import ConfigError
from penstock.settings import Settings


class Tls:
    """What new connections are encrypted with."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError for files that cannot be used."""
        self.context = _context(settings)

    def again(self, settings: Settings) -> Callable[[], None]:
        """Read the files of these settings; what is returned has new connections use them. Raises ConfigError."""
        if settings.tls_cert is None:
            raise ConfigError("tls_cert is not set any more; a server that speaks HTTPS needs it until it ends")
        context = _context(settings)

        def use() -> None:
            self.context = context

        return use


def tls_of(settings: Settings) -> Tls | None:
    """None without `tls_cert`. Raises ConfigError for files that cannot be used, and for half of a setting."""
    if settings.tls_cert is not None:
        return Tls(settings)
    for name in ("tls_key", "tls_client_ca"):
        if getattr(settings, name) is not None:
            raise ConfigError(f"{name} needs a certificate; set tls_cert as well")
    return None


def _context(settings: Settings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    cert, key, clients = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    for path in (cert, key, clients):
        _check_readable(path)
    try:
        context.load_cert_chain(str(cert), None if key is None else str(key), password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"tls_cert and tls_key are no pair of PEM files that can be used: {_reason(error)}") from None
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(str(clients))
        except ssl.SSLError as error:
            raise ConfigError(f"tls_client_ca holds no certificates in PEM: {_reason(error)}") from None
    return context


def _check_readable(path: Path | None) -> None:
    try:
        if path is not None:
            path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _no_password() -> str:
    raise ValueError("the key has a password, and nobody is there to type it")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).lower().replace("_", " ")
