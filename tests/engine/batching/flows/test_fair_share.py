"""Flows share a contended queue: the invariants of start-time fair queueing, whatever arrives, leaves and is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock.engine.batching.flows.fair_order import FairOrder
from penstock.engine.batching.flows.flow import Flow
from penstock.engine.batching.flows.item import Item
from penstock.engine.batching.queue import MIXED, BatchQueue

BATCH = 8
_loop: Any = None  # nothing of an item is delivered here
FLOWS = [None, *(Flow(name, weight) for name, weight in (("a", 1.0), ("b", 1.0), ("c", 2.0), ("d", 5.0)))]


def item(
    flow: Flow | None, rows: int = 1, key: str = "k", priority: int = 0, deadline: float | None = None
) -> Item[str]:
    return Item(key, key, rows, rows, asyncio.Event(), _loop, 0.0, deadline, priority, flow)  # type: ignore[arg-type]


def queue(max_rows: int = 10**6, batch: int = BATCH, *, shared: bool = True) -> BatchQueue[str]:
    return BatchQueue(max_batch_rows=batch, max_rows=max_rows, max_bytes=10**9, shared=shared)


def add(q: BatchQueue[str], *items: Item[str]) -> None:
    for each in items:
        assert q.offer([each], each.rows, each.bytes) == ()


def weight(flow: Flow | None) -> float:
    return 1.0 if flow is None else flow.weight


def all_of(q: BatchQueue[str]) -> Iterator[list[Item[str]]]:
    while batch := q.take():
        yield batch


# What is promised, by example


def test_a_trickle_beside_a_flood_is_in_the_next_batch() -> None:
    flood, trickle = Flow("flood"), Flow("trickle")
    q = queue()
    add(q, *(item(flood) for _ in range(512)))
    for _ in range(20):
        add(q, small := item(trickle))
        assert small in q.take()


def test_one_request_of_many_rows_is_no_way_around_the_share() -> None:
    """A flow that sends its next request of 8 rows when the last was taken gets no more than one of single rows."""
    large, small = Flow("large"), Flow("small")
    q = queue(batch=1)
    got = {large: 0, small: 0}
    add(q, *(item(small) for _ in range(400)))
    waiting: Item[str] | None = None
    for _ in range(200):
        if waiting is None:
            add(q, waiting := item(large, rows=8))
        (taken,) = q.take()
        got[taken.flow] += taken.rows  # type: ignore[index]
        if taken is waiting:
            waiting = None
    assert abs(got[large] - got[small]) <= 8 + 1


def test_weights_divide_what_is_served() -> None:
    flows = [Flow(str(weight), weight) for weight in (1, 2, 5)]
    q = queue()
    for flow in flows:
        add(q, *(item(flow) for _ in range(200)))
    for _ in range(20):
        q.take()
    left = [sum(1 for one in q._items() if one.flow is flow) for flow in flows]
    assert [200 - count for count in left] == [20, 40, 100]


def test_an_idle_flow_has_earned_nothing() -> None:
    busy, other, idle = Flow("busy"), Flow("other"), Flow("idle")
    q = queue(batch=1)
    add(q, *(item(flow) for _ in range(300) for flow in (busy, other)))
    for _ in range(200):
        q.take()
    add(q, *(item(idle) for _ in range(50)))
    taken = [q.take()[0].flow for _ in range(30)]
    assert 9 <= taken.count(idle) <= 11


def test_priorities_come_before_shares() -> None:
    a, b = Flow("a"), Flow("b")
    q = queue(batch=2)
    add(q, *(item(a, priority=1) for _ in range(4)), *(item(b) for _ in range(4)))
    assert [one.flow for batch in all_of(q) for one in batch] == [a] * 4 + [b] * 4


def test_a_batch_takes_the_rows_of_other_flows_and_priorities_with_its_key() -> None:
    a, b = Flow("a"), Flow("b")
    q = queue()
    first, other, second, low = item(a), item(a, key="other"), item(b), item(b, priority=-1)
    add(q, first, item(b, key="other"), other, second, low)
    assert q.take() == [first, second, low]
    assert {one.key for one in q.take()} == {"other"}


def test_when_one_flow_is_left_the_queue_is_as_with_one() -> None:
    a, b = Flow("a"), Flow("b")
    q = queue()
    add(q, *(item(a) for _ in range(40)), item(b))
    assert q._fair is not None
    q.take()  # the debt of b is behind the virtual time as soon as a has had as much
    assert q._fair is None
    assert q._flow is a
    assert q.rows == 41 - BATCH


def test_bundles_are_cut_smaller_where_several_flows_wait() -> None:
    """A whole run of one flow would leave the run of another one's single request empty."""
    q = queue()
    assert q.bundle_rows() == BATCH
    add(q, item(Flow("a")), item(Flow("b")))
    assert q.take()
    assert [q.bundle_rows() for _ in range(MIXED)] == [BATCH // 4] * MIXED
    assert q.bundle_rows() == BATCH


def test_cancelled_requests_do_not_pile_up_in_the_order() -> None:
    a, b = Flow("a"), Flow("b")
    q = queue()
    add(q, *(item(flow, priority=-1) for flow in (a, Flow("c"))))
    for _ in range(2000):
        add(q, gone := item(b, priority=-1))
        assert q.remove(gone)
    fair = q._fair
    assert fair is not None
    kept = [len(shares._order) + len(shares._idle) for shares in fair._shares.values()]
    assert max(kept) < 200


# A full queue


def test_a_newcomer_evicts_from_the_flow_with_most_rows_and_no_more_than_it_needs() -> None:
    a, b, c = Flow("a"), Flow("b"), Flow("c")
    q = queue(max_rows=12)
    greedy, modest = [item(a) for _ in range(8)], [item(b) for _ in range(4)]
    add(q, *greedy, *modest)
    assert q.offer([item(a)], 1, 1) is None
    assert q.can_evict(0, c)
    assert not q.can_evict(0, a)
    assert q.offer([item(c, rows=2)], 2, 2) == [greedy[7], greedy[6]]
    assert (q.rows, q.requests) == (12, 11)


def test_weights_count_for_what_a_flow_may_have_in_a_full_queue() -> None:
    light, heavy = Flow("light", 1), Flow("heavy", 3)
    q = queue(max_rows=8)
    add(q, *(item(heavy) for _ in range(6)), *(item(light) for _ in range(2)))
    assert q.offer([item(light)], 1, 1) is None  # 3 / 1 is more than 6 / 3
    assert q.offer([item(heavy)], 1, 1) is None
    assert q.offer([item(Flow("new"))], 1, 1)


def test_no_flow_evicts_requests_of_a_higher_priority() -> None:
    a, b = Flow("a"), Flow("b")
    q = queue(max_rows=4)
    add(q, *(item(a, priority=1) for _ in range(4)))
    assert q.offer([item(b)], 1, 1) is None
    assert not q.owes(1, 1, 0, b)


def test_how_many_of_a_turn_find_room_is_what_they_can_take_from_others() -> None:
    a, b, c = Flow("a"), Flow("b"), Flow("c")
    q = queue(max_rows=100)
    add(q, *(item(a) for _ in range(90)), *(item(b) for _ in range(10)))
    assert q.most_rows(300, 0, c) == 45
    assert q.most_rows(30, 0, c) == 30
    assert q.most_rows(300, 0, a) == 0
    assert q.most_rows(300, 0, b) == 40


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(-1, 1)), max_size=40),
    st.tuples(st.integers(0, 4), st.integers(1, 12), st.integers(-1, 1)),
)
def test_eviction_takes_from_lower_priorities_and_from_greedier_flows_only(
    before: Sequence[tuple[int, int, int]], newcomer: tuple[int, int, int]
) -> None:
    q = queue(max_rows=24)
    for flow, rows, priority in before:
        q.offer([item(FLOWS[flow], rows, priority=priority)], rows, rows)
    waiting = list(q._items())
    backlog = {flow: sum(one.rows for one in waiting if one.flow is flow) for flow in FLOWS}
    flow, rows, priority = FLOWS[newcomer[0]], newcomer[1], newcomer[2]
    counted = q.rows, q.requests, q.bytes
    new = item(flow, rows, priority=priority)
    evicted = q.offer([new], rows, rows)
    after = list(q._items())
    if evicted is None:
        assert (q.rows, q.requests, q.bytes) == counted
        assert set(map(id, after)) == set(map(id, waiting))
        return
    assert q.rows <= max(q.max_rows, rows)
    assert set(map(id, after)) == {id(new), *map(id, waiting)} - set(map(id, evicted))
    for gone in evicted:
        share = backlog[gone.flow] / weight(gone.flow)
        assert gone.priority < priority or (gone.priority == priority and share > rows / weight(flow))
        assert gone.flow is not flow or gone.priority < priority
    assert [gone.priority for gone in evicted] == sorted(gone.priority for gone in evicted)
    assert not evicted or q.rows + evicted[-1].rows > q.max_rows or q.requests == 1  # none more than needed


