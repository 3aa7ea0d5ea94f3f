"""The verdict on a window: what moved, how far, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from penstock.artifacts.reference.bins import SPECIAL, Feature
from penstock.artifacts.reference.reference import Reference
from penstock.monitor.drift.statistics import Difference, chi2_tail, difference, holm, spread
from penstock.monitor.sequential_test import log_e_worse
from penstock.tensors import Array

Verdict: TypeAlias = Literal["ok", "warn", "alarm", "no_verdict"]

ALPHA = 0.01
"""The chance of any false alarm in a day: half for answers, two fifths for inputs, a tenth for data quality."""
_OF_ANSWERS, _OF_INPUTS, _OF_QUALITY = 0.5, 0.4, 0.1
MOST_MOVED = 10
_LEAST_BAD = 3
"""Bad rows, in at least two parts of a window: a single client that repeats itself is no trend."""
_LEAST_TRIALS = 20
_NUMBERS = slice(len(SPECIAL), None)

_KINDS = {"missing": slice(0, 2), "out_of_range": slice(2, 4), "unseen": slice(4, 5)}
"""Kinds of bad values, by the bins that hold them."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What windows are judged by. `psi` is the least distance that is an alarm."""

    window_s: float = 3600.0
    min_rows: int = 500
    psi: float = 0.1

    @property
    def alpha(self) -> float:
        """The chance of a false alarm in one window."""
        return ALPHA / max(86_400 / self.window_s, 1.0)


class Moved(NamedTuple):
    """One feature of a window. `significant`: more than chance explains, at the rate of false alarms of a day."""

    name: str
    found: Difference
    p: float
    significant: bool
    bin: str
    expected: float
    got: float

    def verdict(self, psi: float) -> Verdict:
        """Far and more than chance is an alarm, near and more than chance a warning."""
        return ("alarm" if self.found.psi > psi else "warn") if self.significant else "ok"

    def to_json(self, psi: float) -> dict[str, Any]:
        """As the server answers it; `bin` is where the share of rows has changed most."""
        found = self.found
        return {
            "feature": self.name,
            "verdict": self.verdict(psi),
            "psi": round(found.psi, 4),
            "p": float(f"{self.p:.3g}"),
            "chi2": round(found.chi2, 2),
            "degrees": found.degrees,
            "ks": round(found.ks, 4),
            "js": round(found.js, 4),
            "bin": self.bin,
            "reference_share": round(self.expected, 4),
            "window_share": round(self.got, 4),
        }


def judge(reference: Reference, parts: Sequence[Array], rules: Rules) -> dict[str, Any]:
    """The verdict on a window whose counts, in parts, are in the order of the reference's."""
    window = np.sum(parts, axis=0) if len(parts) else np.zeros_like(reference.counts)
    rows = _rows(reference, window)
    quality = data_quality(reference, parts, rules)
    if rows < rules.min_rows:
        verdict: Verdict = "alarm" if quality else "no_verdict"
        return {"verdict": verdict, "rows": rows, "data_quality": quality, "moved": []}
    phi = spread(parts, reference.slices)
    split = len(reference.input_features)
    moved = [_moved(*one, phi) for one in _features(reference, window)]
    inputs = _tested(moved[:split], rules.alpha * _OF_INPUTS)
    answers = _tested(moved[split:], rules.alpha * _OF_ANSWERS)
    verdicts = {
        side: _worst(one.verdict(rules.psi) for one in found)
        for side, found in (("inputs", inputs), ("predictions", answers))
    }
    shown = sorted((*inputs, *answers), key=lambda one: (not one.significant, -one.found.psi))[:MOST_MOVED]
    return {
        "verdict": _worst([*verdicts.values(), "alarm" if quality else "ok"]),
        "rows": rows,
        "phi": round(phi, 3),
        **verdicts,
        "data_quality": quality,
        "moved": [one.to_json(rules.psi) for one in shown],
    }


def _rows(reference: Reference, window: Array) -> int:
    return int(window[reference.slices[0]].sum())


def _features(reference: Reference, window: Array) -> list[tuple[Feature, Array, Array]]:
    places = zip(reference.features, reference.slices, strict=True)
    return [(feature, window[place], reference.counts[place]) for feature, place in places]


def _moved(feature: Feature, window: Array, reference: Array, phi: float) -> Moved:
    ordered = None if feature.categories else _NUMBERS
    found = difference(window, reference, phi, ordered=ordered)
    got, expected = window / max(window.sum(), 1), reference / max(reference.sum(), 1)
    place = int(np.abs(got - expected).argmax())
    return Moved(
        feature.name,
        found,
        chi2_tail(found.chi2 / phi, found.degrees),
        False,
        feature.bin_names()[place],
        float(expected[place]),
        float(got[place]),
    )


def _tested(moved: Sequence[Moved], alpha: float) -> list[Moved]:
    rejected = holm([one.p for one in moved], alpha)
    return [one._replace(significant=found) for one, found in zip(moved, rejected, strict=True)]


def _worst(verdicts: Any) -> Verdict:
    order: tuple[Verdict, ...] = ("ok", "warn", "alarm")
    return max(verdicts, key=order.index, default="ok")


def data_quality(reference: Reference, parts: Sequence[Array], rules: Rules) -> list[dict[str, Any]]:
    """The input features with more bad values than twice the reference's rate, which is valid at any moment.

    The rate of the reference is taken for a little higher than seen: no bad row among m says that it is about 2/m.
    """
    if not len(parts):
        return []
    tests = len(reference.input_features) * len(_KINDS)
    needed = math.log(tests / (rules.alpha * _OF_QUALITY))
    table = np.array(parts)
    found = []
    for feature, place in zip(reference.input_features, reference.slices, strict=False):
        for kind, bins in _KINDS.items():
            bad = table[:, place][:, bins].sum(axis=1)
            expected = sum(feature.counts[bins])
            one = _bad_values(int(table[:, place].sum()), bad, (expected + 2) / (reference.rows + 2), needed)
            if one is not None:
                found.append({"feature": feature.name, "kind": kind, **one})
    return sorted(found, key=lambda one: -one["rate"])[:MOST_MOVED]


def _bad_values(rows: int, bad: Array, rate: float, needed: float) -> dict[str, Any] | None:
    total, limit = int(bad.sum()), 2 * rate
    if rows < _LEAST_TRIALS or total < _LEAST_BAD or np.count_nonzero(bad) < 2 or limit >= 1 or total / rows <= limit:
        return None
    evidence = float(log_e_worse(rows, total, limit))
    if evidence < needed:
        return None
    return {"rows": rows, "bad": total, "rate": round(total / rows, 4), "limit": round(limit, 5)}
