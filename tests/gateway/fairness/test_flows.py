"""Whose a request is, by key, address or header; and over HTTP, a flood that leaves others their share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from bursts import Held, connected, loop_held, outcomes, received, settled
from equality_cases import request, vector
from live_servers import Live
from waiting import wait_until

from penstock.errors import ConfigError
from penstock.gateway.fairness import flows as flows_module
from penstock.gateway.fairness.flows import Flows
from penstock.settings import Settings, load_settings


@dataclass
class Caller:
    id: str
    weight: float = 1.0


@dataclass
class Sent:
    client: str | None = None
    caller: Caller | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        return self.headers.get(name)

    def header_values(self, name: str) -> list[str]:
        return [self.headers[name]] if name in self.headers else []


def test_a_caller_by_key_has_its_weight_and_one_flow() -> None:
    flows = Flows("key")
    first = flows.of(Sent(caller=Caller("k1", 3)))
    assert (first.id, first.weight) == ("k1", 3)  # type: ignore[union-attr]
    assert flows.of(Sent(caller=Caller("k1", 5))) is first
    assert first is not None
    assert first.weight == 5  # as the operator has changed it
    assert flows.of(Sent(caller=Caller("k2"))) is not first
    assert flows.of(Sent(client="10.0.0.1")) is None


def test_a_caller_by_address_is_one_host_or_one_network_of_ipv6() -> None:
    flows = Flows("address")
    assert flows.of(Sent("10.0.0.1")) is flows.of(Sent("10.0.0.1"))
    assert flows.of(Sent("10.0.0.1")) is not flows.of(Sent("10.0.0.2"))
    assert flows.of(Sent("2001:db8::1")) is flows.of(Sent("2001:db8::ffff:1"))
    assert flows.of(Sent("2001:db8::1")) is not flows.of(Sent("2001:db8:0:1::1"))
    assert flows.of(Sent("::ffff:10.0.0.1")) is flows.of(Sent("10.0.0.1"))
    assert flows.of(Sent(None)) is None


def test_a_proxy_that_is_trusted_tells_the_address() -> None:
    flows = Flows.by("address", ["10.0.0.0/8"])
    assert flows is not None
    told = {"x-forwarded-for": "192.0.2.7"}
    assert flows.of(Sent("10.0.0.1", headers=told)) is flows.of(Sent("192.0.2.7"))
    assert flows.of(Sent("198.51.100.1", headers=told)) is not flows.of(Sent("192.0.2.7"))


def test_a_caller_by_header_is_its_value() -> None:
    flows = Flows("header:x-tenant")
    assert flows.of(Sent(headers={"x-tenant": "a"})) is flows.of(Sent(headers={"x-tenant": "a"}))
    assert flows.of(Sent(headers={"x-tenant": "a"})) is not flows.of(Sent(headers={"x-tenant": "b"}))
    assert flows.of(Sent()) is None


def test_the_memory_of_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows_module, "MOST_FLOWS", 10)
    flows = Flows("header:x-tenant")
    for number in range(100):
        flows.of(Sent(headers={"x-tenant": str(number)}))
        assert len(flows._known) <= 11


@pytest.mark.parametrize(
    ("given", "found"), [("none", "none"), ("Address", "address"), ("header:X-Tenant", "header:x-tenant")]
)
def test_the_setting_takes_its_forms(given: str, found: str) -> None:
    assert load_settings({"fair_share_by": given}, environ={}).settings.fair_share_by == found


@pytest.mark.parametrize("given", ["header", "header:", "header:a b", "tenant", "keys"])
def test_the_setting_refuses_others_by_name(given: str) -> None:
    with pytest.raises(ConfigError, match=r"--fair-share-by.* should be none, key, address or header:NAME"):
        load_settings({"fair_share_by": given}, environ={})


# Over HTTP

PATH = "/models/vec/predict"


def of_tenant(name: str) -> bytes:
    return request(vector(1, 2, 3, 4), PATH, f"X-Tenant: {name}\r\n")


@pytest.fixture
def shared(burst_settings: Settings) -> Iterator[Live]:
    update: dict[str, Any] = {"max_queue_size": 8, "batch_size": 4, "fair_share_by": "header:x-tenant"}
    with Live("h1", burst_settings.model_copy(update=update), ("vec",)) as live:
        yield live


def test_a_full_queue_makes_room_for_a_tenant_with_less_in_it(shared: Live) -> None:
    model = shared.call(lambda: shared.service.engine.model("vec"))
    before = outcomes(shared, "vec:v2.0")
    with Held(model) as held, connected(shared, 12) as (first, *flood, small, last):
        first.sendall(of_tenant("a"))
        wait_until(lambda: model.batcher.running_rows == 1)
        with loop_held(shared):
            for connection in flood:
                connection.sendall(of_tenant("a"))
        assert received(flood.pop()).statuses == [429]  # nine of one tenant do not fit
        wait_until(lambda: model.batcher.queued_rows == 8)
        small.sendall(of_tenant("b"))
        refused = received(flood.pop())
        assert refused.statuses == [429]
        assert b"callers with fewer of them in the full queue" in refused.bodies[0]
        last.sendall(of_tenant("a"))
        assert received(last).statuses == [429]
        held.let_go()
        assert [received(connection).statuses for connection in (first, *flood, small)] == [[200]] * 9
    settled(shared)
    assert outcomes(shared, "vec:v2.0") - before == Counter(ok=9, overloaded=3)


def test_the_tenants_of_one_turn_get_their_shares_of_the_queue(shared: Live) -> None:
    model = shared.call(lambda: shared.service.engine.model("vec"))
    with Held(model) as held, connected(shared, 17) as (first, *others):
        first.sendall(of_tenant("a"))
        wait_until(lambda: model.batcher.running_rows == 1)
        names = ["a"] * 12 + ["b"] * 4
        with loop_held(shared):
            for connection, name in zip(others, names, strict=True):
                connection.sendall(of_tenant(name))
        wait_until(lambda: model.batcher.queued_rows == 8)
        held.let_go()
        got = Counter((name, received(one).statuses[0]) for one, name in zip(others, names, strict=True))
    assert got == {("a", 200): 4, ("a", 429): 8, ("b", 200): 4}
    settled(shared)


def test_without_contention_the_requests_of_all_tenants_share_a_run(shared: Live) -> None:
    with connected(shared, 4) as opened:
        with loop_held(shared):
            for number, connection in enumerate(opened):
                connection.sendall(of_tenant(str(number)))
        assert [received(one).statuses for one in opened] == [[200]] * 4
    histogram = shared.service.engine.get_stats()["models"]["vec:v2.0"]["batch_size_histogram"]
    assert histogram.get("4", histogram.get(4)) == 4
