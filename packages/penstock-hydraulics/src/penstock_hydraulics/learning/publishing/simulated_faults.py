"""Which simulated faults a model detects: the nine kinds of fault at every component of the rig that can have them.

Simulations are no evidence of an accuracy, but a fault that is not even detected there cannot be expected in an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnxruntime

from penstock import Signature
from penstock_hydraulics.diagnosis.schemas import PredictionRequest, PredictionResponse
from penstock_hydraulics.learning.data.recordings import RIG
from penstock_hydraulics.signals.features import STEPS
from penstock_hydraulics.simulator import FAULTS, simulate
from penstock_hydraulics.simulator.traffic import request_of
from penstock_hydraulics.task import HydraulicDiagnostics

SEVERITIES: Final = (0.25, 0.5, 1.0)
WINDOWS: Final = 10
"""Windows of each fault, component and severity, each of another machine."""
SEEN: Final = 0.9
"""Share of the windows in which a fault is detected, at 10 Hz and at 1 Hz, to count as detected."""
RATES: Final = ("10 Hz", "1 Hz")
"""Sampling rates of the flows."""


class Case(NamedTuple):
    """A fault of a component at a severity; a healthy machine has neither."""

    fault: str
    component: str
    severity: float


class Outcome(NamedTuple):
    """Shares of the windows at one rate of the flows: the fault detected, only others, no fault with either status."""

    detected: float
    other: float
    unknown: float
    healthy: float


Outcomes = dict[Case, tuple[Outcome, ...]]
"""By case, one outcome for each of `RATES`."""


def cases() -> list[Case]:
    """A healthy rig, then every fault at every component that can have it, at every severity."""
    found = [
        Case(fault, part.id, severity)
        for fault, kinds in FAULTS.items()
        for part in RIG.of_kind(*kinds)
        for severity in SEVERITIES
    ]
    return [Case("none", "", 0.0), *found]


def simulated_faults(config: Mapping[str, Any], signature: Signature, path: Path, windows: int = WINDOWS) -> Outcomes:
    """The outcomes of the ONNX model at `path` with the task configuration of its manifest."""
    task = HydraulicDiagnostics(config, signature)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]

    def answer(body: Mapping[str, Any]) -> PredictionResponse:
        request = PredictionRequest.model_validate(body)
        return task.postprocess(dict(zip(names, session.run(None, task.preprocess(request)), strict=True)), request)

    return {
        case: tuple(
            _outcome(case.fault, [answer(body) for body in bodies])
            for bodies in zip(*requests(case, windows), strict=True)
        )
        for case in cases()
    }


@cache
def requests(case: Case, windows: int) -> list[tuple[dict[str, Any], ...]]:
    """The requests of each window, one for each of `RATES`; the machine and its noise differ from window to window."""
    faults = {case.component: {case.fault: case.severity}} if case.component else {}
    return [
        tuple(_rates(request_of(next(iter(simulate(RIG, faults, 1, seed))), RIG, "simulated")))
        for seed in range(windows)
    ]


def detected_from(outcomes: Outcomes) -> dict[str, dict[str, float | None]]:
    """By fault and component the lowest severity from which on the fault is detected; None if not even at 1."""
    found: dict[str, dict[str, float | None]] = {}
    for case, each in sorted(outcomes.items(), key=lambda item: -item[0].severity):
        if not case.component:
            continue
        lowest = found.setdefault(case.fault, {}).setdefault(case.component, None)
        worse = next((one for one in SEVERITIES if one > case.severity), None)
        if lowest == worse and min(outcome.detected for outcome in each) >= SEEN:
            found[case.fault][case.component] = case.severity
    return found


def simulated_section(outcomes: Outcomes) -> str:
    """The section of the model card."""
    head = ["fault", "component", "severity", *(f"flows at {rate}" for rate in RATES)]
    rows = [
        [case.fault, case.component or "–", f"{case.severity:g}", *(_cell(outcome) for outcome in each)]
        for case, each in outcomes.items()
    ]
    lines = [head, ["---"] * len(head), *rows]
    return _SECTION + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


_SECTION: Final = f"""## Simulated faults

What this version answers to simulated windows of the rig with one fault, all sensors. In percent of the windows: the
fault detected / only other faults / no fault, status unknown / no fault, status healthy. Faults that are detected in
less than {100 * SEEN:.0f} % of the windows at severity 1, or only there, are named in a warning of every answer.
Simulations are no evidence for a real machine; the recordings have the pump's leakage, cooler, valve and accumulator.

"""


def _cell(outcome: Outcome) -> str:
    return " / ".join(f"{100 * share:.0f}" for share in outcome)


def _rates(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The request as simulated, and with all sensors at 1 Hz."""
    means = {
        name: np.reshape(values, (STEPS, -1)).mean(axis=1).round(3).tolist()
        for name, values in body["sensor_data"].items()
    }
    yield body
    yield body | {"sensor_data": means, "sampling_rate_hz": 1.0}


def _outcome(fault: str, answers: Sequence[PredictionResponse]) -> Outcome:
    kinds: Counter[str] = Counter()
    for answer in answers:
        detected = answer.anomaly.detected_anomalies
        if fault in detected:
            kinds["detected"] += 1
        elif detected or answer.health.status in ("warning", "critical"):
            kinds["other"] += 1
        else:
            kinds[answer.health.status] += 1
    return Outcome(*(kinds[kind] / len(answers) for kind in Outcome._fields))
