"""Which network addresses a download may connect to, checked on the socket's own address when it is made.

A name is resolved once, by the connection itself, so an answer that changes between a check and its use (DNS rebinding)
changes nothing. The same holds for redirects and for addresses that are written as numbers.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

_METADATA = frozenset(
    map(ip_address, ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"))
)
"""Where clouds answer with the credentials of a machine."""
_NAT64 = IPv6Network("64:ff9b::/96")


def _embedded(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """The address and the IPv4 addresses that it stands for."""
    if isinstance(address, IPv4Address):
        return [address]
    found: list[IPv4Address | IPv6Address] = [address.ipv4_mapped or address]
    found += [each for each in (address.sixtofour, *(address.teredo or ())) if each is not None]
    if address in _NAT64:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return found


def refusal(host: str, *, private: bool = False) -> str | None:
    """Why a download may not connect to an address; None if it may. `private` allows private and loopback ones."""
    try:
        addresses = _embedded(ip_address(host.partition("%")[0]))
    except ValueError:
        return "is no address"
    for address in addresses:
        if address in _METADATA or address.is_link_local:
            return "is link-local, where clouds keep their credentials"
        if address.is_unspecified or address.is_multicast:
            return "is not one host"
        if not address.is_global and not (private and (address.is_private or address.is_loopback)):
            return "is not a public address; remote_private allows private ones"
    return None


class Guard:
    """Makes the sockets of downloads, and none to an address that is refused."""

    def __init__(self, *, private: bool) -> None:
        self._private = private
        self.refused: str | None = None
        """The sentence about the last address that was refused."""

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The socket for an entry of `getaddrinfo`; raises PermissionError for an address that is refused."""
        family, kind, protocol, _, address = info
        reason = refusal(str(address[0]), private=self._private)
        if reason is not None:
            self.refused = f"{address[0]} {reason}"
            raise PermissionError(self.refused)
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made
