from __future__ import annotations

import socket

import pytest

from penstock.registry.remote.addresses import Guard, refusal

PRIVATE = ["127.0.0.1", "127.8.9.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "::1", "fd12::1", "::ffff:10.0.0.1"]
NEVER = [
    *("169.254.169.254", "169.254.1.1", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"),
    *("2002:a9fe:a9fe::1", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
    *("0.0.0.0", "::", "224.0.0.1", "ff02::1", "not an address", ""),
]


@pytest.mark.parametrize("host", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_allowed(host: str) -> None:
    assert refusal(host) is None


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses_are_allowed_where_the_setting_says_so(host: str) -> None:
    assert refusal(host) == "is not a public address; remote_private allows private ones"
    assert refusal(host, private=True) is None


@pytest.mark.parametrize("host", ["64:ff9b::7f00:1", "2002:7f00:1::1", "100.64.0.1"])
def test_addresses_that_stand_for_private_ones_are_refused(host: str) -> None:
    assert refusal(host) is not None


@pytest.mark.parametrize("host", NEVER)
def test_link_local_and_metadata_addresses_are_always_refused(host: str) -> None:
    assert refusal(host, private=True) is not None


def test_no_socket_is_made_for_an_address_that_is_refused() -> None:
    guard = Guard(private=False)
    with pytest.raises(PermissionError, match=r"127.0.0.1 is not a public address"):
        guard.socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80)))
    assert guard.refused is not None
    with Guard(private=True).socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80))) as made:
        assert not made.getblocking()
