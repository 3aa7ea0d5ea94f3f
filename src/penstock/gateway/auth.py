"""Who may do what: the admin key, requests of web pages, and the host that a request is addressed to."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, ip_address

from penstock.errors import quoted
from penstock.gateway.http import Call, Step
from penstock.gateway.problems import Refusal
from penstock.registry.admin_key import AdminKey
from penstock.settings import Settings

ADMIN_KEY_HEADER = "X-Penstock-Admin-Key"
API_KEY_HEADER = "X-API-Key"

_BAD_KEY = (
    f"send the admin key as `Authorization: Bearer …`, `{API_KEY_HEADER}` or `{ADMIN_KEY_HEADER}`; it is the setting "
    "admin_key (PENSTOCK_ADMIN_KEY), or is in the file admin.key that the start of the server names"
)
_OTHER_PAGE = "this route refuses requests from pages of another origin; the setting cors_origins can allow one"
_OTHER_HOST = (
    "{host} is not a name of this server, which answers http://localhost and http://127.0.0.1 when it listens on a "
    "loopback address; the setting allowed_hosts can allow other names"
)
_HOST_ONCE = "a request names its host once, in the header Host"
_ORIGIN = re.compile(r"(https?)://([^/?#@\s]+)")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::(\d{0,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class AdminGuard(Step):
    """Admits requests to the admin routes: those with the key, and those of an operator."""

    def __init__(self, key: AdminKey, listener: str | None) -> None:
        """`listener` is what this process listens on: an IP address, or the path of a Unix socket."""
        self._key = key
        self._open = _is_socket(listener)

    def guard(self, call: Call) -> None:
        """Raises Refusal: 401 without the key, 403 for a page of another origin."""
        if not self._open and not call.operator:
            _check_key(call, self._key.current())
        check_origin(call, guarded=True)


def _check_key(call: Call, key: str | None) -> None:
    """Compare in constant time. Without a key nobody is admitted."""
    wanted = _digest(key or "")
    matches = [hmac.compare_digest(_digest(given), wanted) for given in _keys_in(call)]
    if key is None or not any(matches):
        raise Refusal(401, _BAD_KEY, headers=[("www-authenticate", 'Bearer realm="penstock admin"')])


def _keys_in(call: Call) -> Iterator[str]:
    for value in call.header_values("authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            yield token.strip()
    for name in (ADMIN_KEY_HEADER, API_KEY_HEADER):
        yield from call.header_values(name.lower())


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogateescape")).digest()


def _is_socket(listener: str | None) -> bool:
    return listener is not None and listener.startswith("/")


# Pages


def check_origin(call: Call, *, guarded: bool = False) -> None:
    """Refuse what a browser sends for a page of another origin (cross-site request forgery).

    Pages of an origin in `cors_origins` are allowed; `*` there does not open guarded routes. A browser says itself
    whether the page is of the same origin (`Sec-Fetch-Site`); one that does not is judged by `Origin`. Other clients
    send neither. Raises Refusal (403).
    """
    origins, sites = call.header_values("origin"), call.header_values("sec-fetch-site")
    if not origins and not sites:
        return
    allowed = call.service.settings.cors_origins
    if len(origins) > 1 or len(sites) > 1:
        own = False
    elif (origins and origins[0].lower() in allowed) or ("*" in allowed and not guarded):
        own = True
    elif sites:
        own = sites[0].lower() in ("same-origin", "none")
    else:
        own = _is_own(origins[0], _addressed(call))
    if not own:
        raise Refusal(403, _OTHER_PAGE)


def _is_own(origin: str, host: str | None) -> bool:
    """True for the origin of the host that the request is addressed to; its scheme may be that of a proxy."""
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None or host is None:
        return False
    port = _DEFAULT_PORTS[match[1]]
    return _with_port(match[2], port) == _with_port(host.lower(), port)


def _with_port(host: str, default: str) -> tuple[str, str] | None:
    match = _HOST.fullmatch(host)
    return None if match is None else (match[1] or match[2], match[3] or default)


def _addressed(call: Call) -> str | None:
    """The host of a request; None if it names none or several."""
    hosts = call.header_values("host")
    if call.authority is not None:
        return call.authority
    return hosts[0] if len(hosts) == 1 else None


# Hosts


class HostRule:
    """Which hosts requests may be addressed to. It refuses those of DNS rebinding.

    In such an attack a page makes its own host name point at this machine; to the browser, the server is then of the
    page's origin. On a loopback address the names of this machine and `allowed_hosts` are answered. On other addresses
    every name is, unless `allowed_hosts` is set; IP addresses always are, since no page can make one its own.
    """

    def __init__(self, settings: Settings, listener: str | None) -> None:
        """`listener` is as for AdminGuard; None where another server listens, which tells the address per request."""
        self._names = frozenset(name for name in settings.allowed_hosts if not name.startswith("*."))
        self._domains = tuple(name[1:] for name in settings.allowed_hosts if name.startswith("*."))
        self._on_loopback = None if listener is None and is_loopback(settings.host) else is_loopback(listener or "")
        """None if that depends on the connection."""
        self.needed = "*" not in self._names and (self._on_loopback is not False or bool(settings.allowed_hosts))
        """False if every host that is one is answered."""

    def check(self, call: Call, hosts: Sequence[str]) -> bool:
        """Raises Refusal: 421 for another host, 400 for none, several or none that is valid; True if `hosts` alone
        decided it.
        """
        named = [*hosts, *(() if call.authority is None else (call.authority,))]
        least = {"1.1": len(hosts), "1.0": 1}.get(call.http_version, len(named))
        if len(hosts) > 1 or not least:
            raise Refusal(400, _HOST_ONCE)
        local = self._on_loopback
        if local is None:
            local = is_loopback(call.server or "")
        limited = self.needed and (local or bool(self._names or self._domains))
        for name in named:
            if limited and not self._allows(name, local):
                raise Refusal(421, _OTHER_HOST.format(host=quoted(name)))
            if not limited and _HOST.fullmatch(name) is None:
                raise Refusal(400, f"{_HOST_ONCE}; {quoted(name)} is no host")
        return len(named) == 1 and call.authority is None and self._on_loopback is not None

    def _allows(self, host: str, local: bool) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = (match[1] or match[2]).lower().removesuffix(".")
        shown = f"[{name}]" if match[1] else name
        return shown in self._names or name.endswith(self._domains) or is_loopback(name) or (not local and _is_ip(name))


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """True for a name or an address of this machine that no other machine can have."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _is_ip(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False
