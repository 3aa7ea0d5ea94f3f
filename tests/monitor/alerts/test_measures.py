"""A measure reads from pages what Prometheus computes from its expression."""

from __future__ import annotations

import math
import random
import re
import shutil
import subprocess
from array import array
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from penstock.monitor.alerts.history import History, Sample, Series, increase
from penstock.monitor.alerts.measures import (
    Absent,
    Counter,
    Full,
    Increase,
    Level,
    Mean,
    Measure,
    Missing,
    Quantile,
    Rate,
    Reading,
    Share,
    quantile,
)
from penstock.monitor.alerts.rules import RULES

Pages = list[list[Sample]]
STEP_S = 15.0


def history_of(pages: Pages, measure: Measure) -> History:
    history = History(measure.needs)
    for number, page in enumerate(pages):
        history.add(number * STEP_S, page)
    return history


def read(pages: Pages, measure: Measure) -> Reading:
    return measure.read(history_of(pages, measure))


def counted(*values: float, name: str = "c_total", **labels: str) -> Pages:
    return [[Sample(name, labels, value)] for value in values]


def together(*all_pages: Pages) -> Pages:
    return [[sample for page in pages for sample in page] for pages in zip(*all_pages, strict=True)]


# By hand


def test_a_counter_that_rises_steadily_has_its_rate_and_its_increase() -> None:
    pages = counted(*(1000 + 15.0 * n for n in range(21)))  # one a second, for five minutes
    assert read(pages, Rate(Counter("c_total"))).values == {(): pytest.approx(1.0)}
    assert read(pages, Increase(Counter("c_total"), window="5m")).values == {(): pytest.approx(300.0)}


def test_a_counter_that_falls_has_started_again_from_zero() -> None:
    pages = counted(1000, 1010, 4, 10)
    ((_, risen),) = read(pages, Increase(Counter("c_total"), window="45s")).values.items()
    assert risen == pytest.approx(10 + 4 + 6)


def test_one_page_says_nothing_about_a_counter() -> None:
    assert read(counted(5), Increase(Counter("c_total"))) == Reading({})
    assert read([[], [], []], Increase(Counter("c_total"))) == Reading({})


def test_a_counter_that_began_within_the_window_is_not_extrapolated_below_zero() -> None:
    pages = [[Sample("c_total", {}, 0.0)], *counted(30.0, 30.0)]
    assert read(pages, Increase(Counter("c_total"), window="1h")).values == {(): pytest.approx(30.0)}


def test_pages_older_than_the_window_are_forgotten() -> None:
    history = History({"c_total": 60.0})
    for number in range(1000):
        history.add(number * STEP_S, [Sample("c_total", {"a": "b"}, number), Sample("other", {}, 1.0)])
    (series,) = history._series["c_total"].values()
    assert (len(series.times), set(history._series)) == (5, {"c_total"})
    history.add(2000 * STEP_S, [])
    assert not history._series["c_total"]


def test_a_share_counts_what_was_never_counted_as_none() -> None:
    pages = counted(*range(0, 1000, 100), name="all_total", model="m")
    share = Share(Counter("bad_total"), Counter("all_total"), ("model",))
    assert read(pages, share).values == {(("model", "m"),): 0.0}


def test_a_share_of_too_few_is_not_a_number() -> None:
    whole = counted(*range(10), name="all_total", model="m")
    part = counted(*range(10), name="bad_total", model="m")
    ((_, value),) = read(
        together(whole, part), Share(Counter("bad_total"), Counter("all_total"), ("model",))
    ).values.items()
    assert math.isnan(value)


def test_a_gauge_is_that_of_the_newest_page_and_one_that_counts_has_none_of_what_is_gone() -> None:
    pages: Pages = [[Sample("g", {"ref": "a"}, 3.0), Sample("g", {"ref": "b"}, 4.0)], [Sample("g", {"ref": "b"}, 5.0)]]
    assert read(pages, Level("g", ("ref",))) == Reading({(("ref", "b"),): 5.0}, None)
    assert read(pages, Level("g", ("ref",), counts=True)).lacking == 0.0


