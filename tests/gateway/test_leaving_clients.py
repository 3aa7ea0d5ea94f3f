"""Clients that leave in every phase of a request: it is counted once, nothing of it is left, and no other is harmed."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from bursts import Held, alone, answer, connected, loop_held, outcomes, received, settled
from equality_cases import in_chunks, request, vector
from live_servers import Live
from waiting import wait_until

from penstock.gateway.process.h1.connection import Connection
from penstock.settings import Settings

PATH = "/models/vec/predict"
LEAVING = request(vector(4, 3, 2, 1), PATH)
OTHER = request(vector(1, 2, 3, 4), PATH)
KINDS = ["h1", "rsgi", "asgi"]
FORMS = {"bundled": lambda sent: sent, "ordinary": in_chunks}
"""With a length, h1 answers a small prediction in a bundle; in chunks, in a task. The other servers know only tasks."""


@pytest.fixture(scope="module", params=KINDS)
def live(request: pytest.FixtureRequest, burst_settings: Settings) -> Iterator[Live]:
    with Live(request.param, burst_settings, ("vec", "wide")) as server:
        yield server


@pytest.fixture(params=list(FORMS))
def form(request: pytest.FixtureRequest) -> Callable[[bytes], bytes]:
    return FORMS[request.param]


@pytest.fixture
def held(live: Live) -> Iterator[Held]:
    (model,) = (model for model in live.service.engine.loaded() if model.name == "vec")
    with Held(model) as held:
        yield held
        held.let_go()
        settled(live)


def counts(live: Live) -> Counter[str]:
    return outcomes(live, "vec:v2.0")


def body_begins(sent: bytes) -> int:
    return sent.index(b"\r\n\r\n") + 4


@pytest.mark.parametrize(
    ("part", "counted"),
    [
        (lambda sent: sent.index(b"Host"), {}),
        (lambda sent: body_begins(sent) - 1, {}),
        (body_begins, {"cancelled": 1}),
        (lambda sent: body_begins(sent) + 9, {"cancelled": 1}),
        (lambda sent: len(sent) - 1, {"cancelled": 1}),
    ],
    ids=["in the head", "at its last byte", "before the body", "in the body", "before its last byte"],
)
@pytest.mark.parametrize("body", [0, 150_000], ids=["small", "large"])
def test_a_client_may_leave_while_it_sends(
    live: Live,
    form: Callable[[bytes], bytes],
    part: Callable[[bytes], int],
    counted: dict[str, int],
    body: int,
) -> None:
    sent = form(request(vector(4, 3, 2, 1).ljust(body), PATH))
    before, entered = counts(live), []
    with connected(live, 1) as (connection,):
        connection.sendall(sent[: part(sent)])
        if counted:
            wait_until(lambda: any(call.reading for call in live.gateway.inflight.calls))
            entered = list(live.gateway.inflight.calls)
    wait_until(lambda: counts(live) - before == counted)
    assert len(entered) == len(counted)
    assert alone(live, [OTHER])[0][0] == b"HTTP/1.1 200 OK"
    settled(live)
    assert counts(live) - before == Counter({**counted, "ok": 1})


@pytest.mark.parametrize("phase", ["waits in the queue", "runs"])
@pytest.mark.parametrize("leaving", [1, 3])
def test_a_client_may_leave_while_its_request(
    live: Live, held: Held, form: Callable[[bytes], bytes], phase: str, leaving: int
) -> None:
    before = counts(live)
    with connected(live, 1) as (busy,), connected(live, 2) as staying:
        if phase == "waits in the queue":
            busy.sendall(OTHER)
            wait_until(lambda: held.batcher.running_rows == 1)
        with connected(live, leaving) as gone:
            with loop_held(live):
                for connection in (*gone, *staying):
                    connection.sendall(form(LEAVING if connection in gone else OTHER))
            wait_until(lambda: held.batcher.queued_rows + held.batcher.running_rows >= leaving + 2)
        wait_until(lambda: counts(live) - before == {"cancelled": leaving})
        if phase == "waits in the queue":
            assert held.batcher.queued_rows == 2
        held.let_go()
        answers = [answer(received(connection)) for connection in staying]
        if phase == "waits in the queue":
            answers.append(answer(received(busy)))
    settled(live)
    assert counts(live) - before == {"cancelled": leaving, "ok": len(answers)}
    assert answers == alone(live, [in_chunks(OTHER)]) * len(answers)


def test_a_run_of_which_all_clients_have_left_leaves_nothing_behind(
    live: Live, held: Held, form: Callable[[bytes], bytes]
) -> None:
    before = counts(live)
    with connected(live, 4) as gone:
        with loop_held(live):
            for connection in gone:
                # what was sent ahead is not begun; the other servers do not see a client leave behind it
                connection.sendall(form(LEAVING) * (2 if live.kind == "h1" else 1))
        wait_until(lambda: held.batcher.queued_rows + held.batcher.running_rows >= 4)
    wait_until(lambda: counts(live) - before == {"cancelled": 4})
    held.let_go()
    settled(live)
    assert counts(live) - before == {"cancelled": 4}


@pytest.mark.parametrize("rows", [3, 4000], ids=["many replies", "one large reply"])
def test_a_client_may_leave_while_its_replies_are_written(
    live: Live, form: Callable[[bytes], bytes], rows: int
) -> None:
    """What was answered counts as answered, whether its client reads it or not."""
    body = json.dumps({"inputs": {"x": [[0.1, 0.2, 0.3, 0.4]] * rows}}).encode()
    count = 1 if rows > 3 else 400
    before = outcomes(live, "wide:1")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", live.port))
        connection.sendall(form(request(body, "/models/wide/predict")) * count)
        assert connection.recv(12) == b"HTTP/1.1 200"
    settled(live)
    ended = outcomes(live, "wide:1") - before
    assert ended["ok"] >= 1
    assert set(ended) <= {"ok", "cancelled"}
    assert alone(live, [OTHER])[0][0] == b"HTTP/1.1 200 OK"


# Within one turn of the event loop, which only h1 calls


class Wire(asyncio.Transport):
    """Takes the place of a client's socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        """Nothing is open."""

    def abort(self) -> None:
        """Nothing is open."""


