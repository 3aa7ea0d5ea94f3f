"""The short form of `python tests/chaos`, and what its verdicts rest on: the checks, the accounts and the schedule."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from fault_proxy import FaultProxy, Mode
from linear_models import FEATURES, weights
from moved_clock import why_not
from served_models import build_registry
from waiting import LONG_S

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from faults import FAULTS, GOOD, SLOWING, schedule  # noqa: E402
from known_answers import Known, drawn, known_requests  # noqa: E402
from leaks import Held, Load, growth, looked_at, serving  # noqa: E402
from traffic import Client, Expectations, Ledger, Reply, judged  # noqa: E402

SUMS = Known("sums", "raw", "/models/raw/predict", b"{}", {"1.0": lambda body: body == b"right"})
RIGHT = b"HTTP/1.1 200 OK\r\nx-penstock-model: raw:1.0/onnx-fp32\r\ncontent-length: 5\r\n\r\nright"
QUICK = (
    "kill a worker",
    "freeze a worker",
    "move the alias",
    "change the route",
    "unload and load",
    "ask for a broken version",
    "corrupt a version",
    "corrupt the served version",
    "fill the disk",
    "take the database away",
    "disturb the network",
    "drain and resume",
    "send rubbish",
)


def _run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ or None)


def test_under_every_quick_fault_nothing_is_lost_and_no_answer_is_wrong() -> None:
    only = [f"--only={each}" for each in QUICK]
    done = _run("--seed=7", f"--faults={len(QUICK)}", "--requests=600", "--pause-ms=15", *only)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost 0, wrong 0, unaccounted 0, other problems 0" in done.stdout


@pytest.mark.skipif(bool(why_not()), reason="libfaketime is not installed")
def test_a_clock_that_jumps_changes_no_answer() -> None:
    done = _run("--seed=5", "--faults=3", "--requests=90", "--pause-ms=20", "--clients=2", "--only=move the clock")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| move the clock | 3 |" in done.stdout
    assert "lost 0, wrong 0, unaccounted 0, other problems 0" in done.stdout


def test_a_schedule_replays_from_its_seed_in_another_process() -> None:
    first, second = (_run("--schedule", "--seed=7", "--faults=40", PYTHONHASHSEED=seed).stdout for seed in "12")
    usual = [fault for fault in FAULTS if fault != SLOWING]
    steps = schedule(7, 40, usual)
    assert first == second == "".join(f"{step.fault} {step.seed}\n" for step in steps)
    assert {step.fault for step in steps} == set(usual)
    assert schedule(8, 40, usual) != steps


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_registry(tmp_path_factory.mktemp("known"))


def test_requests_replay_from_their_seed(registry: Path) -> None:
    first, second = (drawn(known_requests(registry, GOOD[:2], 7, 6), 7, 0) for _ in range(2))
    sent = [(known.path, known.body) for known in (first() for _ in range(60))]
    assert sent == [(known.path, known.body) for known in (second() for _ in range(60))]
    assert len(set(sent)) > 30


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(200, "1.0", "", b"right"), "right"),
        (Reply(200, "1.0", "", b"left"), "wrong"),
        (Reply(200, "2.0", "", b"right"), "wrong"),
        (Reply(200, "", "", b"right"), "wrong"),
        (Reply(422, "", "", b"{}"), "wrong"),
        (Reply(500, "", "", b'{"type":"urn:penstock:internal-error","detail":"a","request_id":"b"}'), "unexplained"),
        (Reply(503, "", "1", b'{"type":"urn:penstock:model-not-ready","detail":"a","request_id":"b"}'), "refused"),
        (Reply(503, "", "", b'{"type":"urn:penstock:model-not-ready","detail":"a","request_id":"b"}'), "unexplained"),
        (Reply(503, "", "1", b"busy"), "unexplained"),
        (Reply(404, "", "", b'{"type":"urn:penstock:model-not-found","detail":"a","request_id":"b"}'), "wrong"),
    ],
)
def test_the_verdict_on_a_reply(reply: Reply, outcome: str) -> None:
    assert judged(SUMS, reply, {"1.0"}, absent=False)[0] == outcome


def test_an_answer_is_right_only_for_its_version_and_its_numbers(registry: Path) -> None:
    pool = known_requests(registry, GOOD[:2], 7, 1)
    known = pool["binary"][0]
    checks = list(known.right.values())
    answers = _answers(known)
    assert [check(answer) for check in checks for answer in answers] == [True, False, False, True]
    assert not checks[0](answers[0][:-4])


def _answers(known: Known) -> list[bytes]:
    """Of v1.0 and v2.0, by their weights."""
    rows = np.frombuffer(known.body, np.float32).reshape(-1, FEATURES)
    return [(rows @ weights(seed)).tobytes() for seed in (0, 1)]


def test_a_version_that_was_replaced_may_answer_only_requests_from_before() -> None:
    expectations = Expectations({"vec": frozenset({"v1.0"})})
    early = expectations.mark("vec")
    expectations.expect_also("vec", frozenset({"v2.0"}))
    expectations.expect("vec", frozenset({"v2.0"}))
    late = expectations.mark("vec")
    assert expectations.since("vec", early)[0] == {"v1.0", "v2.0"}
    assert expectations.since("vec", late)[0] == {"v2.0"}


@pytest.mark.parametrize(
    ("replies", "counts"),
    [
        ((b"", RIGHT), {"transport failure": 1, "right at the second": 1}),
        ((RIGHT[:40], RIGHT), {"transport failure": 1, "right at the second": 1}),
        ((RIGHT[:-2], RIGHT), {"transport failure": 1, "right at the second": 1}),
        ((b"", b""), {"transport failure": 1, "lost": 1}),
        ((b"", RIGHT.replace(b"right", b"wrong")), {"transport failure": 1, "wrong": 1}),
        ((b"HTTP/1.1 502 No\r\ncontent-length: 0\r\n\r\n", RIGHT), {"unexplained": 1, "right at the second": 1}),
    ],
)
def test_a_request_that_fails_is_sent_once_more_and_accounted_for(
    replies: tuple[bytes, bytes], counts: dict[str, int]
) -> None:
    ledger, over = Ledger(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        expectations = Expectations({"raw": frozenset({"1.0"})})

        def draw() -> Known:
            over.set()
            return SUMS

        client = Client(draw, (port, port), expectations, ledger, over)
        client.start()
        for reply in replies:
            connection, _ = listening.accept()
            with connection:
                while not connection.recv(65536).endswith(b"{}"):
                    pass
                connection.sendall(reply)
        client.join(LONG_S)
    assert client.error is None
    assert {what: count for (_, what), count in ledger.counts.items()} == {"sent": 1, **counts}
    assert ledger.unaccounted() == 0


@pytest.mark.parametrize("mode", ["pass", "delay", "cut", "truncate", "stall", "refuse"])
def test_the_proxy_does_what_its_mode_says(mode: Mode) -> None:
    """Pieces are echoed one by one, until one meets the fault."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        echoing = threading.Thread(target=_echo, args=(listening,), daemon=True)
        echoing.start()
        with FaultProxy(listening.getsockname()[1], seed=1) as proxy:
            proxy.mode = mode
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.05) as connection:
                pieces = 0
                try:
                    while pieces < 40 and _echoed(connection, proxy):
                        pieces += 1
                    ended = ""
                except ConnectionError:
                    ended = "reset"
            proxy.mode = "pass"
        assert bool(proxy.faults) == (mode != "pass")
        assert (pieces == 40) == (mode in ("pass", "delay"))
        assert (ended == "reset") == (mode in ("cut", "refuse"))


