"""Overload as curves: what is answered in time, and how long it takes, from a tenth of the capacity to ten times it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import models
from front import DEADLINE_MS, Plan, lazy, others, ours
from load import body, closed_on, open_loop, wrk
from processes import Service, server
from turns import Result

from penstock.toolchain.report.plots import Axis, Plot, Series, lines

FACTORS = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 3, 5, 10)
PEERS = ("mosec with orjson", "LitServe")
KEPT = ("good_rps", "refused_rps", "late", "p99_ms")
PLACE = Path(__file__).parents[1] / "docs" / "figures"


def overload_curves(plan: Plan) -> Result:
    """Constant rates from 0.1 to 10 times the capacity of each server, with a deadline of a second.

    The capacity is that of the same server in the same round, with 64 connections in a closed loop; the model is the
    CNN of 0.7 ms a sample.
    """
    model = models.cnn(plan.folder)
    made = {
        **ours(plan, model, max_queue_size=64),
        **{name: one for name, one in others(model).items() if name in PEERS},
    }
    return plan.in_turn({name: lazy(make, lambda service: _curve(plan, service)) for name, make in made.items()})


def _curve(plan: Plan, service: Service) -> Result:
    request = body(plan.folder, service.body)
    with server(service) as running:
        url = running.url + service.path
        wrk(url, request, connections=8, seconds=1)
        capacity = closed_on(running, service, plan.folder, 64, plan.seconds)["rps"]
        found: Result = {"capacity_rps": capacity}
        for factor in FACTORS:
            run = open_loop(url, request, rate=capacity * factor, seconds=plan.seconds, limit_ms=DEADLINE_MS)
            found |= {f"{key}@{factor:g}x": run[key] for key in KEPT}
    return found


def pictures(row: Mapping[str, Any]) -> dict[str, Plot]:
    """By file name: answers in time as a share of the capacity, and the 99th percentile of their latency."""
    sides = {name: side for name, side in row.items() if isinstance(side, dict) and "capacity_rps" in side}
    load = Axis("offered, times the capacity", log=True, ticks=tuple((each, f"{each:g}") for each in FACTORS))

    def series(figure: Callable[[Mapping[str, Any], float], float]) -> list[Series]:
        return [Series(name, [(each, figure(side, each)) for each in FACTORS]) for name, side in sides.items()]

    good = series(lambda side, each: side[f"good_rps@{each:g}x"] / side["capacity_rps"])
    slow = series(lambda side, each: side[f"p99_ms@{each:g}x"])
    return {
        "overload-goodput.svg": lines("Answers in time under overload", good, load, Axis("of the capacity", zero=True)),
        "overload-p99.svg": lines("99th percentile under overload", slow, load, Axis("p99", "ms", log=True)),
    }


def draw(row: Mapping[str, Any], place: Path = PLACE) -> None:
    """Write the pictures."""
    place.mkdir(exist_ok=True)
    for name, plot in pictures(row).items():
        (place / name).write_text(plot.svg + "\n", encoding="utf-8")


BENCHMARKS = {"overload_curves": overload_curves}
