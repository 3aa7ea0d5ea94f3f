"""The address that a request is counted by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.gateway.limits.addresses import MOST_HOPS, AddressLimits, Proxies
from penstock.gateway.limits.gcra import Gcra
from penstock.gateway.limits.slots import OwnSlots
from penstock.settings import Settings

PROXIES = ("10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48", "unix")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", ["1.1.1.1"], "203.0.113.9"),  # nobody who is trusted
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["203.0.113.9"], "203.0.113.9"),
        ("10.1.2.3", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),  # what a client writes first is ignored
        ("10.1.2.3", ["1.1.1.1, 203.0.113.9, 192.0.2.7"], "203.0.113.9"),
        ("10.1.2.3", ["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.1.2.3", ["203.0.113.9:4711"], "203.0.113.9"),
        ("2001:db8:1::5", ["[2001:db8:2::1]:443"], "2001:db8:2::1"),
        ("unix", ["203.0.113.9"], "203.0.113.9"),
        ("10.1.2.3", ["203.0.113.9, nonsense"], "10.1.2.3"),
        ("10.1.2.3", [""], "10.1.2.3"),
        ("10.1.2.3", ["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
    ],
)
def test_only_trusted_proxies_tell_the_client(peer: str, forwarded: list[str], client: str) -> None:
    assert Proxies(PROXIES).client(peer, forwarded) == client


@given(st.text(alphabet="0123456789abcdef.:, []", max_size=200))
def test_no_header_chooses_the_address_behind_an_untrusted_peer(header: str) -> None:
    assert Proxies(PROXIES).client("198.51.100.1", [header]) == "198.51.100.1"
    assert Proxies(PROXIES).client("10.0.0.1", [header + ",203.0.113.5"]) == "203.0.113.5"


def test_a_long_chain_is_read_from_its_end() -> None:
    chain = ",".join(["10.0.0.1"] * 10_000)
    assert Proxies(PROXIES).client("10.0.0.1", [f"203.0.113.9,{chain}"]) == "10.0.0.1"
    assert MOST_HOPS < 10_000


def test_a_customer_of_ipv6_is_counted_once() -> None:
    limits = AddressLimits(OwnSlots(), Gcra.of(1, 3600, 1), Proxies(()))

    def ask(peer: str | None, *forwarded: str) -> bool:
        return limits.of(peer, lambda _: forwarded).take(1000.0) == 0

    assert [ask("2001:db8::1"), ask("2001:db8::2"), ask("2001:db8:0:1::1")] == [True, False, True]
    assert [ask("203.0.113.1"), ask("::ffff:203.0.113.1"), ask("203.0.113.2")] == [True, False, True]
    assert [ask(None), ask(None)] == [True, False]
    assert not ask("203.0.113.1", "198.51.100.1")  # nobody trusts it


@pytest.mark.parametrize("value", ["10.0.0.1/8", "example.org", "10.0.0.0/33", "any"])
def test_a_proxy_is_an_address(value: str) -> None:
    with pytest.raises(ConfigError, match=r"trusted_proxies: .* should hold addresses"):
        Settings(trusted_proxies=value)