# The eight invariants


class FairShare(RuleBasedStateMachine):
    """Requests of several flows arrive, are cancelled and are taken, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.q = queue()
        self.waiting: list[Item[str]] = []
        self.left: list[Item[str]] = []
        self.spans: dict[tuple[Any, Any], dict[Any, float]] = {}
        """Of each two flows, what each has got per weight while both had something waiting."""

    @initialize(batch=st.integers(1, 12), shared=st.booleans())
    def begin(self, batch: int, shared: bool) -> None:
        self.q = queue(batch=batch, shared=shared)

    @rule(
        flow=st.sampled_from(FLOWS),
        rows=st.integers(1, 6),
        deadline=st.sampled_from([None, 1.0, 2.0]),
        count=st.integers(1, 6),
    )
    def arrive(self, flow: Flow | None, rows: int, deadline: float | None, count: int) -> None:
        for _ in range(count):
            new = item(flow, rows, deadline=deadline)
            add(self.q, new)
            self.waiting.append(new)
        for other in FLOWS:
            self.spans.setdefault((flow, other), {flow: 0.0, other: 0.0})

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.waiting))
        assert self.q.remove(gone)
        assert not self.q.remove(gone)
        self._leaves(gone)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def shrink(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.waiting))
        assert self.q.replace(one, "k", max(1, one.rows - 1), one.rows)

    @rule()
    def take(self) -> None:
        batch = self.q.take()
        assert bool(batch) == bool(self.waiting)  # 4: never idle while something waits
        most = max(self.q.max_batch_rows, batch[0].rows) if batch else 0
        assert sum(one.rows for one in batch) <= most  # 1: within the limits
        assert self.q._shared or len(batch) <= 1
        for one in batch:
            backlogged = {other.flow for other in self.waiting}
            for other in self.waiting:  # 2: within a flow by deadline, then by arrival
                assert other.flow is not one.flow or one.rank <= other.rank
            for (a, b), got in self.spans.items():
                if one.flow in (a, b) and a is not b and {a, b} <= backlogged:
                    got[one.flow] += one.rows / weight(one.flow)
                    assert abs(got[a] - got[b]) <= 6 / weight(a) + 6 / weight(b) + 1e-9  # 3: fair at every step
            self._leaves(one)

    def _leaves(self, one: Item[str]) -> None:
        assert one in self.waiting  # 5: each leaves once
        self.waiting.remove(one)
        self.left.append(one)
        if not any(other.flow is one.flow for other in self.waiting):
            self.spans = {pair: got for pair, got in self.spans.items() if one.flow not in pair}  # begins anew

    @invariant()
    def is_consistent(self) -> None:
        q = self.q
        assert sorted(map(id, q._items())) == sorted(map(id, self.waiting))
        assert (q.requests, q.rows) == (len(self.waiting), sum(one.rows for one in self.waiting))
        if q._fair is None:
            assert len({one.flow for one in self.waiting}) <= 1
            return
        for shares in q._fair._shares.values():
            for flow, share in shares.of.items():
                rows = sum(one.rows for one in self.waiting if one.flow is flow)
                assert share.rows == rows
                assert share.start >= 0
                if share.lists:  # 6: a flow that was idle begins where the others are
                    assert share.start <= shares.virtual + 6 / weight(flow) + 1e-9
                else:  # 7: without a debt, an idle flow is forgotten
                    assert share.finish > shares.virtual
        assert {flow: rows for flow, rows in q._fair.backlog.items() if rows} == {
            flow: rows
            for flow in {one.flow for one in self.waiting}
            if (rows := sum(one.rows for one in self.waiting if one.flow is flow))
        }


TestFairShare = FairShare.TestCase

steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 5), st.sampled_from("kl"), st.integers(-1, 1), st.integers(0, 3)),
        st.tuples(st.just("take"), st.just(0), st.just(""), st.just(0), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 50), st.just(""), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(steps, st.booleans())
def test_with_one_flow_the_order_is_that_of_no_flow(
    steps: Sequence[tuple[str, int, str, int, int]], shared: bool
) -> None:
    """8: also where the fair order decides, as it does for one of the queues."""
    plain, one, fair = queue(shared=shared), queue(shared=shared), queue(shared=shared)
    flow = Flow("only")
    orders: list[list[list[int]]] = [[], [], []]
    pushed: list[list[Item[str]]] = [[], [], []]
    for verb, number, key, priority, deadline in steps:
        for q, own, order, its in zip((plain, one, fair), pushed, orders, (None, flow, flow), strict=True):
            if verb == "push":
                own.append(item(its, number, key, priority, float(deadline)))
                if q is fair and q._fair is None:
                    q._fair = FairOrder(flow, q._line)
                add(q, own[-1])
            elif verb == "cancel" and own:
                q.remove(own[number % len(own)])
            elif verb == "take":
                order.append([own.index(taken) for taken in q.take()])
    for q, own, order in zip((plain, one, fair), pushed, orders, strict=True):
        order.extend([own.index(taken) for taken in batch] for batch in all_of(q))
    assert orders[0] == orders[1] == orders[2]


# The wait of a flow


def test_the_wait_is_that_of_the_flow_and_not_of_the_queue() -> None:
    flood, trickle = Flow("flood"), Flow("trickle")
    q = queue()
    add(q, *(item(flood) for _ in range(500)))
    assert q.rows_before(0, 1.0, flood) == 0  # an earlier deadline than those without one
    assert q.rows_before(0, float("inf"), flood) == 500
    assert q.rows_before(0, float("inf"), trickle) == 1
    assert q.rows_before(-1, float("inf"), trickle) == 500
    add(q, *(item(trickle) for _ in range(10)))
    assert 20 <= q.rows_before(0, float("inf"), trickle) <= 22
    assert q.rows_before(0, float("inf"), flood) == 510


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=1, max_size=60),
    st.integers(0, 4),
    st.integers(0, 10),
)
def test_the_rows_before_a_request_are_those_that_then_run_before_it(
    before: Sequence[tuple[int, int]], newcomer: int, taken: int
) -> None:
    q = queue(batch=1)
    add(q, *(item(FLOWS[flow], 1, priority=priority) for flow, priority in before))
    for _ in range(taken):
        q.take()
    flow = FLOWS[newcomer]
    expected = q.rows_before(0, float("inf"), flow)
    add(q, new := item(flow))
    order = [one for batch in all_of(q) for one in batch]
    assert abs(order.index(new) - expected) <= len(FLOWS)
