"""`python benchmarks/render.py RESULTS.json [MORE.json…]`: write figures of `front` into docs/benchmarks.md.

Replaces what stands between `<!-- figures: NAME -->` and `<!-- end -->`; a row that no file has keeps its text. A later
file has precedence over an earlier one.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PLACE = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Row = dict[str, Any]


def number(value: float | None, digits: int = 0) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.{digits}f}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def sides(row: Row, key: str = "rps") -> dict[str, Row]:
    return {name: side for name, side in row.items() if isinstance(side, dict) and key in side}


def skipped(row: Row) -> str:
    left = {name: side["skipped"] for name, side in row.items() if isinstance(side, dict) and "skipped" in side}
    return "".join(f"\nNot measured: {name} ({why[:120]}).\n" for name, why in left.items())


def closed(row: Row) -> str:
    """Requests/s with their spread, CPU, latency, memory, and who used the machine."""
    found = sides(row)
    ours = found.get("Penstock", {}).get("rps")
    heads = ("server", "requests/s (lowest to highest)", "Penstock is", "CPU µs a request", "p50 ms", "p99 ms")
    rows = []
    for name, side in found.items():
        low, high = side.get("rps_spread", (side["rps"], side["rps"]))
        times = f"{ours / side['rps']:.2f} ×" if ours and name != "Penstock" else ""
        cells = [name, f"{number(side['rps'])} ({number(low)} to {number(high)})", times, number(side.get("cpu_us"), 1)]
        cells += [number(side.get("p50_ms"), 2), number(side.get("p99_ms"), 1), number(side.get("rss_mb"))]
        cells += [f"{side[key]:.0%}" if key in side else "" for key in ("load_share", "others_share")]
        rows.append(cells)
    return table((*heads, "memory MB", "machine used by wrk", "by others"), rows) + skipped(row)


def cnn(row: Row) -> str:
    where = row.get("rest_us") or {}
    total = where.get("both cores", 0)
    parts = [f"{name} {value:,} µs ({value / total:.0%})" for name, value in where.items() if name != "both cores"]
    shares = [f"{name} {share:.0%}" for name, share in row.get("share_of_bare", {}).items()]
    text = f"\nShare of the best bare loop ({number(row['best_bare'])} samples/s): {', '.join(shares)}.\n"
    return closed(row) + text + (f"Of {total:,} µs of both cores a sample: {', '.join(parts)}.\n" if total else "")


def latency(row: Row) -> str:
    added = row.get("added_ms", {})
    found = sides(row, "p50_ms")
    rows = [(name, number(side["p50_ms"], 3), number(added.get(name), 3)) for name, side in found.items()]
    return table(("one connection", "p50 ms", "added to the bare run"), rows) + skipped(row)


def connections(row: Row) -> str:
    rows = []
    for name, side in sides(row, "cpu_us@64").items():
        for count in (1, 64, 1_000, 10_000):
            relative = side[f"cpu_us@{count}"] / side["cpu_us@64"]
            cells = [
                number(side[f"{key}@{count}"], digits) for key, digits in (("rps", 0), ("cpu_us", 1), ("p99_ms", 1))
            ]
            rows.append((name, f"{count:,}", *cells, number(relative, 2), number(side[f"failed@{count}"])))
    heads = ("server", "connections", "requests/s", "CPU µs a request", "p99 ms", "relative to 64", "failed")
    return table(heads, rows) + skipped(row)


def overload(row: Row) -> str:
    heads = ("model", "server", "peak, 64 connections", "good at the peak", "good at three times the peak")
    rows = []
    for model in ("cnn", "mlp"):
        for name, side in sides(row.get(model, {}), "share_of_peak").items():
            cells = [number(side[key]) for key in ("peak_closed_rps", "good_rps@1x", "good_rps@3x")]
            cells += [f"{side['share_of_peak']:.0%}", number(side["refused_rps@3x"]), number(side["late@3x"])]
            rows.append((model, name, *cells, number(side["max_ms@3x"]), f"{side['load_share@3x']:.0%}"))
    more = ("share of the peak", "refused/s", "late", "longest good answer ms", "machine used by the generator")
    return table((*heads, *more), rows)


def overload_curves(row: Row) -> str:
    """The figures of the pictures, which are drawn anew."""
    from curves import FACTORS, draw

    draw(row)
    rows = []
    for name, side in sides(row, "capacity_rps").items():
        good = [f"{side[f'good_rps@{each:g}x'] / side['capacity_rps']:.0%}" for each in FACTORS]
        slow = [number(side[f"p99_ms@{each:g}x"], 1) for each in FACTORS]
        cells = [f"{share}, {ms}" for share, ms in zip(good, slow, strict=True)]
        rows.append((name, number(side["capacity_rps"]), *cells))
    return table(("server", "capacity, requests/s", *(f"{each:g} ×" for each in FACTORS)), rows) + skipped(row)


def start(row: Row) -> str:
    found = sides(row, "ready_s")
    return table(
        ("server", "ready s", "memory MB"),
        [(name, number(side["ready_s"], 2), number(side["rss_mb"])) for name, side in found.items()],
    )


TABLES: dict[str, Callable[[Row], str]] = {
    "small_model": closed,
    "two_processes": closed,
    "cnn": cnn,
    "latency": latency,
    "hydraulics_64": closed,
    "connections": connections,
    "overload": overload,
    "overload_curves": overload_curves,
    "start": start,
}


OTHERS = ("mosec with orjson", "mosec with pysimdjson", "LitServe", "BentoML", "FastAPI")
SELF = "Penstock"
ORJSON = OTHERS[0]


class Target(NamedTuple):
    """A line of the table of targets: where our figure is, and that of another server ({} is its name)."""

    text: str
    ours: str
    form: str
    theirs: str = ""
    their_form: str = ""


TARGETS = (
    Target("MLP, JSON, 64 connections: 1.7 × mosec with orjson", f"small_model/times_rps/{ORJSON}", "{:.2f} ×",
           "small_model/{}/rps", "{:,.0f} req/s"),
    Target("its CPU a request: 0.5 of mosec with orjson", f"small_model/share_of_cpu/{ORJSON}", "{:.2f}",
           "small_model/{}/cpu_us", "{:,.0f} µs"),
    Target("10 × a FastAPI route", "small_model/times_rps/FastAPI", "{:.1f} ×", "small_model/{}/rps", "{:,.0f} req/s"),
    Target("ahead of mosec with pysimdjson", "small_model/times_rps/mosec with pysimdjson", "{:.2f} ×",
           "small_model/{}/rps", "{:,.0f} req/s"),
    Target("two processes: 2.2 × mosec with orjson (one worker)",
           f"two_processes/times_rps/{ORJSON}, one worker", "{:.2f} ×", "two_processes/{}/rps", "{:,.0f} req/s"),
    Target("binary body: 1.5 × JSON", "small_model/binary", "{:.2f} ×"),
    Target("CNN: 90 % of the bare loop", f"cnn/share_of_bare/{SELF}", "{:.0%}", "cnn/share_of_bare/{}", "{:.0%}"),
    Target("one connection: 0.2 ms added", f"latency/added_ms/{SELF}", "{:.2f} ms", "latency/added_ms/{}", "{:.2f} ms"),
    Target("hydraulic diagnosis: 1.5 × of before", f"hydraulics_64/times_rps/{SELF} before", "{:.2f} ×"),
    Target("1 to 10,000 connections: CPU within 1.3 × of that at 64", f"connections/worst/{SELF}", "{:.2f} ×",
           "connections/worst/{}", "{:.2f} ×"),
    Target("three times the load, CNN: 95 % of the peak", f"overload/cnn/{SELF}/share_of_peak", "{:.0%}",
           "overload/cnn/{}/share_of_peak", "{:.0%}"),
    Target("the same, MLP", f"overload/mlp/{SELF}/share_of_peak", "{:.0%}", "overload/mlp/{}/share_of_peak", "{:.0%}"),
    Target("ready in 0.6 s", f"start/{SELF}/ready_s", "{:.2f} s", "start/{}/ready_s", "{:.2f} s"),
    Target("125 MB resident", f"start/{SELF}/rss_mb", "{:.0f} MB", "start/{}/rss_mb", "{:.0f} MB"),
)  # fmt: skip


def derived(results: Row) -> Row:
    """The results, with the figures that no row has by itself."""
    found = json.loads(json.dumps(results))
    row = found.get("small_model", {})
    if "rps" in row.get(f"{SELF}, binary body", {}) and "rps" in row.get(SELF, {}):
        row["binary"] = row[f"{SELF}, binary body"]["rps"] / row[SELF]["rps"]
    relative = found.get("connections", {}).get("cpu_relative_to_64", {})
    worst = {name: _worst(each.values()) for name, each in relative.items() if "64" in each}
    found.setdefault("connections", {})["worst"] = worst
    begun = found.setdefault("start", {})
    for name, side in row.items():  # this row has the time to ready and the memory of every server
        if isinstance(side, dict) and "ready_s" in side:
            begun.setdefault(name, side)
    return found


def _worst(values: Iterable[float]) -> float | None:
    return max((value for value in values if not math.isnan(value)), default=None)


def figure(results: Row, path: str, form: str) -> str:
    found: Any = results
    for key in path.split("/"):
        found = found.get(key) if isinstance(found, dict) else None
    return form.format(found) if isinstance(found, float | int) else "-"


def targets(results: Row) -> str:
    """The target of every row, what Penstock reached, and what the others got in the same run."""
    known = derived(results)
    rows = []
    for target in TARGETS:
        theirs = [
            figure(known, target.theirs.format(name), target.their_form) if target.theirs else "" for name in OTHERS
        ]
        rows.append((target.text, figure(known, target.ours, target.form), *theirs))
    return table(("target", SELF, *OTHERS), rows)


def run_of(results: Row) -> str:
    facts = {key: results.get(key, "unknown") for key in ("machine", "commit", "at", "rounds", "seconds")}
    return "Machine: {machine}; commit {commit}, {at}; {rounds} rounds of {seconds:g} s.\n".format(**facts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="render", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    results: Row = {}
    for path in arguments.results:
        results |= json.loads(path.read_text())
    missing: list[str] = []

    def filled(found: re.Match[str]) -> str:
        name = found[2]
        if name in ("targets", "run") and not results.keys() & {"small_model", "two_processes", "cnn", "latency"}:
            return found[0]  # they are about the whole table
        if name in ("targets", "run"):
            return found[1] + (targets(results) if name == "targets" else run_of(results)) + found[3]
        if name not in results or "skipped" in results[name]:
            missing.append(name)
            return found[0]
        return found[1] + TABLES[name](results[name]) + found[3]

    page = PLACE.sub(filled, arguments.page.read_text(encoding="utf-8"))
    if missing:
        print(f"no figures for: {', '.join(missing)}", file=sys.stderr)
    arguments.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