def test_of_gauges_both_have_to_be_there() -> None:
    pages: Pages = [[Sample("a", {"gpu": "0"}, 3.0), Sample("b", {"gpu": "0"}, 4.0), Sample("a", {"gpu": "1"}, 5.0)]]
    a, b = Level("a", ("gpu",)), Level("b", ("gpu",))
    assert read(pages, Missing(a, b)).values == {(("gpu", "0"),): -1.0}
    assert read(pages, Full(a, b)).values == {(("gpu", "0"),): 0.75}


def test_a_metric_is_absent_while_no_page_has_it() -> None:
    assert read([[Sample("g", {}, 1.0)], []], Absent("g")) == Reading({(): 1.0}, 0.0)
    assert read([[Sample("g", {}, 0.0)]], Absent("g")) == Reading({}, 0.0)


@pytest.mark.parametrize(
    ("share", "buckets", "value"),
    [
        (0.5, [(1.0, 10.0), (2.0, 20.0), (math.inf, 20.0)], 1.0),
        (0.75, [(1.0, 10.0), (2.0, 20.0), (math.inf, 20.0)], 1.5),
        (0.99, [(1.0, 1.0), (2.0, 2.0), (math.inf, 100.0)], 2.0),  # beyond the last bound
        (0.25, [(1.0, 10.0), (2.0, 20.0), (math.inf, 20.0)], 0.5),  # from 0 to the first bound
        (0.5, [(1.0, 10.0), (2.0, 9.999999), (math.inf, 10.0)], 0.5),  # errors of sums
    ],
)
def test_a_quantile_lies_within_its_bucket(share: float, buckets: list[tuple[float, float]], value: float) -> None:
    assert quantile(share, buckets) == pytest.approx(value)


@pytest.mark.parametrize("buckets", [[], [(1.0, 5.0)], [(1.0, 0.0), (math.inf, 0.0)], [(math.inf, 3.0)]])
def test_there_is_no_quantile_without_counts_or_bounds(buckets: list[tuple[float, float]]) -> None:
    assert math.isnan(quantile(0.5, buckets))


def test_every_rule_can_be_read_where_nothing_was_counted_yet() -> None:
    for rule in RULES:
        assert all(0 <= seconds <= 3600 for seconds in rule.measure.needs.values())
        assert set(rule.measure.needs) == set(
            re.findall(r"(?:penstock|process)_\w+", rule.measure.promql + rule.measure.enough)
        )
        found = read([[], []], rule.measure)
        assert found.values == ({(): 1.0} if rule.name == "PenstockAbsent" else {}), rule.name


# Properties


@given(st.lists(st.integers(0, 100), min_size=2, max_size=40), st.integers(1, 39))
def test_a_restart_loses_only_what_looks_like_no_fall(rises: list[int], restart: int) -> None:
    values: list[float] = []
    for number, rise in enumerate(rises):
        values.append(rise if number in (0, restart) else values[-1] + rise)
    times = [STEP_S * number for number in range(len(values))]
    found = increase(Series(array("d", times), array("d", values)), times[-1], times[-1])
    counted_after = sum(rises[1:])
    hidden = restart < len(values) and values[restart] >= values[restart - 1]
    assert found is not None
    assert found == pytest.approx(counted_after - (values[restart - 1] if hidden else 0.0))


# Against Prometheus itself

PROMTOOL = shutil.which("promtool")
BOUNDS = ("0.1", "1.0", "10.0", "+Inf")
MEASURES: list[Measure] = [
    Rate(Counter("c_total"), ("model",)),
    Rate(Counter("c_total", {"outcome": "error|load.*"}), ("model",), "1m"),
    Increase(Counter("c_total"), ()),
    Increase(Counter("c_total"), ("model", "outcome"), "3m"),
    Share(Counter("c_total", {"outcome": "error"}), Counter("c_total"), ("model",), least=0),
    Share(Counter("c_total", {"outcome": "error"}), Counter("c_total"), ("model",)),
    Quantile(0.99, "h", ("model",)),
    Quantile(0.5, "h", ("model",), least=0),
    Mean("h", ("model",)),
    Level("g", ("model",)),
    Level("g", (), {"model": "a|b"}),
    Missing(Level("g", ("model",)), Level("f", ("model",))),
    Full(Level("g", ("model",)), Level("f", ("model",))),
    Absent("g"),
    Absent("nothing"),
]


