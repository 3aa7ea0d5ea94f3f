"""Who may give orders: whoever has the key, or, where there is none, whoever is on this machine and is no web page."""

from __future__ import annotations

import hmac
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from penstock.gateway.http import Call
from penstock.gateway.problems import Refusal

ADMIN_KEY_HEADER = "X-Penstock-Admin-Key"

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""What proxies add: through one, anybody is on this machine."""
_BAD_KEY = "give the admin key as `Authorization: Bearer …` or `X-Penstock-Admin-Key`"
_OFF = "the admin routes are off here: set PENSTOCK_ADMIN_KEY, or listen on a loopback address with no proxy in front"


def check_admin(call: Call) -> None:
    """Raises Refusal: 404 where the admin routes are off, 401 without the key, 403 for a page of another origin."""
    key = call.gateway.settings.admin_key
    if key is None:
        _check_local(call)
    else:
        _check_key(call, key)
    _check_origin(call)


def _check_key(call: Call, key: str) -> None:
    """In constant time, whatever was given."""
    scheme, _, token = (call.header("authorization") or "").partition(" ")
    given = call.header(ADMIN_KEY_HEADER.lower()) or (token.strip() if scheme.lower() == "bearer" else "")
    if not hmac.compare_digest(_digest(given), _digest(key)):
        raise Refusal(401, _BAD_KEY, headers=[("www-authenticate", 'Bearer realm="penstock admin"')])


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogateescape")).digest()


def _check_local(call: Call) -> None:
    """Without a key the listener must be a loopback address, and be asked as one.

    Another name in `Host` is a page whose name was bound to this machine to get around the browser (DNS rebinding).
    """
    listener = call.gateway.listener
    asked = _split(f"//{call.header('host') or 'localhost'}").hostname or ""
    proxied = any(call.header(name) is not None for name in _FORWARDED)
    if listener is None or proxied or not (_is_loopback(listener) and _is_loopback(asked)):
        raise Refusal(404, _OFF)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _split(url: str) -> SplitResult:
    """The parts of an address; of what is none, parts that are empty."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _check_origin(call: Call) -> None:
    """A browser tells where a request comes from; another site must not give orders with what the user has open."""
    site, origin = call.header("sec-fetch-site"), call.header("origin")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        own = origin is None or (_split(origin).netloc or None) == call.header("host")
    if not own:
        raise Refusal(403, "the admin routes take no requests from pages of another origin")
