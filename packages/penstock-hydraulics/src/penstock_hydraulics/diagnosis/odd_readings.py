"""Warnings by sensor about readings beyond the reference: what is odd, and what to check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np

from penstock_hydraulics.machine.topology import QUANTITIES
from penstock_hydraulics.signals.features import STEPS, Float
from penstock_hydraulics.signals.reference import TEXTURE, Numbers, Odd, ReferenceCheck, sensor_of

_UNITS: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = {
    "pressure": {"psi": (14.5038, 0.0), "kPa": (100.0, 0.0), "MPa": (0.1, 0.0), "Pa": (1e5, 0.0)},
    "flow": {"l/h": (60.0, 0.0), "l/s": (1 / 60, 0.0), "m³/h": (0.06, 0.0), "gal/min": (0.264172, 0.0)},
    "temperature": {"°F": (1.8, 32.0), "K": (1.0, 273.15)},
    "power": {"kW": (0.001, 0.0), "hp": (1 / 745.7, 0.0)},
    "vibration": {"m/s": (0.001, 0.0), "in/s": (1 / 25.4, 0.0)},
}
"""Other units of each quantity: factor and offset from its own."""
_KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "level": ("have unusual levels", "check their units and positions, and that the window starts with the work cycle"),
    "relation": ("do not agree with others as usual", "check their units, offsets and positions"),
    "stuck": ("stand still for a part of the cycle", "they may be stuck or disconnected"),
    "clipped": ("stay at their extremes", "check their measuring ranges"),
    "coarse": ("have few different values", "check their resolution and rounding"),
    "dense": ("have extremes within a second that are too close", "check that they were sampled at 10 Hz"),
    "wide": ("have extremes within a second that are too far apart", "check their wiring"),
    "smooth": ("are smoother than usual", "check that they were not filtered or filled in from fewer samples"),
    "rough": ("are rougher than usual", "check their wiring and resolution"),
}
"""By kind, for more sensors than are listed one by one: what is odd, and what to check. The other kinds are units."""
_OF_ALL: Final = "the units, offsets and positions of all"
_MAX_SINGLE: Final = 3
_VARIED: Final = 0.4
"""Share of different readings from which on they are not rounded."""
_FITS: Final = 0.9
"""Share of the segments whose levels fit another unit."""


class _Finding(NamedTuple):
    kind: str
    sensor: str
    sentence: str


def odd_reading_warnings(odd: Odd, window: Float, check: ReferenceCheck) -> list[str]:
    """One sentence for each odd sensor of `window` [known rows, STEPS], or for several where many are odd alike."""
    swapped = _swapped(odd, check)
    findings = [
        _Finding("swapped", one, f"{one} and {other} read as if swapped: check their positions")
        for one, other in swapped
    ]
    named = {sensor for pair in swapped for sensor in pair}
    levels = _levels(odd, check, named)
    leveled = {finding.sensor for finding in levels}
    relations = _relations(odd, check, named | leveled)
    explained = named | {finding.sensor for finding in levels if finding.kind != "level"}
    findings += [*levels, *relations, *_textures(odd, window, check, explained, leveled)]
    kinds = dict.fromkeys(finding.kind for finding in findings)
    return [
        f"out of distribution: {sentence}"
        for kind in kinds
        for sentence in _sentences(kind, [finding for finding in findings if finding.kind == kind])
    ]


def _sentences(kind: str, alike: list[_Finding]) -> list[str]:
    if len(alike) <= _MAX_SINGLE or kind == "swapped":
        return [finding.sentence for finding in alike]
    what, to_check = _KINDS.get(kind, (f"read as if in {kind}", "check their units"))
    names = ", ".join(finding.sensor for finding in alike[:_MAX_SINGLE])
    return [f"{names} and {len(alike) - _MAX_SINGLE} more {what}: {to_check}"]


def _swapped(odd: Odd, check: ReferenceCheck) -> list[tuple[str, str]]:
    """Pairs of sensors of one quantity that are odd as they are, and usual in the place of each other."""
    rows = _rows(check)
    suspects = _odd_sensors(odd, check)
    found = []
    for one, other in combinations(suspects, 2):
        if one.partition("_")[0] != other.partition("_")[0] or len(rows[one]) != len(rows[other]):
            continue
        levels = odd.measures.levels.copy()
        levels[rows[one] + rows[other]] = levels[rows[other] + rows[one]]
        now_levels, now_relations = check.compare(levels)
        own = [place for place, each in enumerate(check.relations) if {one, other} & {each.one, each.other}]
        if not now_levels[rows[one] + rows[other]].any() and not now_relations[own].any():
            found.append((one, other))
    return found if len({sensor for pair in found for sensor in pair}) == 2 * len(found) else []


def _odd_sensors(odd: Odd, check: ReferenceCheck) -> list[str]:
    related = [name for place in odd.relations.nonzero()[0] for name in check.relations[place][:2]]
    return [
        *dict.fromkeys([*(sensor_of(check.names[row]) for row in np.flatnonzero(odd.levels.any(axis=1))), *related])
    ]


def _rows(check: ReferenceCheck) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for place, name in enumerate(check.names):
        rows.setdefault(sensor_of(name), []).append(place)
    return rows


def _levels(odd: Odd, check: ReferenceCheck, known: Iterable[str]) -> list[_Finding]:
    """The most unusual sensors first."""
    findings: dict[str, _Finding] = {}
    rows = {name: row for row, name in enumerate(check.names)}
    for row in np.argsort(-odd.levels.sum(axis=1), kind="stable").tolist():
        sensor = sensor_of(check.names[row])
        if not odd.levels[row].any() or sensor in known or sensor in findings:
            continue
        mean = rows.get(sensor, row)
        if odd.levels[mean].any():
            findings[sensor] = _level(sensor, odd, check, mean)
        else:
            close = (odd.measures.levels[row] < check.references[row].low).any() == ("_max_" in check.names[row])
            findings[sensor] = _extremes(sensor, close=bool(close))
    return [*findings.values()]


def _level(sensor: str, odd: Odd, check: ReferenceCheck, row: int) -> _Finding:
    levels, at = odd.measures.levels[row], odd.levels[row]
    reference, quantity = check.references[row], sensor.partition("_")[0]
    low, high = np.array(reference.low), np.array(reference.high)
    worst = int(
        np.argmax(np.where(at, np.maximum(low - levels, levels - high) / np.maximum(high - low, 1e-9), -np.inf))
    )
    full = slice(check.filled)
    unit = next(
        (name for name, (a, b) in _UNITS[quantity].items() if _fits(((levels - b) / a)[full], low[full], high[full])),
        None,
    )
    seen = f"{levels[worst]:.4g} {QUANTITIES[quantity]} where {low[worst]:.4g} to {high[worst]:.4g} is usual"
    if unit is not None:
        return _Finding(unit, sensor, f"{sensor} reads {seen}, as if in {unit}: check its unit")
    what = "its unit, zero point and position, and that the window starts with the work cycle"
    return _Finding("level", sensor, f"{sensor} reads {seen}: check {what}")


def _fits(levels: Numbers, low: Numbers, high: Numbers) -> bool:
    return float(np.mean((levels >= low) & (levels <= high))) >= _FITS


def _relations(odd: Odd, check: ReferenceCheck, known: set[str]) -> list[_Finding]:
    """The sensors that explain the relations that do not hold, each the one with the largest share of its own."""
    broken = [check.relations[place][:2] for place in odd.relations.nonzero()[0]]
    broken = [pair for pair in broken if not known.intersection(pair)]
    total = {name: sum(name in each[:2] for each in check.relations) for pair in broken for name in pair}
    findings = []
    while broken:
        counts = {name: sum(name in pair for pair in broken) for name in total}
        culprit = max(counts, key=lambda name: (counts[name] / total[name], counts[name]))
        others = [one if other == culprit else other for one, other in broken if culprit in (one, other)]
        whose = f"the unit, offset and position of {culprit}" if counts[culprit] == total[culprit] > 1 else _OF_ALL
        sentence = f"{culprit} does not agree with {', '.join(others[:_MAX_SINGLE])} as usual: check {whose}"
        findings.append(_Finding("relation", culprit, sentence))
        broken = [pair for pair in broken if culprit not in pair]
    return findings


def _textures(odd: Odd, window: Float, check: ReferenceCheck, known: set[str], leveled: set[str]) -> list[_Finding]:
    """At most one for each sensor; a constant one has a warning of its own. `leveled` have unusual levels already."""
    findings: dict[str, _Finding] = {}
    spread = {check.flows[place]: float(odd.measures.spread[place]) for place in odd.spread.nonzero()[0]}
    for row, name in enumerate(check.names):
        sensor, own = sensor_of(name), odd.texture[:, row]
        if sensor in known or sensor in findings or not (own.any() or name in spread) or not np.ptp(window[row]):
            continue
        if own[0] or own[2] or own[3]:
            findings[sensor] = _repeating(sensor, window[row], highest=bool(own[2]), lowest=bool(own[3]))
        elif sensor in leveled:
            continue
        elif name in spread:
            usual = check.references[row].spread
            findings[sensor] = _extremes(sensor, close=usual is not None and spread[name] < usual.low)
        else:
            findings[sensor] = _roughness(
                sensor, float(odd.measures.texture[TEXTURE.index("roughness"), row]), check, row
            )
    return [*findings.values()]


def _repeating(sensor: str, readings: Float, *, highest: bool, lowest: bool) -> _Finding:
    unit = QUANTITIES[sensor.partition("_")[0]]
    extreme = readings.max() if highest else readings.min()
    tied = readings == extreme
    if (highest or lowest) and _varied(readings[~tied]):
        seen = f"{'highest' if highest else 'lowest'} reading, {extreme:.5g} {unit}, for {tied.sum()} s"
        return _Finding("clipped", sensor, f"{sensor} stays at its {seen}: check its measuring range")
    starts = np.concatenate(([0], np.diff(readings).nonzero()[0] + 1, [STEPS]))
    longest = int(np.diff(starts).argmax())
    start, end = int(starts[longest]), int(starts[longest + 1])
    if 2 * (end - start) > (np.diff(readings) == 0).sum() and _varied(np.delete(readings, slice(start, end))):
        seen = f"at {readings[start]:.5g} {unit} for {end - start} s"
        return _Finding("stuck", sensor, f"{sensor} stands still {seen}: it may be stuck or disconnected")
    values = len(np.unique(readings))
    sentence = f"{sensor} has only {values} different values in {STEPS} s: check its resolution and rounding"
    return _Finding("coarse", sensor, sentence)


def _varied(readings: Float) -> bool:
    """Whether most readings differ, as they do without rounding."""
    return len(np.unique(readings)) >= _VARIED * len(readings)


def _extremes(sensor: str, *, close: bool) -> _Finding:
    what = f"{sensor} has extremes within a second that are"
    if close:
        remedy = "check that it was sampled at 10 Hz, and not filled in from fewer samples"
        return _Finding("dense", sensor, f"{what} closer than usual: {remedy}")
    return _Finding("wide", sensor, f"{what} farther apart than usual: check its wiring")


def _roughness(sensor: str, roughness: float, check: ReferenceCheck, row: int) -> _Finding:
    if roughness < check.references[row].roughness.low:
        what = "is smoother than usual: check that it was not filtered or filled in from fewer samples"
        return _Finding("smooth", sensor, f"{sensor} {what}")
    return _Finding("rough", sensor, f"{sensor} is rougher than usual: check its wiring and resolution")
