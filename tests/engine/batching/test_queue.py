"""The batcher's decisions: what is admitted, what runs together, and counters that match the contents."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.batching.collation import ArrayCollator
from penstock.engine.batching.flows.item import Item
from penstock.engine.batching.queue import BatchQueue
from penstock.tensors import Arrays


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def item(
    loop: asyncio.AbstractEventLoop, rows: int, width: int = 2, priority: int = 0, deadline: float | None = None
) -> Item[Arrays]:
    return item_of({"x": np.zeros((rows, width), np.float32)}, loop, priority, deadline)


def item_of(
    arrays: Arrays, loop: asyncio.AbstractEventLoop, priority: int = 0, deadline: float | None = None
) -> Item[Arrays]:
    return Item(arrays, *ArrayCollator().measure(arrays), loop.create_future(), loop, 0.0, deadline, priority)


def add(queue: BatchQueue[Arrays], *items: Item[Arrays]) -> None:
    for each in items:
        assert queue.offer([each], each.rows, each.bytes) == ()


def evicted(
    queue: BatchQueue[Arrays], loop: asyncio.AbstractEventLoop, rows: int, priority: int
) -> tuple[list[Item[Arrays]] | None, Item[Arrays]]:
    """The items evicted for a request of `rows` rows, and that request."""
    offered = item(loop, rows, priority=priority)
    found = queue.offer([offered], rows, offered.bytes)
    return None if found is None else list(found), offered


def queue(batch: int = 8, rows: int = 1000, size: int = 10**9) -> BatchQueue[Arrays]:
    return BatchQueue(max_batch_rows=batch, max_rows=rows, max_bytes=size)


def test_a_batch_is_cut_by_rows_and_not_by_requests(loop: asyncio.AbstractEventLoop) -> None:
    q = queue(batch=8)
    for rows in (3, 3, 3, 1):
        add(q, item(loop, rows))
    assert [i.rows for i in q.take()] == [3, 3]
    assert [i.rows for i in q.take()] == [3, 1]
    assert q.take() == []


def test_only_inputs_of_one_shape_share_a_batch_and_the_oldest_goes_first(loop: asyncio.AbstractEventLoop) -> None:
    q = queue()
    first, second, third = item(loop, 1, width=2), item(loop, 1, width=3), item(loop, 1, width=2)
    for each in (first, second, third):
        add(q, each)
    assert q.take() == [first, third]
    assert q.take() == [second]


def test_only_inputs_of_one_dtype_share_a_batch(loop: asyncio.AbstractEventLoop) -> None:
    q = queue()
    floats = item(loop, 1)
    ints = item_of({"x": np.zeros((1, 2), np.int64)}, loop)
    add(q, floats)
    add(q, ints)
    assert q.take() == [floats]
    assert q.take() == [ints]


def test_a_full_queue_refuses_by_rows_with_the_limit(loop: asyncio.AbstractEventLoop) -> None:
    q = queue(rows=4)
    add(q, item(loop, 4))
    assert not q.has_capacity(1)
    assert q.exceeded_limit(1) == "4 rows"


def test_a_full_queue_refuses_by_bytes(loop: asyncio.AbstractEventLoop) -> None:
    q = queue(size=100)
    add(q, item(loop, 10))
    assert not q.has_capacity(1, 60)
    assert q.exceeded_limit(1) == "100 bytes"
    assert q.has_capacity(1, 20)


def test_order_is_priority_then_deadline_then_arrival(
    loop: asyncio.AbstractEventLoop,
) -> None:
    q = queue(batch=1)
    plain, second, urgent, soon, late, low = (
        item(loop, 1),
        item(loop, 1),
        item(loop, 1, priority=2, deadline=50.0),
        item(loop, 1, deadline=5.0),
        item(loop, 1, deadline=9.0),
        item(loop, 1, priority=-1, deadline=1.0),
    )
    for each in (low, plain, late, second, soon, urgent):
        add(q, each)
    assert [q.take()[0] for _ in range(6)] == [urgent, soon, late, plain, second, low]


def test_the_best_request_goes_first_together_with_those_of_its_key(
    loop: asyncio.AbstractEventLoop,
) -> None:
    q = queue()
    narrow, wide, urgent = item(loop, 1, width=2), item(loop, 1, width=3), item(loop, 1, width=3, priority=1)
    for each in (narrow, wide, urgent):
        add(q, each)
    assert q.take() == [urgent, wide]
    assert q.take() == [narrow]


def test_the_rows_that_go_before_a_request_are_those_of_a_better_rank(loop: asyncio.AbstractEventLoop) -> None:
    q = queue()
    add(q, item(loop, 1, deadline=5.0))
    add(q, item(loop, 2, width=3, deadline=9.0))
    add(q, item(loop, 4, priority=1))
    assert q.rows_before(0, 7.0) == 1 + 4
    assert q.rows_before(0, 9.0) == 1 + 2 + 4  # of one deadline, the first to arrive
    assert q.rows_before(2, 7.0) == 0


def test_a_higher_priority_evicts_no_more_than_it_needs_from_the_end(loop: asyncio.AbstractEventLoop) -> None:
    q = queue(rows=6)
    first, second, low = item(loop, 2), item(loop, 2, width=3), item(loop, 2, priority=-1)
    add(q, first, second, low)
    assert not q.can_evict(-1)
    assert evicted(q, loop, 1, priority=-1)[0] is None
    assert q.can_evict(0)
    assert evicted(q, loop, 3, priority=0)[0] is None  # two rows of lower priority do not make room for three
    assert (q.rows, q.requests) == (6, 3)
    gone, replacement = evicted(q, loop, 2, priority=0)
    assert gone == [low]
    gone, urgent = evicted(q, loop, 4, priority=1)
    assert gone == [replacement, second]
    assert q.take() == [urgent, first]


def test_a_request_larger_than_the_queue_evicts_all_of_lower_priority_or_none(
    loop: asyncio.AbstractEventLoop,
) -> None:
    q = queue(rows=4)
    low, lower = item(loop, 2), item(loop, 2, priority=-1)
    add(q, low, lower)
    assert evicted(q, loop, 9, priority=0)[0] is None
    gone, large = evicted(q, loop, 9, priority=1)
    assert gone == [lower, low]
    assert q.take() == [large]


def test_the_parts_of_a_request_are_queued_together_or_not_at_all(loop: asyncio.AbstractEventLoop) -> None:
    q = queue(rows=5)
    add(q, item(loop, 2))
    parts = [item(loop, 2), item(loop, 2)]
    assert q.offer(parts, 4, sum(part.bytes for part in parts)) is None
    assert q.rows == 2
    parts.pop()
    assert q.offer(parts, 2, parts[0].bytes) == ()


def test_a_removed_request_frees_its_room_at_once_and_is_never_run(loop: asyncio.AbstractEventLoop) -> None:
    q = queue(rows=2)
    gone, stays = item(loop, 1), item(loop, 1)
    add(q, gone)
    add(q, stays)
    assert q.remove(gone)
    assert not q.remove(gone)
    assert q.has_capacity(1)
    assert q.take() == [stays]
    assert (q.rows, q.bytes) == (0, 0)


def test_a_removed_request_releases_its_inputs(loop: asyncio.AbstractEventLoop) -> None:
    q = queue()
    add(q, item(loop, 1))
    gone = item(loop, 1)
    there = weakref.ref(gone.waiter)
    add(q, gone)
    q.remove(gone)
    del gone
    gc.collect()
    assert there() is None


def test_without_sharing_every_request_runs_alone_and_whole(loop: asyncio.AbstractEventLoop) -> None:
    q = BatchQueue(max_batch_rows=8, max_rows=100, max_bytes=10**6, shared=False)
    for rows in (3, 2):
        add(q, item(loop, rows))
    assert [[i.rows for i in q.take()] for _ in range(2)] == [[3], [2]]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 8), st.integers(1, 3), st.integers(-1, 1), st.integers(0, 3)),
        st.tuples(st.just("remove"), st.integers(0, 30), st.just(0), st.just(0), st.just(0)),
        st.tuples(st.just("take"), st.just(0), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(operations)
def test_no_request_is_lost_doubled_overtaken_or_put_in_too_large_a_batch(
    loop: asyncio.AbstractEventLoop, steps: list[tuple[str, int, int, int, int]]
) -> None:
    q = queue(batch=8)
    pushed: list[Item[Arrays]] = []
    removed: set[int] = set()
    taken: list[Item[Arrays]] = []
    for verb, number, width, priority, deadline in steps:
        if verb == "push":
            pushed.append(item(loop, number, width, priority, float(deadline)))
            add(q, pushed[-1])
        elif verb == "remove" and pushed:
            victim = pushed[number % len(pushed)]
            if q.remove(victim):
                removed.add(id(victim))
        elif verb == "take":
            batch = q.take()
            assert sum(i.rows for i in batch) <= 8
            assert len({i.key for i in batch}) <= 1
            taken += batch
            left = [i for i in pushed if id(i) not in removed and i not in taken]
            assert all(batch[0].rank < i.rank for i in left)
            assert all(i.rank < other.rank for i in batch for other in left if other.key == i.key)
        waiting = [i for i in pushed if id(i) not in removed and i not in taken]
        assert q.requests == len(waiting)
        assert q.rows == sum(i.rows for i in waiting)
        assert q.bytes == sum(i.bytes for i in waiting)
    while batch := q.take():
        taken += batch
    assert sorted(map(id, taken)) == sorted(id(i) for i in pushed if id(i) not in removed)
