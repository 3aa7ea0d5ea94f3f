"""The page of `penstock optimize`: the document of its `report.json` for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from penstock.toolchain.report import html
from penstock.toolchain.report.frame import Size
from penstock.toolchain.report.pareto import front
from penstock.toolchain.report.plots import Axis, Plot, Point, Series, histogram, lines, scatter
from penstock.toolchain.report.svg import element, plain
from penstock.toolchain.report.wording import NOTHING, byte_unit, finite, number, share, size

_GOOD = ("chosen", "published", "kept", "baseline")
_BAD = ("rejected", "refused", "failed")
_MOST_HISTOGRAMS = 24
_LEFT_OUT = {"zeros": "without any difference", "not_finite": "not finite"}
_SMALL = Size(width=360, height=220)

Document = Mapping[str, Any]


def optimize_page(report: Document) -> str:
    """The page for one run.

    Of `report` it reads `ref`, `created_at`, `command`, `target`, `max_accuracy_drop`, `seconds`, `chosen` (a name),
    `baseline`, `eager`, `candidates`, `environment`, `notes` (a list of sentences) and `warnings`; what is missing is
    left out. The baseline, eager and every candidate are objects with `name`, `status`, `why`, `recipe`, `accuracy`,
    `agreement`, `p50_ms` and `p99_ms` (by batch size), `throughput_per_second`, `size_bytes`, `peak_memory_bytes`,
    `ratio` (`median`, `low`, `high`: how many times as fast as the baseline), `pareto` (true on the front) and
    `error_histogram` (what `plots.bins` gives).
    """
    title = f"Optimization of {report.get('ref', 'a model')}"
    every = _every(report)
    return html.page(
        title,
        element("header", element("h1", plain(title)), *_summary(report)),
        html.section("What it costs and what it buys", *_tradeoffs(report, every)),
        html.section("Latency by batch size", *_curves(report, every)),
        html.section("Candidates", _candidates(report, every)),
        html.section("Differences from the reference", _errors(every)),
        html.section("Recipes", *_recipes(every)),
        html.section("Environment", html.facts(report.get("environment") or {})),
    )


def _every(report: Document) -> list[Document]:
    """The baseline and eager, with their part as the status, and the candidates that are neither."""
    named = [{**report[key], "status": key} for key in ("baseline", "eager") if report.get(key)]
    taken = {one.get("name") for one in named}
    return [*named, *(one for one in report.get("candidates") or [] if one.get("name") not in taken)]


def _chosen(report: Document) -> Document | None:
    candidates = report.get("candidates") or []
    return next((one for one in candidates if one.get("name") == report.get("chosen")), None)


# --- the summary -------------------------------------------------------------------------------------------


def _summary(report: Document) -> Iterator[str]:
    yield html.paragraph(_verdict(report), class_="lead")
    made = [str(report[key]) for key in ("created_at", "command") if report.get(key)]
    yield html.paragraph(" · ".join(made), class_="muted")
    for sentence in (*(report.get("warnings") or ()), *(report.get("notes") or ())):
        yield html.paragraph(str(sentence), class_="muted")
    yield html.cards(_cards(report))


def _verdict(report: Document) -> str:
    chosen, baseline = _chosen(report), report.get("baseline") or {}
    if chosen is None:
        return f"Nothing was chosen: the baseline {baseline.get('name', '')} stays.".replace("  ", " ")
    if report.get("target") not in (None, "p99") and chosen.get("why"):  # its reason speaks of the target
        return f"{chosen['name']} was chosen: {chosen['why']}."
    batch = _batch(report)
    before, after = _at(baseline, "p50_ms", batch), _at(chosen, "p50_ms", batch)
    if finite(before) and finite(after) and after > 0:
        times = f"{number(before / after)} times as fast as the baseline {baseline.get('name', '')}".strip()
        return f"{chosen['name']} was chosen: at batch size {batch} it takes {number(after)} ms, {times}."
    return f"{chosen['name']} was chosen."


def _cards(report: Document) -> Iterator[tuple[str, str, str]]:
    chosen, baseline = _chosen(report) or {}, report.get("baseline") or {}
    best = chosen or baseline
    yield "Chosen", str(chosen.get("name") or baseline.get("name") or NOTHING), "" if chosen else "the baseline"
    batch = _batch(report)
    yield f"Latency, batch {batch}", _ms(_at(best, "p50_ms", batch)), f"baseline {_ms(_at(baseline, 'p50_ms', batch))}"
    yield "Size", size(best.get("size_bytes")), f"baseline {size(baseline.get('size_bytes'))}"
    key = _quality(_every(report))
    if key:
        yield key.capitalize(), share(best.get(key)), f"baseline {share(baseline.get(key))}"
    if report.get("target"):
        drop = report.get("max_accuracy_drop")
        yield "Target", str(report["target"]), f"at most {share(drop)} of accuracy lost" if finite(drop) else ""
    tried = report.get("candidates") or []
    kept = sum(_kind(one) == "good" for one in tried)
    yield "Candidates", str(len(tried)), f"{kept} kept, {len(tried) - kept} left out"


def _ms(value: Any) -> str:
    return f"{number(value)} ms" if finite(value) else NOTHING


# --- plots -------------------------------------------------------------------------------------------------


def _tradeoffs(report: Document, every: Sequence[Document]) -> Iterator[str]:
    batch, key = _batch(report), _quality(every)
    latency = Axis(f"latency at batch {batch}", "ms")
    speeds = [_at(one, "p50_ms", batch) for one in every]
    if key:
        values = [100 * one[key] if finite(one.get(key)) else None for one in every]
        yield html.figure(
            f"{key.capitalize()} by latency (towards the upper left is better)",
            _scatter(f"{key} by latency", report, every, speeds, values, latency, Axis(key, "%", log=False, most=100)),
        )
    count, unit = byte_unit(one.get("size_bytes") for one in every)
    sizes = [one["size_bytes"] / count if finite(one.get("size_bytes")) else None for one in every]
    if any(finite(value) for value in sizes):
        plot = _scatter("size by latency", report, every, speeds, sizes, latency, Axis("size", unit), low_y=True)
        yield html.figure("Size by latency (towards the lower left is better)", plot)


def _scatter(
    title: str,
    report: Document,
    every: Sequence[Document],
    xs: Sequence[float | None],
    ys: Sequence[float | None],
    x: Axis,
    y: Axis,
    *,
    low_y: bool = False,
) -> Plot:
    points = [
        Point(str(one.get("name")), xs[place], ys[place], _group(report, one), _shown_first(report, one), _why(one))
        for place, one in enumerate(every)
    ]
    eligible = [place for place, one in enumerate(every) if _kind(one) != "bad" and _on_front(one)]
    best = front([(xs[place], ys[place]) for place in eligible], low_y=low_y)
    return scatter(title, points, x, y, front=[eligible[place] for place in best])


def _on_front(one: Document) -> bool:
    """True for what may be on the front: what was measured to be there, or where that was not said, anything kept."""
    return bool(one.get("pareto", _kind(one) == "good"))


def _group(report: Document, one: Document) -> str:
    return "chosen" if one.get("name") == report.get("chosen") else str(one.get("status") or "candidate")


def _shown_first(report: Document, one: Document) -> bool:
    return _group(report, one) in ("chosen", "baseline", "eager") or _kind(one) == "good"


def _curves(report: Document, every: Sequence[Document]) -> Iterator[str]:
    for key, name in (("p50_ms", "median latency"), ("p99_ms", "99th percentile of latency")):
        series = [
            Series(str(one.get("name")), sorted(_points(one.get(key) or {})), _shown_first(report, one))
            for one in every
            if one.get("p50_ms") or one.get("p99_ms")
        ]
        batches = sorted({batch for one in series for batch, _ in one.points if finite(batch)})
        if batches:
            x = Axis("batch size", log=True, ticks=tuple((batch, f"{batch:g}") for batch in batches))
            heading = f"{name[0].upper()}{name[1:]} of a batch"
            yield html.figure(heading, lines(f"{name} by batch size", series, x, Axis(name, "ms")))


def _points(by_batch: Document) -> list[tuple[float, float | None]]:
    return [(float(batch), value if finite(value) else None) for batch, value in by_batch.items() if _number(batch)]


def _number(text: Any) -> bool:
    try:
        return float(text) > 0
    except (TypeError, ValueError):
        return False


def _errors(every: Sequence[Document]) -> str:
    found = [one for one in every if _bins(one.get("error_histogram"))]
    figures = [html.figure(str(one.get("name")), _histogram(one)) for one in found[:_MOST_HISTOGRAMS]]
    more = len(found) - len(figures)
    return html.figures(figures) + html.paragraph(
        f"{more} more are in report.json." if more > 0 else "", class_="muted"
    )


def _histogram(one: Document) -> Plot:
    bins = one["error_histogram"]
    title = f"absolute differences of {one.get('name')}"
    plot = histogram(title, bins["edges"], bins["counts"], Axis("absolute difference"), size=_SMALL)
    left_out = [f"{bins[key]} {words}" for key, words in _LEFT_OUT.items() if bins.get(key)]
    return plot._replace(note="; ".join(filter(None, [plot.note, *left_out])))


def _bins(found: Any) -> bool:
    if not isinstance(found, Mapping) or not all(isinstance(found.get(key), list) for key in ("edges", "counts")):
        return False
    known = bool(found["counts"] or found.get("zeros") or found.get("not_finite"))
    return known and len(found["edges"]) == len(found["counts"]) + bool(found["counts"])


# --- tables ------------------------------------------------------------------------------------------------


def _candidates(report: Document, every: Sequence[Document]) -> str:
    batches = _batches(every)
    shown = sorted({batches[0], batches[-1]}) if batches else []
    columns = ["name", "outcome", "accuracy", "agreement", *(f"p50 ms, batch {batch:g}" for batch in shown)]
    columns += ["times as fast", "size", "memory"]
    rows = [
        (
            one.get("name"),
            _outcome(report, one),
            *(_right(share(one.get(key))) for key in ("accuracy", "agreement")),
            *(_right(number(_at(one, "p50_ms", batch))) for batch in shown),
            _ratio(one.get("ratio")),
            *(_right(size(one.get(key))) for key in ("size_bytes", "peak_memory_bytes")),
        )
        for one in every
    ]
    return html.data_table(columns, rows)


def _outcome(report: Document, one: Document) -> html.Markup:
    """The status and, below it, the reason."""
    return html.Markup(html.badge(_group(report, one), _kind(one)).html + html.paragraph(_why(one), class_="why"))


def _right(text: str) -> html.Markup:
    return html.Markup(plain(text), right=True)


def _ratio(ratio: Any) -> html.Markup:
    """The median and, below it, the interval."""
    if not isinstance(ratio, Mapping):
        return _right(number(ratio))
    interval = f"{number(ratio['low'])} to {number(ratio['high'])}" if _interval(ratio) else ""
    median = plain(number(ratio.get("median")))
    return html.Markup(median + (element("small", plain(interval)) if interval else ""), right=True)


def _interval(ratio: Document) -> bool:
    return finite(ratio.get("low")) and finite(ratio.get("high"))


def _recipes(every: Sequence[Document]) -> Iterator[str]:
    for one in every:
        if one.get("recipe"):
            yield html.details(str(one.get("name")), html.document(one["recipe"]))


# --- reading the document ----------------------------------------------------------------------------------


def _kind(one: Document) -> str:
    """How a candidate fared: good, bad or neutral."""
    status = str(one.get("status") or "").lower()
    if status.startswith(_GOOD):
        return "good"
    return "bad" if status.startswith(_BAD) else "neutral"


def _why(one: Document) -> str:
    return str(one.get("why") or "")


def _quality(every: Sequence[Document]) -> str:
    """What the quality is measured in: accuracy where there were labels, else agreement; empty if neither is known."""
    measured = (key for key in ("accuracy", "agreement") if any(finite(one.get(key)) for one in every))
    return next(measured, "")


def _batches(every: Sequence[Document]) -> list[float]:
    return sorted({float(batch) for one in every for batch in one.get("p50_ms") or {} if _number(batch)})


def _batch(report: Document) -> str:
    """The batch size that latencies are compared at: 1, or the smallest that was measured."""
    batches = _batches(_every(report))
    return f"{batches[0]:g}" if batches else "1"


def _at(one: Document, key: str, batch: str | float) -> float | None:
    """A figure for one batch size."""
    by_batch = one.get(key) or {}
    value = next((value for name, value in by_batch.items() if _number(name) and float(name) == float(batch)), None)
    return value if finite(value) else None
