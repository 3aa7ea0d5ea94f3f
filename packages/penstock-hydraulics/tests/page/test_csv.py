"""`csv.js`, run in the browser."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from chromium import Page
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_servers import Live

SEPARATORS = {",": ".", ";": ",", "\t": ","}


@pytest.fixture
def reader(page: Page, served: Live) -> Page:
    page.open(f"{served.url}/hydraulics")
    page.run("import('/hydraulics/assets/csv.js').then(({ readCycle }) => { window.readCycle = readCycle; })")
    return page


def _read(reader: Page, text: str, seconds: float | None = None) -> Any:
    """The cycle, or the sentence that refuses it."""
    call = f"readCycle({json.dumps(text)}, {json.dumps(seconds)})"
    return reader.run(f"(() => {{ try {{ return {call} }} catch (error) {{ return String(error.message) }} }})()")


numbers = st.floats(-1000, 1000).map(lambda value: round(value, 3))
cycles = st.fixed_dictionaries(
    {
        "seconds": st.integers(2, 60),
        "rates": st.lists(st.sampled_from([1, 2, 5, 10]), min_size=1, max_size=4).filter(lambda rates: 10 in rates),
        "separator": st.sampled_from([*SEPARATORS]),
        "decimal": st.sampled_from([".", ","]),
        "times": st.sampled_from([None, "time [s]", "ms", "Zeit", "timestamp"]),
        "newline": st.sampled_from(["\n", "\r\n", "\r"]),
        "bom": st.booleans(),
        "unit": st.booleans(),
        "top": st.booleans(),
    }
)


def _written(values: dict[str, list[float]], rates: dict[str, int], how: dict[str, Any]) -> str:
    """The same readings as a CSV file of one of many programs."""
    separator, decimal, fastest = how["separator"], how["decimal"], max(rates.values())

    def cell(number: float) -> str:
        text = f"{number:.3f}".replace(".", decimal)
        return f'"{text}"' if decimal == separator else text

    def time(row: int) -> str:
        at = row / fastest
        clock = f"12:00:{at:06.3f}" if at < 60 else f"12:01:{at - 60:06.3f}"
        return {
            "time [s]": cell(at),
            "ms": cell(at * 1000),
            "Zeit": f"31.01.2026 {clock}",
            "timestamp": f"2026-01-31T{clock}Z",
        }[how["times"]]

    names = [f"{name} [bar]" if how["unit"] else name for name in values]
    lines = [separator.join([how["times"]] * bool(how["times"]) + names)]
    for row in range(how["seconds"] * fastest):
        cells = [time(row)] if how["times"] else []
        for name, series in values.items():
            step = fastest // rates[name]
            place = row if how["top"] else row // step
            filled = place < len(series) if how["top"] else row % step == 0
            cells.append(cell(series[place]) if filled else "")
        lines.append(separator.join(cells))
    return "\ufeff" * how["bom"] + how["newline"].join([*lines, ""])


@given(how=cycles, data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_readings_are_read_as_they_were_written(reader: Page, how: dict[str, Any], data: st.DataObject) -> None:
    rates = {f"pressure_{place}": rate for place, rate in enumerate(how["rates"])}
    few = data.draw(st.lists(numbers, min_size=3, max_size=8))
    values = {name: [few[k % len(few)] for k in range(how["seconds"] * rate)] for name, rate in rates.items()}
    found = _read(reader, _written(values, rates, how), None if how["times"] else how["seconds"])
    assert isinstance(found, dict), found
    assert found["sensor_data"] == values
    assert found["sampling_rate_hz"] == rates
    assert math.isclose(found["seconds"], how["seconds"], rel_tol=0.02)
    if how["times"] == "timestamp":
        assert found["timestamp"].startswith("2026-01-31T12:0")


def test_without_times_the_rates_follow_from_the_counts(reader: Page) -> None:
    fast = "\n".join(f"{k},{k if k % 10 == 0 else ''}" for k in range(600))
    assert _read(reader, f"flow_a,pressure_b\n{fast}")["sampling_rate_hz"] == {"flow_a": 10, "pressure_b": 1}
    top = "\n".join(f"{k},{k if k < 60 else ''}" for k in range(6000))
    assert _read(reader, f"flow_a,pressure_b\n{top}")["sampling_rate_hz"] == {"flow_a": 100, "pressure_b": 1}
    short = "\n".join(str(k) for k in range(30))
    assert _read(reader, f"pressure_b\n{short}") | {"sensor_data": 0} == {
        "sensor_data": 0,
        "sampling_rate_hz": {"pressure_b": 1},
        "seconds": 30,
        "rows": 30,
    }
    assert _read(reader, f"pressure_b\n{short}", 15)["sampling_rate_hz"] == {"pressure_b": 2}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "The text is empty; paste a line with the names of the sensors and the samples below it."),
        ("a,b", "There is no sample below the names in line 1."),
        ("1,2\n3,4", "Line 1 holds numbers; the first line must hold the names of the sensors."),
        ("a;b\n1;2\n1;x", 'Column b, line 3: "x" is not a number.'),
        ("a;b\n1;2\n1;NaN", 'Column b, line 3: "NaN" is not a number.'),
        ("a;b\n1;1e999", 'Column b, line 2: "1e999" is not a number.'),
        ("# rig\n\na;b\n1;2;3", "Line 4 has 3 cells, and the names in line 3 are 2."),
        ("a,a\n1,1", "Column a: line 1 names it twice."),
        ("a,\n1,1", "Column 2 has no name in line 1."),
        ("a,b\n1,\n2,", "Column b holds no sample."),
        ("time\n1\n2", "Line 1 names no sensor besides the time."),
        ("time,t,a\n1,1,1", "Columns time and t: line 1 names two columns of times."),
        ("time,a\n0,1\n1,2\n1,3", "Column time, line 4: the time does not rise."),
        ("time,a\n0,1\nnoon,2", 'Column time, line 3: "noon" is no time.'),
        ("time,a\n0,1\n1,2\n2,3\n9,4", "Column time, line 5: 7.00 s after the line before, usually 1.00 s"),
        ('a,b\n1,"2\n3,4', "The quotation mark in line 2 is not closed."),
        ("a,b\n1,1\n2,\n3,3\n4,4", "Column b, line 5: the samples are not evenly spaced"),
        ("a,b\n1,\n2,\n3,3", "Column b, line 2: the samples are not evenly spaced"),
        ("a,b\n1,1\n2,2\n3,3\n4,", "Column b, line 5: the samples end here, before those of other columns."),
    ],
)
def test_what_is_wrong_is_named_by_column_and_line(reader: Page, text: str, sentence: str) -> None:
    assert _read(reader, text).startswith(sentence)


def test_a_rate_that_no_sensor_has_is_refused(reader: Page) -> None:
    lines = "\n".join(str(k) for k in range(61_000))
    assert _read(reader, f"flow_a\n{lines}") == (
        "Column flow_a: 61000 samples in 60 s are 1020 Hz; a rate must lie between 0.1 and 1000 Hz."
    )
