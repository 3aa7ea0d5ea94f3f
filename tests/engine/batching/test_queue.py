"""The batcher's decisions: what is let in, what runs together, and that the books always balance."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.batching.queue import BatchQueue, Item


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def item(
    loop: asyncio.AbstractEventLoop, rows: int, width: int = 2, priority: int = 0, deadline: float | None = None
) -> Item:
    arrays = {"x": np.zeros((rows, width), np.float32)}
    return Item(arrays, rows, loop.create_future(), loop, 0.0, deadline, priority)


def queue(batch: int = 8, rows: int = 1000, size: int = 10**9) -> BatchQueue:
    return BatchQueue(max_batch_rows=batch, max_rows=rows, max_bytes=size)


def test_a_batch_is_cut_by_rows_and_not_by_requests(loop: asyncio.AbstractEventLoop) -> None:
    q = queue(batch=8)
    for rows in (3, 3, 3, 1):
        q.push(item(loop, rows))
    assert [i.rows for i in q.take()] == [3, 3]
    assert [i.rows for i in q.take()] == [3, 1]
    assert q.take() == []


def test_only_inputs_of_one_shape_share_a_batch_and_the_oldest_goes_first(loop: asyncio.AbstractEventLoop) -> None:
    q = queue()
    first, second, third = item(loop, 1, width=2), item(loop, 1, width=3), item(loop, 1, width=2)
    for each in (first, second, third):
        q.push(each)
    assert q.take() == [first, third]
    assert q.take() == [second]


def test_only_inputs_of_one_dtype_share_a_batch(loop: asyncio.AbstractEventLoop) -> None:
    q = queue()
    floats = item(loop, 1)
    ints = Item({"x": np.zeros((1, 2), np.int64)}, 1, loop.create_future(), loop, 0.0)
    q.push(floats)
    q.push(ints)
    assert q.take() == [floats]
    assert q.take() == [ints]


def test_a_full_queue_refuses_by_rows_and_says_so(loop: asyncio.AbstractEventLoop) -> None:
    q = queue(rows=4)
    q.push(item(loop, 4))
    assert not q.has_room(1)
    assert q.full_of(1) == "4 rows"


def test_a_full_queue_refuses_by_bytes(loop: asyncio.AbstractEventLoop) -> None:
    q = queue(size=100)
    q.push(item(loop, 10))
    assert not q.has_room(1, 60)
    assert q.full_of(1) == "100 bytes"
    assert q.has_room(1, 20)


def test_the_higher_priority_goes_first_then_the_earlier_deadline_then_who_came_first(
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
        q.push(each)
    assert [q.take()[0] for _ in range(6)] == [urgent, soon, late, plain, second, low]


def test_the_best_of_all_lines_goes_first_and_takes_along_who_can_share_its_run(
    loop: asyncio.AbstractEventLoop,
) -> None:
    q = queue()
    narrow, wide, urgent = item(loop, 1, width=2), item(loop, 1, width=3), item(loop, 1, width=3, priority=1)
    for each in (narrow, wide, urgent):
        q.push(each)
    assert q.take() == [urgent, wide]
    assert q.take() == [narrow]


def test_the_rows_that_go_before_a_request_are_those_of_a_better_rank(loop: asyncio.AbstractEventLoop) -> None:
    q = queue()
    q.push(item(loop, 1, deadline=5.0))
    q.push(item(loop, 2, width=3, deadline=9.0))
    q.push(item(loop, 4, priority=1))
    assert q.rows_before(0, 7.0) == 1 + 4
    assert q.rows_before(0, 9.0) == 1 + 2 + 4  # of one deadline, who came first
    assert q.rows_before(2, 7.0) == 0


def test_a_higher_priority_puts_out_no_more_than_it_needs_from_the_end(loop: asyncio.AbstractEventLoop) -> None:
    q = queue(rows=6)
    first, second, low = item(loop, 2), item(loop, 2, width=3), item(loop, 2, priority=-1)
    for each in (first, second, low):
        q.push(each)
    assert not q.gives_way(-1)
    assert q.put_out(1, 0, -1) == []
    assert q.gives_way(0)
    assert q.put_out(3, 0, 0) == []  # two rows of lower priority are not room enough for three
    assert q.rows == 6
    assert q.put_out(2, 0, 0) == [low]
    assert q.put_out(4, 0, 1) == [second]  # with the room that `low` left
    assert q.take() == [first]


def test_a_request_larger_than_the_queue_puts_out_everybody_of_lower_priority_or_nobody(
    loop: asyncio.AbstractEventLoop,
) -> None:
    q = queue(rows=4)
    low, lower = item(loop, 2), item(loop, 2, priority=-1)
    q.push(low)
    q.push(lower)
    assert q.put_out(9, 0, 0) == []
    assert q.put_out(9, 0, 1) == [lower, low]
    assert not q


def test_a_dropped_request_frees_its_room_at_once_and_is_never_run(loop: asyncio.AbstractEventLoop) -> None:
    q = queue(rows=2)
    gone, stays = item(loop, 1), item(loop, 1)
    q.push(gone)
    q.push(stays)
    assert q.drop(gone)
    assert not q.drop(gone)
    assert q.has_room(1)
    assert q.take() == [stays]
    assert (q.rows, q.bytes) == (0, 0)


def test_a_dropped_request_lets_go_of_its_inputs_even_behind_one_that_waits(loop: asyncio.AbstractEventLoop) -> None:
    q = queue()
    q.push(item(loop, 1))
    gone = item(loop, 1)
    there = weakref.ref(gone.future)
    q.push(gone)
    q.drop(gone)
    del gone
    gc.collect()
    assert there() is None


def test_without_joining_every_request_runs_alone_and_whole(loop: asyncio.AbstractEventLoop) -> None:
    q = BatchQueue(max_batch_rows=8, max_rows=100, max_bytes=10**6, join=False)
    for rows in (3, 2):
        q.push(item(loop, rows))
    assert [[i.rows for i in q.take()] for _ in range(2)] == [[3], [2]]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 8), st.integers(1, 3), st.integers(-1, 1), st.integers(0, 3)),
        st.tuples(st.just("drop"), st.integers(0, 30), st.just(0), st.just(0), st.just(0)),
        st.tuples(st.just("take"), st.just(0), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(operations)
def test_whatever_happens_no_request_is_lost_doubled_overtaken_or_put_in_too_large_a_batch(
    loop: asyncio.AbstractEventLoop, steps: list[tuple[str, int, int, int, int]]
) -> None:
    q = queue(batch=8)
    pushed: list[Item] = []
    dropped: set[int] = set()
    taken: list[Item] = []
    for verb, number, width, priority, deadline in steps:
        if verb == "push":
            pushed.append(item(loop, number, width, priority, float(deadline)))
            q.push(pushed[-1])
        elif verb == "drop" and pushed:
            victim = pushed[number % len(pushed)]
            if q.drop(victim):
                dropped.add(id(victim))
        elif verb == "take":
            batch = q.take()
            assert sum(i.rows for i in batch) <= 8
            assert len({i.key for i in batch}) <= 1
            taken += batch
            left = [i for i in pushed if id(i) not in dropped and i not in taken]
            assert all(batch[0].rank < i.rank for i in left)
            assert all(i.rank < other.rank for i in batch for other in left if other.key == i.key)
        waiting = [i for i in pushed if id(i) not in dropped and i not in taken]
        assert bool(q) == bool(waiting)
        assert q.rows == sum(i.rows for i in waiting)
        assert q.bytes == sum(i.bytes for i in waiting)
    while batch := q.take():
        taken += batch
    assert sorted(map(id, taken)) == sorted(id(i) for i in pushed if id(i) not in dropped)
