"""Which address a request comes from, behind proxies that are trusted to say so, and its limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from penstock.gateway.limits.gcra import Gcra
from penstock.gateway.limits.slots import Limit, Slots

MOST_KNOWN = 16_384
LONGEST_KNOWN = 200
"""Characters of an X-Forwarded-For that is kept with its limit."""
MOST_HOPS = 20
"""Addresses of X-Forwarded-For that are looked at, the nearest first."""
UNIX = "unix"
"""The address of clients over a Unix socket."""


def network_of(address: str) -> str:
    """An address as it is counted: of IPv6 the network of 64 bits that one customer has."""
    if ":" not in address:
        return address
    found = ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped) if mapped is not None else str(int(found) >> 64)


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


class Proxies:
    """The proxies that are trusted to tell the address of a client."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._unix = UNIX in trusted
        self._networks = [ip_network(network) for network in trusted if network != UNIX]
        self.any = bool(trusted)

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """The address of a client: the nearest one that is no trusted proxy, as the trusted ones tell it.

        What others have written before is ignored, since anybody can send the header. `peer` is the other end of the
        connection, `forwarded` the values of X-Forwarded-For.
        """
        address = peer
        hops = ",".join(forwarded).rsplit(",", MOST_HOPS)[-MOST_HOPS:] if forwarded else []
        while hops and self._trusts(address):
            told = _address_in(hops.pop())
            if told is None:
                break
            address = told
        return address

    def _trusts(self, address: str) -> bool:
        if address == UNIX:
            return self._unix
        found = _parsed(address)
        return found is not None and any(found in network for network in self._networks)


class AddressLimits:
    """One limit for each client address."""

    def __init__(self, slots: Slots, rate: Gcra, proxies: Proxies) -> None:
        self._slots = slots
        self._rate = rate
        self._proxies = proxies
        self._known: dict[str | tuple[str, ...], Limit] = {}

    def of(self, peer: str | None, header_values: Callable[[str], Sequence[str]]) -> Limit:
        """That of the client of a request; `peer` is None over a Unix socket."""
        address = peer or UNIX
        key: str | tuple[str, ...] = address
        forwarded: Sequence[str] = ()
        if self._proxies.any:
            forwarded = header_values("x-forwarded-for")
            key = (address, *forwarded)
        found = self._known.get(key)
        if found is not None:
            return found
        made = Limit(self._slots, f"address {_counted(self._proxies.client(address, forwarded))}", self._rate)
        if sum(map(len, key)) <= LONGEST_KNOWN:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()  # the states are elsewhere
            self._known[key] = made
        return made


def _counted(address: str) -> str:
    try:
        return network_of(address)
    except ValueError:
        return address


@lru_cache(maxsize=1024)
def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def _address_in(hop: str) -> str | None:
    """The address of a hop, perhaps with a port: `203.0.113.9`, `203.0.113.9:443`, `[2001:db8::1]:443`."""
    text = hop.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    found = _parsed(text)
    return None if found is None else str(found)
