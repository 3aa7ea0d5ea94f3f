"""Simulated windows as requests, written to a file or sent to a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from penstock import Client
from penstock.errors import InvalidInput, PenstockError
from penstock_hydraulics.fleet.equipment import check_equipment_id
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import Topology, parse_topology
from penstock_hydraulics.simulator.faults import FAULTS, Faults
from penstock_hydraulics.simulator.windows import Labels, SimulatedWindow, simulate

_DIGITS = 3
"""Decimals of a reading in a request; beyond the resolution of the sensors."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which windows to simulate; without a `component`, the first one that can have the fault is used."""

    topology: Topology
    fault: str | None = None
    severity: float = 0.5
    component: str | None = None
    windows: int = 10
    degrade: bool = False
    """Whether the severity grows from 0 to `severity` over the windows."""
    interval_s: float = 60.0
    """Time between two windows; the timestamp of the last is now."""
    equipment_id: str = "simulated"
    seed: int = 0


def topology_named(text: str) -> Topology:
    """A template by name, or the circuit in a JSON file; raises InvalidInput."""
    if text in TEMPLATES:
        return TEMPLATES[text]
    try:
        document = json.loads(Path(text).read_bytes())
    except OSError:
        raise InvalidInput(
            f"{text!r} is neither a template ({', '.join(TEMPLATES)}) nor a readable JSON file.",
            field="topology",
        ) from None
    except (ValueError, RecursionError):
        raise InvalidInput(f"{text} is not JSON.", field="topology") from None
    return parse_topology(document)


def faults_of(plan: Plan) -> Faults:
    """The faults of a plan; raises InvalidInput if no component of the circuit can have the fault."""
    if plan.fault is None:
        if plan.component is not None or plan.degrade:
            raise InvalidInput(f"Missing fault for {plan.component or 'the machine'}; set --fault.", field="fault")
        return {}
    if plan.fault not in FAULTS:
        raise InvalidInput(f"Unknown fault {plan.fault!r}; known faults: {', '.join(FAULTS)}.", field="fault")
    able = [part.id for kind in FAULTS[plan.fault] for part in plan.topology.of_kind(kind)]
    component = plan.component or next(iter(able), None)
    if component is None:
        raise InvalidInput(
            f"The topology {plan.topology.name} has no component that can have {plan.fault};"
            f" it is simulated for: {', '.join(FAULTS[plan.fault])}.",
            field="fault",
        )
    return {component: {plan.fault: (0.0, plan.severity) if plan.degrade else plan.severity}}


def request_of(window: SimulatedWindow, topology: Topology, equipment_id: str, at: datetime | None = None) -> Json:
    """The body of POST /predict for a window; a template is sent by name, any other topology as a document."""
    known = TEMPLATES.get(topology.name) == topology
    request: Json = {
        "equipment_id": equipment_id,
        "topology": topology.name if known else topology.document(),
        "sampling_rate_hz": dict(window.rates_hz),
        "sensor_data": {name: values.round(_DIGITS).tolist() for name, values in window.readings.items()},
    }
    return request if at is None else {**request, "timestamp": at.isoformat()}


def traffic(plan: Plan) -> Iterator[tuple[Json, Labels]]:
    """Requests with their labels."""
    if not plan.topology.expected_sensors:
        raise InvalidInput(f"The topology {plan.topology.name} has no expected sensors to simulate.", field="topology")
    check_equipment_id(plan.equipment_id)
    begin = _begin(plan)
    windows = simulate(plan.topology, faults_of(plan), plan.windows, plan.seed)
    for place, window in enumerate(windows):
        at = begin + timedelta(seconds=plan.interval_s) * place
        yield request_of(window, plan.topology, plan.equipment_id, at), window.labels


def _begin(plan: Plan) -> datetime:
    """The time of the first window; raises InvalidInput if it is before 1970."""
    duration_s = plan.interval_s * (plan.windows - 1)
    now = datetime.now(UTC)
    if duration_s > now.timestamp():
        raise InvalidInput(
            f"{plan.windows} windows {plan.interval_s:g} s apart start before 1970; use a shorter interval.",
            field="interval",
        )
    return now - timedelta(seconds=duration_s)


def label_document(labels: Labels) -> Json:
    """Labels for JSON."""
    present = [fault for fault, there in zip(FAULTS, labels.anomalies, strict=True) if there]
    return {
        "severities": labels.severities,
        "levels": labels.levels,
        "health": round(labels.health, 4),
        "anomalies": present,
    }


def write_lines(pairs: Iterable[tuple[Json, Labels]], write: Callable[[str], object]) -> int:
    """One JSON line `{"request": …, "labels": …}` per window; returns the number of windows."""
    return sum(1 for _ in written(pairs, write))


def written(pairs: Iterable[tuple[Json, Labels]], write: Callable[[str], object]) -> Iterator[tuple[Json, Labels]]:
    """Pass the windows through, each after its line is written."""
    for request, labels in pairs:
        write(json.dumps({"request": request, "labels": label_document(labels)}) + "\n")
        yield request, labels


def send(pairs: Iterable[tuple[Json, Labels]], url: str, echo: Callable[[str], object]) -> int:
    """Send the windows to POST /predict of the server at `url` in order; raises the server's errors."""
    count = 0
    with Client(url) as client:
        for request, labels in pairs:
            echo(_line(count + 1, client.predict(request=request), labels))
            count += 1
    return count


def _line(number: int, answer: Mapping[str, Any], labels: Labels) -> str:
    try:
        score, status = answer["health"]["score"], answer["health"]["status"]
        found = ", ".join(answer["anomaly"]["detected_anomalies"]) or "none"
    except (KeyError, TypeError):
        raise PenstockError(
            "the server's default model is not a hydraulics model; run `penstock serve hydraulics`"
        ) from None
    shown = "   -" if score is None else f"{score:.2f}"
    return f"{number:4d}  simulated {labels.health:.2f}  answered {shown} {status:8s}  anomalies: {found}"
