"""Small predictions of one turn: a bug in what answers them together costs no request its answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from bursts import Held, alone, answer, bundled, connected, loop_held, outcomes, received, settled, together
from equality_cases import in_chunks, request, vector
from live_servers import Live
from waiting import LONG_S, wait_until

from penstock.engine.loading.loaded_model import LoadedModel
from penstock.gateway.bundles import replies, turns
from penstock.gateway.bundles.turns import Turns
from penstock.settings import Settings

ROW = {"input_data": [0.1, 0.2, 0.3, 0.4]}


def post(live: Live) -> Any:
    return live.http.post("/models/vec/predict", json=ROW)


@pytest.fixture
def bundling(base_settings: Settings) -> Any:
    with Live("h1", base_settings) as live:
        yield live


def test_requests_are_answered_alone_when_answering_them_together_fails(
    bundling: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = post(bundling).json()["predictions"]
    called = []

    def broken(*given: Any) -> Any:
        called.append(given)
        raise RuntimeError("a bug")

    monkeypatch.setattr(Turns, "_find", broken)
    reply = post(bundling)
    assert called
    assert reply.status_code == 200
    assert reply.json()["predictions"] == expected


def test_an_answer_that_cannot_be_written_is_an_error_with_the_request_id(
    bundling: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "_stamp", lambda *_: None)  # bytes + None raises for each answer
    reply = post(bundling)
    assert reply.status_code == 500
    assert reply.json()["request_id"] == reply.headers["x-request-id"]
    monkeypatch.undo()
    assert post(bundling).status_code == 200
    assert bundling.service.engine.inflight == 0
    assert len(bundling.gateway.inflight) == 0


# A full queue

PATH = "/models/vec/predict"
GOOD = request(vector(1, 2, 3, 4), PATH)


@pytest.fixture
def small_queue(burst_settings: Settings) -> Iterator[Live]:
    settings = burst_settings.model_copy(update={"max_queue_size": 4, "batch_size": 4})
    with Live("h1", settings, ("vec",)) as live:
        yield live


def model_of(live: Live) -> LoadedModel:
    return live.call(lambda: live.service.engine.model("vec"))


def held_with_full_queue(live: Live, model: LoadedModel) -> list[asyncio.Future[Any]]:
    """Requests that run or wait, so that the queue has no room."""
    engine = live.service.engine
    row = {"input_data": [0.1, 0.2, 0.3, 0.4]}
    waiting = [asyncio.run_coroutine_threadsafe(engine.predict(row, ref="vec"), live.loop)]
    wait_until(lambda: model.batcher.running_rows == 1)
    waiting += [asyncio.run_coroutine_threadsafe(engine.predict(row, ref="vec"), live.loop) for _ in range(4)]
    wait_until(lambda: model.batcher.queued_rows == 4)
    return waiting  # type: ignore[return-value]


def test_a_full_queue_refuses_a_turn_before_it_reads_bodies_with_the_same_bytes_as_alone(small_queue: Live) -> None:
    model, before = model_of(small_queue), outcomes(small_queue, "vec:v2.0")
    assert not small_queue.service.engine.statistics.shows_failures  # the default: they are counted together
    forms = [
        GOOD,
        request(b"no JSON at all", PATH),
        request(vector(1, 2, 3, 4), PATH, 'X-Request-ID: an"id\\with&signs\r\n'),
        request(vector(1, 2, 3, 4), PATH, "Connection: close\r\n"),
    ]
    with Held(model) as held:
        waiting = held_with_full_queue(small_queue, model)
        with bundled(small_queue) as members:
            got = together(small_queue, forms, len(forms))
        expected = [answer_alone(small_queue, form) for form in forms]
        held.let_go()
        for each in waiting:
            each.result()
    assert [reply[0] for reply in got] == [b"HTTP/1.1 429 Too Many Requests"] * 4
    assert all(b"retry-after: 1" in reply[1] for reply in got)
    assert got == expected
    assert members == Counter()
    settled(small_queue)
    assert outcomes(small_queue, "vec:v2.0") - before == Counter(ok=5, overloaded=8)


def answer_alone(live: Live, form: bytes) -> Any:
    """The answer of the ordinary way, which takes bodies in chunks."""
    return alone(live, [in_chunks(form)])[0]


def test_a_request_of_a_higher_priority_takes_the_place_of_another_in_a_full_queue(small_queue: Live) -> None:
    model = model_of(small_queue)
    with Held(model) as held:
        waiting = held_with_full_queue(small_queue, model)
        with connected(small_queue, 1) as (connection,):
            connection.sendall(request(vector(1, 2, 3, 4), PATH, "X-Penstock-Priority: 5\r\n"))
            wait_until(lambda: any(each.done() for each in waiting))
            held.let_go()
            assert received(connection).statuses == [200]
        assert Counter(type(each.exception()).__name__ for each in waiting) == {"NoneType": 4, "Preempted": 1}
    settled(small_queue)


def test_a_quick_model_answers_more_of_a_turn_than_its_queue_has_room_for(
    small_queue: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "FLUSH_S", LONG_S)
    model = model_of(small_queue)
    assert model.batcher.inline
    got = together(small_queue, [GOOD] * 40, 40)
    assert {reply[0] for reply in got} == {b"HTTP/1.1 200 OK"}
    settled(small_queue)


def test_a_turn_of_very_many_requests_ends_early_and_answers_each(small_queue: Live, monkeypatch: Any) -> None:
    monkeypatch.setattr(turns, "MOST_WAITING", 3)
    flushed: list[int] = []
    flush = Turns._flush
    monkeypatch.setattr(
        Turns, "_flush", lambda self: (flushed.append(sum(map(len, self._groups.values()))), flush(self))[1]
    )
    with connected(small_queue, 8) as opened:
        for connection in opened:  # so that the head is known
            connection.sendall(GOOD)
            assert received(connection).statuses == [200]
        flushed.clear()
        with loop_held(small_queue):
            for connection in opened:
                connection.sendall(GOOD)
        replies = [answer(received(connection)) for connection in opened]
    assert {reply[0] for reply in replies} == {b"HTTP/1.1 200 OK"}
    assert max(flushed) == 3
    assert sum(flushed) == 8
    settled(small_queue)