def random_pages(seed: int, count: int = 80) -> dict[tuple[str, tuple[tuple[str, str], ...]], list[float | None]]:
    """Values by line, None where a page lacks it: counters that begin late, stand still, fall and have gaps."""
    choose = random.Random(seed)
    lines: dict[tuple[str, tuple[tuple[str, str], ...]], list[float | None]] = {}

    def counter(speed: float, begin: int) -> list[float | None]:
        values: list[float | None] = []
        total = float(choose.choice([0, 1000]))
        for number in range(count):
            total = 0.0 if choose.random() < 0.02 else total + choose.randrange(int(speed) + 1)
            values.append(None if number < begin or choose.random() < 0.05 else total)
        return values

    for model in "abc":
        for outcome in ("ok", "error", "load_error"):
            begin = choose.choice([0, 0, 20])
            lines["c_total", (("model", model), ("outcome", outcome))] = counter(choose.choice([0, 3, 50]), begin)
        sums: list[float | None] = [0.0] * count
        for bound in BOUNDS:
            rises = [choose.randrange(9) for _ in range(count)]
            for number in range(count):
                sums[number] = (sums[number] or 0.0) + sum(rises[: number + 1])
            lines["h_bucket", (("le", bound), ("model", model))] = list(sums)
        lines["h_count", (("model", model),)] = list(sums)
        lines["h_sum", (("model", model),)] = [3.5 * (value or 0.0) for value in sums]
        for name in "fg":
            lines[name, (("model", model),)] = [float(choose.randrange(1, 9)) for _ in range(count)]
    return lines


def got(output: str) -> list[dict[frozenset[tuple[str, str]], float]]:
    """What promtool says that it got, in the order of the tests, from a run in which every test fails."""
    found = []
    for line in re.findall(r"^\s*got:(.*)$", output, re.MULTILINE):
        values = {}
        for labels, value in re.findall(r"\{([^}]*)\} ([-+\w.]+)", line):
            pairs = frozenset(re.findall(r'(\w+)="([^"]*)"', labels)) - {("instance", "i"), ("job", "j")}
            values[pairs] = float(value)
        found.append(values)
    return found


@pytest.mark.skipif(PROMTOOL is None, reason="promtool comes with Prometheus")
@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_prometheus_computes(seed: int, tmp_path: Path) -> None:
    lines = random_pages(seed)
    series = [
        {
            "series": name + "{" + ",".join(f'{k}="{v}"' for k, v in (*labels, ("instance", "i"), ("job", "j"))) + "}",
            "values": " ".join("_" if value is None else repr(value) for value in values),
        }
        for (name, labels), values in lines.items()
    ]
    numbers = (0, 1, 2, 7, 21, 40, 79)
    asked = [(measure, number) for measure in MEASURES for number in numbers]
    never = [{"labels": 'never{a="b"}', "value": 123456}]
    tests = [
        {
            "expr": f"({m.promql}) and ({m.enough})" if m.enough else m.promql,
            "eval_time": f"{n * STEP_S:.0f}s",
            "exp_samples": never,
        }
        for m, n in asked
    ]
    document = {
        "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": series, "promql_expr_test": tests}],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    done = subprocess.run([str(PROMTOOL), "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True)
    answers = got(done.stdout + done.stderr)
    assert len(answers) == len(asked), done.stdout + done.stderr
    pages = [
        [
            Sample(name, dict(labels), value)
            for (name, labels), values in lines.items()
            if (value := values[index]) is not None
        ]
        for index in range(max(numbers) + 1)
    ]
    compared = 0
    for measure, ours in zip(MEASURES, (readings(pages, measure, numbers) for measure in MEASURES), strict=True):
        for number, values in zip(numbers, ours, strict=True):
            wanted = answers.pop(0)
            for labels, value in wanted.items():
                if not math.isnan(value):
                    assert values.get(labels) == pytest.approx(value, rel=1e-5), (measure, number, labels)
                    compared += 1
            for labels, value in values.items():
                assert labels in wanted or math.isnan(value) or value == 0.0, (measure, number, labels)
    assert compared > 200


def readings(pages: Pages, measure: Measure, numbers: tuple[int, ...]) -> list[dict[frozenset[tuple[str, str]], float]]:
    """The values after so many pages more."""
    history = History(measure.needs)
    found = []
    for number, page in enumerate(pages):
        history.add(number * STEP_S, page)
        if number in numbers:
            found.append({frozenset(labels): value for labels, value in measure.read(history).values.items()})
    return found
