"""The page of an optimization: complete, self-contained, escaped, and readable without seeing the plots."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from penstock.toolchain.report.page import optimize_page

HOSTILE = "</style></script><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>"

LOADING = ("src", "href", "srcset", "action", "xlink:href")
"""Attributes that name something to load."""


def candidate(name: str, status: str = "kept", **values: Any) -> dict[str, Any]:
    return {
        "name": name,
        "status": status,
        "why": "",
        "recipe": {"format": "onnx", "techniques": [{"kind": "quantize-static", "observer": "percentile"}]},
        "accuracy": 0.98,
        "agreement": 0.99,
        "p50_ms": {"1": 0.2, "32": 3.0},
        "p99_ms": {"1": 0.3, "32": 4.0},
        "size_bytes": 120_000,
        "error_histogram": {"edges": [1e-6, 1e-5, 1e-4], "counts": [3, 5], "zeros": 2, "not_finite": 0},
        **values,
    }


def report(**values: Any) -> dict[str, Any]:
    return {
        "ref": "digits:v1.1",
        "target": "p99",
        "max_accuracy_drop": 0.005,
        "chosen": "onnx-int8",
        "baseline": candidate("onnx", p50_ms={"1": 0.4, "32": 6.0}, size_bytes=400_000),
        "eager": candidate("eager", p50_ms={"1": 0.9, "32": 9.0}),
        "candidates": [
            candidate("onnx-int8", "chosen", ratio={"median": 2.0, "low": 1.9, "high": 2.1}),
            candidate("aoti", "failed", why="it crashed with SIGSEGV", p50_ms={}, p99_ms={}, error_histogram=None),
        ],
        "environment": {"versions": {"torch": "2.13.0"}, "flags": ["avx2", "vnni"]},
        **values,
    }


class Page(HTMLParser):
    """The elements of a page, its text, and the attributes that could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in LOADING]
        self.words += [value or "" for name, value in attrs if name == "aria-label"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def test_the_page_says_what_was_chosen_and_what_it_buys() -> None:
    text = Page(optimize_page(report())).text
    assert "onnx-int8 was chosen: at batch size 1 it takes 0.2 ms, 2 times as fast as the baseline onnx." in text
    for part in ("117 KiB", "baseline 391 KiB", "98.00 %", "1.9 to 2.1", "it crashed with SIGSEGV", "quantize-static"):
        assert part in text
    assert "versions.torch" in text
    assert "avx2, vnni" in text


def test_the_page_requests_nothing_and_runs_nothing() -> None:
    page = Page(optimize_page(report()))
    assert page.loads == ["data:,"]
    assert "script" not in page.tags
    assert "default-src 'none'" in optimize_page(report())
    assert not re.search(r"url\(|@import", optimize_page(report()))


def test_names_from_users_never_become_markup() -> None:
    hostile = candidate(HOSTILE, HOSTILE, why=HOSTILE, recipe={HOSTILE: HOSTILE}, p50_ms={HOSTILE: 1.0, "1": 2.0})
    made = optimize_page(
        report(ref=HOSTILE, command=HOSTILE, warnings=[HOSTILE], candidates=[hostile], environment={HOSTILE: HOSTILE})
    )
    page = Page(made)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.loads == ["data:,"]
    assert page.tags.count("style") == 1
    assert HOSTILE in page.text


def test_every_plot_has_a_title_and_its_data_as_a_table() -> None:
    page = optimize_page(report())
    plots = page.count("<svg")
    assert plots == 7  # accuracy, size, two curves, and the errors of baseline, eager and one candidate
    assert page.count('role="img"') == plots
    assert page.count("Data as a table") == plots
    assert page.count("<figure>") == plots
    assert "2 without any difference" in page


def test_nothing_chosen_leaves_the_baseline() -> None:
    small = report(target="size")
    small["candidates"] = [{**one, "why": "half as large"} for one in small["candidates"]]
    assert "onnx-int8 was chosen: half as large." in Page(optimize_page(small)).text
    assert "Nothing was chosen: the baseline onnx stays." in Page(optimize_page(report(chosen=None))).text


def test_agreement_stands_in_where_there_were_no_labels() -> None:
    every = report()
    for one in (every["baseline"], every["eager"], *every["candidates"]):
        one["accuracy"] = None
    text = Page(optimize_page(every)).text
    assert "Agreement by latency" in text
    assert "Accuracy by latency" not in text


def test_an_empty_report_is_a_page() -> None:
    for document in ({}, {"ref": "x", "candidates": []}, report(candidates=[], baseline=None, eager=None)):
        assert Page(optimize_page(document)).tags[:2] == ["html", "head"]


def test_a_baseline_among_the_candidates_is_shown_once() -> None:
    every = report()
    every["candidates"].append(candidate("onnx", "kept"))
    page = optimize_page(every)
    assert page.count('<th scope="row">onnx</th><td><span') == 1


def test_figures_that_are_not_finite_are_shown_as_such() -> None:
    odd = candidate("odd", p50_ms={"1": float("nan"), "2": float("inf"), "x": 3}, accuracy=float("nan"))
    text = Page(optimize_page(report(candidates=[odd]))).text
    assert "not shown, for lack of a finite value: odd" in text


def test_candidates_without_figures_take_no_colour_from_the_curves_of_the_others() -> None:
    skipped = [candidate(f"skipped-{place}", "skipped", p50_ms={}, p99_ms={}) for place in range(9)]
    page = optimize_page(report(candidates=[candidate("quick", "dominated"), *skipped]))
    assert "more series" not in page
