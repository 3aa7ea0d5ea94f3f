"""Random mixes of requests get the same bytes in bundles and in the ordinary way, for every task that bundles."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from burst_models import FAILS, FAR, NOT_A_NUMBER, ODD, REFS
from bursts import alone, answer, bundled, connected, received, settled, together
from equality_cases import in_chunks, request, vector
from hypothesis import given, settings
from hypothesis import strategies as st
from live_servers import Live
from waiting import wait_until

from penstock.gateway.bodies.compression import INLINE
from penstock.settings import Settings

GOOD = vector(1, 2, 3, 4)
GZIP = "Accept-Encoding: gzip\r\n"


@pytest.fixture(scope="module")
def live(burst_settings: Settings) -> Iterator[Live]:
    with Live("h1", burst_settings, REFS) as server:
        yield server


@pytest.fixture(scope="module")
def members(live: Live) -> Iterator[Counter[str]]:
    with bundled(live) as found:
        yield found


numbers = st.sampled_from((0, 1, -1.5, 0.1, 1e-300, 3e38, 1e39, FAILS, NOT_A_NUMBER, FAR, ODD, True, None, "1", [1]))
good_numbers = st.floats(-40, 40)


def documents(bodies: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """JSON, at times with what makes it unusual or malformed."""
    texts = bodies.map(lambda body: json.dumps(body).encode())
    spoiled = st.sampled_from((b" %b ", b"\xef\xbb\xbf%b", b"%bx", b"[%b]", b"%b%b", b"\n%b"))
    return st.one_of(texts, texts, texts, st.builds(lambda text, form: form.replace(b"%b", text), texts, spoiled))


def versions(known: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.sampled_from(({}, {}, {}, {"model_version": known}, {"model_version": "v9"}, {"model_version": None}))


vectors = st.one_of(
    st.lists(good_numbers, min_size=4, max_size=4).map(lambda row: {"input_data": row}),
    st.builds(
        lambda row, more: {"input_data": row, **more},
        st.lists(st.one_of(good_numbers, numbers), min_size=3, max_size=5),
        versions("v1.0"),
    ),
    st.lists(good_numbers, min_size=8, max_size=8).map(lambda row: {"input_data": row, "batch_size": 2}),
)
pairs = st.lists(st.lists(st.one_of(good_numbers, numbers), min_size=2, max_size=2), min_size=1, max_size=3)
tensors = st.builds(lambda a, b, more: {"inputs": {"a": a, "b": b}, **more}, pairs, pairs, versions("1.0"))
wide = st.lists(st.lists(good_numbers, min_size=4, max_size=4), min_size=1, max_size=3).map(
    lambda rows: {"inputs": {"x": rows}}
)
tables = st.lists(
    st.fixed_dictionaries(
        {"city": st.sampled_from(("Basel", "Zürich", "Rome", None, 1))},
        optional={"age": st.one_of(good_numbers, numbers), "colour": st.just(1)},
    ),
    max_size=3,
).map(lambda rows: {"rows": rows})
texts = st.sampled_from(({"text": "great but poor"}, {"text": "käse"}, {"text": ""}, {"text": 1}, {"words": "x"}))
TARGETS: dict[str, st.SearchStrategy[Any]] = {
    "/predict": vectors,
    "/inference/predict": vectors,
    "/models/vec/predict": vectors,
    "/models/vec@stable/predict": vectors,
    "/models/vec:v1.0/predict": vectors,
    "/models/vec/versions/v1.0/predict": vectors,
    "/models/vec/versions/v9/predict": vectors,
    "/models/vec@nope/predict": vectors,
    "/models/vec/predict?task=tensor": tensors,
    "/models/faulty/predict": vectors,
    "/models/raw/predict": tensors,
    "/models/wide/predict": wide,
    "/models/table/predict": tables,
    "/models/words/predict": texts,
}
HEADERS = {
    "X-Request-Id": ("mine", "not mine", "a" * 129, ""),
    "X-Penstock-Priority": ("0", "5", "-100", "101", "x"),
    "X-Request-Timeout-Ms": ("60000", "1e9", "0", "x"),
    "X-Penstock-Key": ("a", "é", ""),
    "Accept": ("*/*", "application/json", "text/html", "application/octet-stream", "application/x-npy"),
    "Accept-Encoding": ("gzip", "zstd, gzip;q=0.5", "deflate", "identity", "*", "br", "gzip;q=0", "identity;q=0, gzip"),
    "Origin": ("https://app.example", "https://other.example", "null"),
    "Content-Encoding": ("identity", "gzip", "x"),
    "Connection": ("keep-alive",),
    "Authorization": ("Bearer x",),
}
headers = st.dictionaries(st.sampled_from(sorted(HEADERS)), st.integers(0, 9), max_size=3).map(
    lambda chosen: {name: HEADERS[name][index % len(HEADERS[name])] for name, index in chosen.items()}
)
types = st.sampled_from(
    (*["application/json"] * 5, "application/json; charset=utf-8", "application/x+json", "text/plain", "", None)
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    target = draw(st.sampled_from(sorted(TARGETS)))
    body, more, kind = draw(documents(TARGETS[target])), draw(headers), draw(types)
    if more.get("Content-Encoding") == "gzip" and draw(st.booleans()):
        body = gzip.compress(body)
    lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
    return request(body, target, lines, "" if kind is None else f"Content-Type: {kind}\r\n")


@settings(max_examples=40)
@given(mix=st.lists(requests(), min_size=1, max_size=24), connections=st.sampled_from((1, 3, 24)))
def test_a_random_mix_gets_the_same_bytes_either_way(
    live: Live, members: Counter[str], mix: list[bytes], connections: int
) -> None:
    assert together(live, mix, min(connections, len(mix))) == alone(live, [in_chunks(sent) for sent in mix])


def wide_rows(count: int) -> bytes:
    return json.dumps({"inputs": {"x": [[0.1, 0.2, 0.3, row] for row in range(count)]}}).encode()


MIX = [
    *(request(GOOD, path) for path in TARGETS if "vec" in path or "faulty" in path),
    request(vector(FAILS, 1, 2, 3), "/models/faulty/predict"),
    request(vector(1, NOT_A_NUMBER, 2, 3), "/models/faulty/predict"),
    request(vector(1, 2, FAR, 3), "/models/faulty/predict"),
    request(vector(1, 2, ODD, 3), "/models/faulty/predict"),
    request(b'{"inputs":{"a":[[1,2]],"b":[[3,4]]}}', "/models/raw/predict"),
    *(request(wide_rows(rows), "/models/wide/predict", headers) for rows in (1, 3) for headers in ("", GZIP)),
    request(b'{"rows":[{"age":3,"city":"Basel"},{"city":"Rome"}]}', "/models/table/predict"),
    request(b'{"text":"great but poor"}', "/models/words/predict"),
]


def test_every_task_that_bundles_gives_the_same_bytes_either_way(live: Live, members: Counter[str]) -> None:
    members.clear()
    assert together(live, MIX * 2, 9) == alone(live, [in_chunks(sent) for sent in MIX * 2])
    assert set(members) == set(REFS)
    settled(live)


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "br, *"])
def test_a_large_answer_of_a_bundle_has_the_encoding_that_is_asked_for(
    live: Live, members: Counter[str], rows: int, encoding: str
) -> None:
    members.clear()
    sent = request(wide_rows(rows), "/models/wide/predict", f"Accept-Encoding: {encoding}\r\n")
    with connected(live, 1) as (connection,):
        connection.sendall(sent * 2 + request(GOOD))
        replies = received(connection, 3)
    assert members == {"wide": 2, "vec": 1}
    assert [b"content-encoding: " in head for head in replies.heads] == [True, True, False]
    answers = [answer(replies, place) for place in range(3)]
    assert answers == alone(live, [in_chunks(sent), in_chunks(sent), in_chunks(request(GOOD))])
    assert (len(answers[0][2]) > INLINE) is (rows == 6)  # then it is packed in a thread
    settled(live)


def test_the_client_of_a_small_prediction_is_told_to_continue(live: Live) -> None:
    head, _, body = request(GOOD, headers="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    with connected(live, 1) as (connection,):
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert received(connection).statuses == [200]


def test_a_limit_below_that_of_bundles_holds(burst_settings: Settings) -> None:
    settings = burst_settings.model_copy(update={"max_body_bytes": 100})
    with Live("h1", settings, ("vec",)) as live, connected(live, 1) as (connection,):
        connection.sendall(request(GOOD.ljust(100)) + request(GOOD.ljust(101)))
        assert received(connection, 2).statuses == [200, 413]


def test_a_body_that_does_not_come_is_counted_as_what_its_client_gets(
    burst_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Live("h1", burst_settings, ("vec",)) as live:
        monkeypatch.setattr(live.gateway.limits, "timeout_s", 0.05)
        for form in (request(GOOD), in_chunks(request(GOOD))):
            with connected(live, 1) as (connection,):
                connection.sendall(form[:-7])
                assert received(connection).statuses == [408]
        settled(live)
        assert live.service.engine.get_stats()["models"]["vec:v2.0"]["outcomes"] == {"invalid": 2}


def test_a_body_that_a_drain_ends_is_counted_as_what_its_client_gets(burst_settings: Settings) -> None:
    with Live("h1", burst_settings, ("vec",)) as live, connected(live, 2) as opened:
        for connection, form in zip(opened, (request(GOOD), in_chunks(request(GOOD))), strict=True):
            connection.sendall(form[:-7])
        wait_until(lambda: sum(call.reading for call in live.gateway.inflight.calls) == 2)
        live.call(lambda: live.gateway.drain(0.05))
        assert [received(connection).statuses for connection in opened] == [[503], [503]]
        settled(live)
        assert live.service.engine.get_stats()["models"]["vec:v2.0"]["outcomes"] == {"not_ready": 2}
