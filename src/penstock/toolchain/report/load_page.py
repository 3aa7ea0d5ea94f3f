"""The page of `penstock bench URL`: what a server did under load, from the document that `--json` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from penstock.toolchain.report import html
from penstock.toolchain.report.frame import Size
from penstock.toolchain.report.plots import Axis, Series, histogram, lines, percentiles
from penstock.toolchain.report.svg import element, plain
from penstock.toolchain.report.wording import finite, number

Document = Mapping[str, Any]

_MS = Axis("latency", "ms")
_SMALL = Size(width=360, height=220)
_COLUMNS = ("load", "replies per second", "p50 ms", "p95 ms", "p99 ms", "mean ms", "max ms", "refused", "errors")


def load_page(document: Document) -> str:
    """The page for one document: `url`, `model`, `payload` and `runs`, each as `LoadResult.to_json` gives it."""
    runs = list(document.get("runs") or [])
    title = f"Load on {document.get('url', 'a server')}"
    about = f"Model: {document.get('model')}. Payload: {document.get('payload')}."
    return html.page(
        title,
        element("header", element("h1", plain(title)), html.paragraph(about, class_="muted"), *_warnings(runs)),
        html.section("Runs", html.data_table(_COLUMNS, map(_row, runs)), _reading()),
        html.section("Latency by percentile", *_percentiles(runs)),
        html.section("Throughput and latency", *_by_load(runs)),
        html.section("Distribution", html.figures(_histograms(runs))),
    )


def _reading() -> str:
    return html.paragraph(
        "At a rate, latency counts from the time when a request was due, whether or not it could be sent then. "
        "Requests without a reply count with the time that they waited. Refused are replies with status 429.",
        class_="muted",
    )


def _warnings(runs: Sequence[Document]) -> Iterator[str]:
    for run in runs:
        for sentence in (run.get("stopped"), *(run.get("warnings") or ())):
            if sentence:
                yield html.paragraph(f"{_load(run)}: {sentence}", class_="muted")


def _row(run: Document) -> Sequence[Any]:
    errors = ", ".join(f"{kind}: {count}" for kind, count in (run.get("errors") or {}).items())
    times = [run.get(f"{name}_ms") for name in ("p50", "p95", "p99", "mean", "max")]
    return (_load(run), run.get("throughput_per_second"), *times, run.get("refused"), errors or "none")


def _load(run: Document) -> str:
    return (
        f"{run.get('concurrency')} in flight"
        if run.get("mode") == "closed"
        else f"{number(run.get('rate'))} per second"
    )


def _percentiles(runs: Sequence[Document]) -> Iterator[str]:
    curves = [
        Series(_load(run), [(float(percent), ms) for percent, ms in (run.get("percentiles_ms") or {}).items()])
        for run in runs
    ]
    if any(curve.points for curve in curves):
        yield html.figure("Latency by percentile", percentiles("Latency by percentile", curves, _MS))


def _by_load(runs: Sequence[Document]) -> Iterator[str]:
    """Replies per second and p99 by concurrency and by rate, where there are several."""
    for mode, key, unit in (("closed", "concurrency", "requests in flight"), ("open", "rate", "requests per second")):
        chosen = [run for run in runs if run.get("mode") == mode and finite(run.get(key))]
        if len(chosen) < 2:
            continue
        axis = Axis(unit)
        throughput = [Series("replies per second", [(run[key], run.get("throughput_per_second")) for run in chosen])]
        latency = [
            Series(name, [(run[key], run.get(f"{name}_ms")) for run in chosen]) for name in ("p50", "p95", "p99")
        ]
        yield html.figure(
            f"Replies by {unit}", lines(f"Replies by {unit}", throughput, axis, Axis("replies per second"))
        )
        yield html.figure(f"Latency by {unit}", lines(f"Latency by {unit}", latency, axis, _MS))


def _histograms(runs: Sequence[Document]) -> Iterator[str]:
    for run in runs:
        bars = run.get("histogram_ms") or []
        if bars:
            edges = [bars[0][0], *(high for _, high, _ in bars)]
            counts = [count for *_, count in bars]
            title = f"Latency at {_load(run)}"
            yield html.figure(title, histogram(title, edges, counts, _MS, size=_SMALL))