@pytest.fixture(scope="module")
def h1(burst_settings: Settings) -> Iterator[Live]:
    with Live("h1", burst_settings, ("vec", "wide")) as server:
        yield server


def opened(live: Live) -> tuple[Connection, Wire]:
    connection, wire = Connection(live.listener.front, lambda _: None), Wire()
    connection.connection_made(wire)
    return connection, wire


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("leaving", [1, 5])
def test_a_client_may_leave_before_the_turn_ends_or_a_few_turns_later(
    h1: Live, form: Callable[[bytes], bytes], turns: int, leaving: int
) -> None:
    async def burst() -> list[bytes]:
        connections = [opened(h1) for _ in range(leaving + 2)]
        for index, (connection, _) in enumerate(connections):
            connection.data_received(form(LEAVING if index < leaving else OTHER))
        assert len(h1.gateway.inflight) == leaving + 2
        for _ in range(turns):
            await asyncio.sleep(0)
        for connection, _ in connections[:leaving]:
            connection.connection_lost(None)
        while not all(wire.written for _, wire in connections[leaving:]):  # noqa: ASYNC110  the wire is no event
            await asyncio.sleep(0.001)
        return [wire.written for _, wire in connections]

    before = counts(h1)
    written = h1.call(burst)
    settled(h1)
    ended = counts(h1) - before
    assert ended["ok"] + ended["cancelled"] == sum(ended.values()) == leaving + 2
    assert ended["cancelled"] <= sum(not reply for reply in written[:leaving])  # an answer may have been made already
    if turns == 0:
        assert ended == {"cancelled": leaving, "ok": 2}
    assert all(reply.startswith(b"HTTP/1.1 200 OK") for reply in written[leaving:])


def test_a_client_may_leave_while_its_answer_is_compressed(h1: Live) -> None:
    body = json.dumps({"inputs": {"x": [[0.1, 0.2, 0.3, 0.4]] * 8}}).encode()

    async def burst() -> list[bytes]:
        connections = [opened(h1) for _ in range(4)]
        for connection, _ in connections:
            connection.data_received(request(body, "/models/wide/predict", "Accept-Encoding: gzip\r\n"))
        while any(call.work is None for call in h1.gateway.inflight.calls):  # noqa: ASYNC110
            await asyncio.sleep(0)
        for connection, _ in connections[:2]:
            connection.connection_lost(None)
        while h1.gateway.inflight.calls:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return [wire.written[:15] for _, wire in connections]

    before = outcomes(h1, "wide:1")
    assert h1.call(burst) == [b"", b"", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK"]
    settled(h1)
    assert outcomes(h1, "wide:1") - before == {"ok": 4}


def test_a_drain_that_ends_requests_of_a_turn_answers_each_of_them(h1: Live, form: Callable[[bytes], bytes]) -> None:
    async def burst() -> tuple[bool, list[bytes]]:
        connections = [opened(h1) for _ in range(3)]
        for connection, _ in connections:
            connection.data_received(form(OTHER))
        in_time = await h1.gateway.inflight.drain(0.0)
        while h1.gateway.inflight.calls:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return in_time, [wire.written[:12] for _, wire in connections]

    before = counts(h1)
    in_time, written = h1.call(burst)
    settled(h1)
    assert not in_time
    answered = Counter({b"HTTP/1.1 200": "ok", b"HTTP/1.1 503": "not_ready"}[start] for start in written)
    assert counts(h1) - before == answered
