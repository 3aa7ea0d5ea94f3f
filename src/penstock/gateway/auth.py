"""Access to the admin routes: by key, or without a key for same-origin clients on loopback."""

from __future__ import annotations

import hmac
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from penstock.gateway.http import Call, Step
from penstock.gateway.problems import Refusal

ADMIN_KEY_HEADER = "X-Penstock-Admin-Key"

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers that proxies add. Behind a proxy every client seems to be on this machine."""
_BAD_KEY = "send the admin key as `Authorization: Bearer …` or `X-Penstock-Admin-Key`"
_OFF = "the admin routes are off: set PENSTOCK_ADMIN_KEY, or listen on a loopback address without a proxy in front"


class AdminGuard(Step):
    """Admits requests to the admin routes: those with the key; without a key, same-origin clients on loopback."""

    def __init__(self, key: str | None, listener: str | None) -> None:
        """`listener` is the IP address this process listens on; None where that is unknown."""
        self._key = key
        self._listener = listener

    def guard(self, call: Call) -> None:
        """Raises Refusal: 404 if the admin routes are off, 401 without the key, 403 for a page of another origin."""
        if self._key is None:
            _check_local(call, self._listener)
        else:
            _check_key(call, self._key)
        _check_origin(call)


def _check_key(call: Call, key: str) -> None:
    """Compare in constant time."""
    scheme, _, token = (call.header("authorization") or "").partition(" ")
    given = call.header(ADMIN_KEY_HEADER.lower()) or (token.strip() if scheme.lower() == "bearer" else "")
    if not hmac.compare_digest(_digest(given), _digest(key)):
        raise Refusal(401, _BAD_KEY, headers=[("www-authenticate", 'Bearer realm="penstock admin"')])


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogateescape")).digest()


def _check_local(call: Call, listener: str | None) -> None:
    """Without a key, both the listener and `Host` must be loopback addresses.

    Another name in `Host` means DNS rebinding: a page whose host name was pointed at this machine.
    """
    host = _split(f"//{call.header('host') or 'localhost'}").hostname or ""
    proxied = any(call.header(name) is not None for name in _FORWARDED)
    if listener is None or proxied or not (_is_loopback(listener) and _is_loopback(host)):
        raise Refusal(404, _OFF)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _split(url: str) -> SplitResult:
    """The parts of a URL; empty parts for a string that is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _check_origin(call: Call) -> None:
    """Refuse requests that a browser sends for a page of another origin (cross-site request forgery)."""
    site, origin = call.header("sec-fetch-site"), call.header("origin")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        own = origin is None or (_split(origin).netloc or None) == call.header("host")
    if not own:
        raise Refusal(403, "the admin routes refuse requests from pages of another origin")
