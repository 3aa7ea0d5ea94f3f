"""The page of a load: what was counted, the plots, and nothing that runs or is loaded."""

from __future__ import annotations

import re

from penstock.toolchain.bench.load import LoadResult
from penstock.toolchain.report.load_page import load_page

HOSTILE = "</style></script><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>"


def run(rate: float | None, **changes: object) -> dict[str, object]:
    result = LoadResult(
        mode="closed" if rate is None else "open",
        concurrency=4 if rate is None else None,
        rate=rate,
        seconds=5.0,
        requests=100,
        succeeded=97,
        refused=2,
        errors={"503": 1},
        throughput_per_second=19.4,
        latency=None,
        curve=((50.0, 1.0), (99.0, 9.5), (100.0, 12.0)),
        histogram=((0.5, 1.0, 50), (1.0, 12.0, 47)),
    ).to_json()
    return {**result, "p50_ms": 1.0, "p95_ms": 4.0, "p99_ms": 9.5, **changes}


def test_every_run_is_in_the_table_and_in_the_plots() -> None:
    document = {"url": "http://a", "model": "m", "payload": "p", "runs": [run(None), run(50.0), run(100.0)]}
    text = load_page(document)
    for words in ("4 in flight", "50 per second", "100 per second", "503: 1", "Latency by requests per second"):
        assert words in text
    assert text.count("<svg") == 1 + 2 + 3  # percentiles, two by rate, three histograms


def test_a_server_that_never_answered_has_a_page_too() -> None:
    empty = run(50.0, percentiles_ms={}, histogram_ms=[], p50_ms=None, p95_ms=None, p99_ms=None, stopped="it was gone")
    text = load_page({"url": "http://a", "model": "m", "payload": "p", "runs": [empty]})
    assert "50 per second: it was gone" in text
    assert load_page({})


def test_what_a_server_says_is_escaped_and_nothing_is_loaded() -> None:
    document = {"url": HOSTILE, "model": HOSTILE, "payload": HOSTILE, "runs": [run(50.0, errors={HOSTILE: 1})]}
    text = load_page(document)
    assert "<script" not in text
    assert "<img" not in text
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["data:,"]