PIECE = b"0123456789" * 10


def _echo(listening: socket.socket) -> None:
    """Send everything back, on one connection if one comes."""
    with contextlib.suppress(OSError):
        connection, _ = listening.accept()
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)


def _echoed(connection: socket.socket, proxy: FaultProxy) -> bool:
    """True once a piece is back whole; False if the connection ends, or the piece stalls."""
    connection.sendall(PIECE)
    back = b""
    while len(back) < len(PIECE):
        if proxy.mode == "stall" and proxy.faults:
            return False
        try:
            data = connection.recv(65536)
        except TimeoutError:
            continue
        if not data:
            return False
        back += data
    return True


def test_files_stay_as_few_whatever_is_sent_and_however_connections_end(tmp_path: Path) -> None:
    """The short form of `python tests/chaos/leaks.py`."""
    with serving(tmp_path) as (server, requests):
        looks = looked_at(Load(int(server.url.rpartition(":")[2]), requests, 1), server.pid, 3000, lambda _: None)
    files = [look.files for look in looks]
    assert max(files) - min(files) <= 3, "one connection, and what is being closed"


def test_growth_is_seen_once_the_first_fifth_is_over() -> None:
    steady, rising = ([Held(size, 9, 20) for size in sizes] for sizes in ([50, *[100] * 39], range(100, 140)))
    assert growth(steady, lambda look: look.bytes) == 0
    assert growth(rising, lambda look: look.bytes) > 0.1
