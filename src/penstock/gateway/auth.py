"""Web pages of other origins, and the host that a request is addressed to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import ClassVar

from penstock.errors import quoted
from penstock.gateway.http import Call, Reply, Step
from penstock.gateway.limits.addresses import is_loopback
from penstock.gateway.problems import Refusal
from penstock.settings import Settings

MAX_KNOWN_HOSTS = 64

_OTHER_PAGE = "this route refuses requests from pages of another origin; the setting cors_origins can allow one"
_OTHER_HOST = (
    "{host} is not a name of this server, which answers http://localhost and http://127.0.0.1 when it listens on a "
    "loopback address; the setting allowed_hosts can allow other names"
)
_HOST_ONCE = "a request names its host once, in the header Host"
_ORIGIN = re.compile(r"(https?)://([^/?#@\s]+)")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::(\d{0,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


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
        """`listener` is an IP address or the path of a Unix socket; None where another server listens."""
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


class KnownHosts(Step):
    """Answers only requests that are addressed to this server, as its rule says."""

    by_head: ClassVar[bool] = True

    def __init__(self, rule: HostRule) -> None:
        self._rule = rule
        self._known: set[str] = set()

    def answer(self, call: Call) -> Reply | None:
        """None; raises the refusal of the rule, which is asked only once for each spelling of a host."""
        hosts = call.header_values("host")
        if len(hosts) == 1 and hosts[0] in self._known and call.authority is None:
            return None
        if self._rule.check(call, hosts) and len(self._known) < MAX_KNOWN_HOSTS:
            self._known.add(hosts[0])
        return None


def _is_ip(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False
