"""The task `hydraulic-diagnostics`: the diagnosis of one machine from one work cycle."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import orjson
from numpy.typing import NDArray
from pydantic import BaseModel

from penstock.errors import InvalidInput, ModelLoadError, quoted
from penstock.plugin_api import Registry, Signature, Task, parse_config, parse_request
from penstock_hydraulics.diagnosis import advisories
from penstock_hydraulics.diagnosis.anomalies import anomaly_detector
from penstock_hydraulics.diagnosis.conclusion import conclude, make_grounds
from penstock_hydraulics.diagnosis.health import ComponentAssessor
from penstock_hydraulics.diagnosis.model_requirements import HydraulicConfig, check_finite, check_signature
from penstock_hydraulics.diagnosis.out_of_distribution import find_unusual
from penstock_hydraulics.diagnosis.request_plans import RequestPlan, RequestPlanCache
from penstock_hydraulics.diagnosis.rules import NOMINAL, Expectations, Figures, make_rule_set
from penstock_hydraulics.diagnosis.schemas import DegradationAnswer, PredictionRequest, PredictionResponse
from penstock_hydraulics.fleet.latest import Diagnosed
from penstock_hydraulics.fleet.results import Result
from penstock_hydraulics.fleet.trends import Moment, Place, Trends, degradation_answer
from penstock_hydraulics.machine.templates import TEMPLATES, is_template
from penstock_hydraulics.machine.topology import Topology, parse_topology
from penstock_hydraulics.signals.coverage import coverage_of
from penstock_hydraulics.signals.evidence import Evidence, evidence_key
from penstock_hydraulics.signals.features import (
    STEPS,
    FeatureConfig,
    Float,
    Layout,
    Scales,
    empty_machine,
    encode_all,
    repeated,
    statistics_of,
)
from penstock_hydraulics.signals.reference import ReferenceCheck, row_name
from penstock_hydraulics.signals.windows import (
    complete,
    fill_windows,
    kept_readings,
    measured_names,
    plan_window,
    rows_of,
)

if TYPE_CHECKING:
    from penstock_hydraulics.fleet.fleet import Equipment, Fleet

_WHOLE_CYCLE_SHARE: Final = 0.9
"""Minimum share of a work cycle for a comparison with nominal means."""
_MAX_PARSED: Final = 256


class Prepared(NamedTuple):
    """Results of `preprocess` that `postprocess` needs."""

    task: Task
    plan: RequestPlan
    figures: Figures
    warnings: list[str]
    unusual: bool
    """Whether the window is out of distribution."""
    readings: Float | None
    """[sensors, seconds] what the fleet keeps of the window."""

    @property
    def evidence(self) -> str:
        """What the answer rests on; unusual windows make a trend of their own."""
        return f"{self.plan.evidence}-unusual" if self.unusual else self.plan.evidence


class HydraulicDiagnostics(Task):
    """Health, component states, faults and time to failure from the readings of a hydraulic machine.

    For a window that is too short, or an unsupported topology, the model runs on an empty machine, so that all requests
    take one path; the answer then comes from rules alone, with a warning.
    """

    kind: ClassVar[str] = "hydraulic-diagnostics"
    Request: ClassVar[type[BaseModel]] = PredictionRequest
    Response: ClassVar[type[BaseModel]] = PredictionResponse
    series_field: ClassVar[str | None] = "sensor_data"
    inline: ClassVar[bool] = True
    refuses_nan: ClassVar[bool] = True
    stores: ClassVar[bool] = True
    example: ClassVar[Any] = {
        "equipment_id": "exc_001",
        "sensor_data": {
            "pressure_pump_main": [100.0, 101.0, 102.0],
            "temperature_pump_main": [60.0, 61.0, 62.0],
            "vibration_pump_main": [2.5, 2.6, 2.7],
        },
    }

    def __init__(self, config: Mapping[str, Any], signature: Signature) -> None:
        """Raises ModelLoadError for an invalid configuration or signature."""
        super().__init__(config, signature)
        self.settings = parse_config(HydraulicConfig, self.kind, config)
        self.fleet: Fleet | None = None
        """Registered machines and history; None without an attached registry."""
        try:
            self.scales = Scales.from_mapping(self.settings.scales)
            self.features = FeatureConfig(min_window_s=self.settings.min_window_s)
        except InvalidInput as error:
            raise ModelLoadError(str(error)) from None
        if self.settings.default_topology not in TEMPLATES:
            raise ModelLoadError(f"default_topology: unknown template {self.settings.default_topology!r}")
        check_signature(signature)
        self._evidence = {name: Evidence(table) for name, table in self.settings.coverage.items()}
        self._plans = RequestPlanCache()
        self._parsed: dict[bytes, Topology] = {}
        self._trends: Trends | None = None
        self._empty = empty_machine(self.scales)
        self._model = ""

    def attach(self, registry: Registry, model: str) -> None:
        """Open the fleet of a registry; an unavailable database is retried in the background."""
        from penstock_hydraulics.fleet.fleet import Fleet

        self._model = model
        self.fleet = Fleet.of(registry)
        self._trends = Trends(self.fleet, model)

    def close(self) -> None:
        """Write queued results of the history."""
        fleet, self.fleet, self._trends = self.fleet, None, None
        if fleet is not None:
            fleet.close()

    def preprocess(self, request: Any) -> dict[str, NDArray[Any]]:
        """The model's inputs, each with a leading axis of 1. Raises InvalidInput that names the sensor or component."""
        return self._prepare([request], [self._plan(request)])

    def preprocess_all(self, requests: Sequence[Any]) -> dict[str, NDArray[Any]] | None:
        """The joined inputs of requests whose machines have the same circuit and sensors; None if they do not."""
        plans = [self._plan(request) for request in requests]
        first = plans[0]
        if any(plan is not first and plan.window_key != first.window_key for plan in plans):
            return None
        return self._prepare(requests, plans)

    def postprocess(self, outputs: Mapping[str, NDArray[Any]], request: Any) -> PredictionResponse:
        """The diagnosis from this request's rows. Raises OutOfRange if an output of the model is not finite."""
        prepared = request.take()
        if prepared is None or prepared.task is not self:  # one request used with two models at once
            self.preprocess(request)
            prepared = request.take()
        plan, warnings = prepared.plan, [*prepared.plan.warnings, *prepared.warnings]
        check_finite(outputs)
        predicted, components = outputs["anomalies"][0].tolist(), plan.components
        model = plan.layout is not None
        assessment = components(outputs["levels"][0], predicted) if model else components.without_model(predicted)
        findings = plan.anomalies(assessment.anomalies, prepared.figures)
        health, unknown = conclude(assessment, findings, plan.grounds, plan.topology, unusual=prepared.unusual)
        warnings += [] if unknown is None else [unknown]
        moment, degradation = self._degradation(request, health.score, prepared, warnings)
        response = PredictionResponse.build(
            equipment_id=request.equipment_id,
            health=health,
            degradation=degradation,
            anomaly=findings.answer,
            components=assessment.parts,
            coverage=plan.share,
            warnings=warnings,
            unknown_sensors=[*plan.window_plan.unknown],
            topology=plan.topology.name,
            model_version="",
            inference_time_ms=0.0,
            preprocessing_time_ms=0.0,
            postprocessing_time_ms=0.0,
        )
        fleet = self.fleet
        if fleet is None:
            return response
        trend = self._model if model and moment.known else None
        return response.on_complete(_result_recorder(fleet, moment.at_s, self._model, trend, prepared))

    def _degradation(
        self, request: PredictionRequest, score: float | None, prepared: Prepared, warnings: list[str]
    ) -> tuple[Moment, DegradationAnswer]:
        """When the window ended, and the trend until then, or what this window alone shows."""
        plan, trends, trend = prepared.plan, self._trends, None
        model = plan.layout is not None
        place = Place.of(request.equipment_id, prepared.evidence, plan.equipment, plan.window_plan.seconds)
        moment = Moment(0.0, False) if trends is None else trends.moment(request.timestamp, plan.equipment)
        if trends is not None and score is not None and model and moment.known:  # rules alone are part of no trend
            trend = trends.of(place, score, moment.at_s)
        answer, below = degradation_answer(score, trend, place.failure_health, model=model)
        warnings += [each for each in (moment.warning, below) if each is not None]
        return moment, answer

    def coerce(self, value: Any) -> PredictionRequest:
        """A request from a mapping of its fields; readings may be arrays. Raises InvalidInput."""
        if isinstance(value, PredictionRequest):
            return value
        if isinstance(value, Mapping):
            return parse_request(PredictionRequest, value)
        raise InvalidInput("request: must be a PredictionRequest or a mapping of its fields", field="request")

    # Before the model runs

    def _plan(self, request: PredictionRequest) -> RequestPlan:
        data, rates = request.sensor_data, request.sampling_rate_hz
        fleet = self.fleet
        equipment = fleet.equipment(request.equipment_id) if fleet is not None else None
        topology, assumed = self._topology(request.topology, equipment)
        rates_key: Hashable = rates if isinstance(rates, float) else tuple(rates.items())
        known = None if equipment is None else request.equipment_id
        window_key = (topology.fingerprint, rates_key, tuple(data), tuple(map(len, data.values())))
        return self._plans.find(
            (assumed, known, window_key),
            equipment,
            lambda: self._plan_request(topology, assumed, equipment, request, window_key),
        )

    def _prepare(self, requests: Sequence[PredictionRequest], plans: Sequence[RequestPlan]) -> dict[str, NDArray[Any]]:
        """The inputs for requests of one `window_key`; what `postprocess` needs is left in them."""
        first = plans[0]
        filled = fill_windows([request.sensor_data for request in requests], first.window_plan, STEPS)
        kept = kept_readings(filled.windows, first.window_plan) if self.fleet is not None else None
        figures, arrays = self._encode_windows(filled.windows, first)
        unusual = find_unusual(filled.windows, arrays["statistics"], first)
        for each, (request, plan, warnings) in enumerate(zip(requests, plans, filled.warnings, strict=True)):
            for limit in plan.anomalies.rule_set.limits:
                row = limit.row
                violation = limit.violation(float(filled.low[each, row]), float(filled.high[each, row]))
                if violation is not None:
                    warnings.append(violation)
            warnings += unusual.warnings[each]
            readings = None if kept is None else kept[each]
            request.keep(Prepared(self, plan, figures[each], warnings, unusual.flags[each], readings))
        return arrays

    def _encode_windows(self, windows: Float, plan: RequestPlan) -> tuple[list[Figures], dict[str, NDArray[Any]]]:
        """Inputs of rules and model; for whole cycles with all rows they share the statistics."""
        layout, steps, count = plan.layout, plan.window_plan.steps, len(windows)
        if layout is not None and steps == STEPS and len(plan.shown) == windows.shape[1]:
            statistics = statistics_of(windows)
            return Figures.of_statistics(statistics), repeated(encode_all(windows, layout, statistics), count)
        figures = [Figures.of(window[:, :steps]) for window in windows]
        if layout is None:
            return figures, repeated(self._empty, count)
        if len(plan.shown) < windows.shape[1]:
            windows = windows[:, plan.shown]
        complete(windows, steps, plan.usual)
        return figures, repeated(encode_all(windows, layout), count)

    def _topology(self, given: Any, equipment: Equipment | None) -> tuple[Topology, bool]:
        """The machine's circuit, and whether it is only assumed. Raises InvalidInput."""
        if given is None:
            if equipment is not None:
                return equipment.topology, False
            return TEMPLATES[self.settings.default_topology], True
        if isinstance(given, str):
            found = TEMPLATES.get(given)
            if found is None:
                known = ", ".join(TEMPLATES)
                raise InvalidInput(
                    f"topology: unknown template {quoted(given)}; known templates: {known}; or send a graph",
                    field="topology",
                )
            return found, False
        return (given if isinstance(given, Topology) else self._parse(given)), False

    def _parse(self, document: Mapping[str, Any]) -> Topology:
        try:
            key = blake2b(orjson.dumps(document), digest_size=16).digest()
        except (TypeError, ValueError):  # not JSON; parse_topology reports the error
            return parse_topology(document)
        found = self._parsed.get(key)
        if found is None:
            found = parse_topology(document)
            if len(self._parsed) >= _MAX_PARSED:
                self._parsed.clear()
            self._parsed[key] = found
        return found

    def _plan_request(
        self,
        topology: Topology,
        assumed: bool,
        equipment: Equipment | None,
        request: PredictionRequest,
        window_key: Hashable,
    ) -> RequestPlan:
        settings, config = self.settings, self.features
        template = topology.name if is_template(topology, (topology.name,)) else ""
        evidence, reference = self._evidence.get(template), settings.reference.get(template)
        rests = None if reference is None else reference.rests()
        window = plan_window(request.sensor_data, request.sampling_rate_hz, topology, config, rests)
        usable = [name for name in window.sensors if name not in window.slow]
        measured = measured_names(window, topology, usable)
        told = None if evidence is None else evidence.states(measured)
        coverage = coverage_of(topology, usable, told)
        shown = rows_of(window, topology, usable if evidence is None else evidence.sensors.intersection(usable))
        long_enough = window.seconds >= config.min_window_s
        supported = settings.topologies == "any" or is_template(topology, settings.topologies)
        model = long_enough and supported and bool(shown)
        labelled = bool(template) and self._label_source(topology.name) == "supervised"
        whole = window.seconds >= _WHOLE_CYCLE_SHARE * config.window_s
        expectations = self._expectations(None if assumed else topology, equipment)
        rule_set = make_rule_set(topology, window.sensors, expectations, whole=whole)
        detector = anomaly_detector(topology, coverage, rule_set, settings.thresholds, model=model, labelled=labelled)
        components = ComponentAssessor(topology, coverage)
        judged = [coverage.components[topology.index[part]] > 0.0 for part, _ in components.with_state]
        grounds = make_grounds(components.with_state, judged, model=model, measured=told is not None, whole=whole)
        layout = Layout.make(topology, [window.rows[row] for row in shown], self.scales) if model else None
        return RequestPlan(
            window_key=window_key,
            topology=topology,
            window_plan=window,
            layout=layout,
            shown=shown,
            reference=ReferenceCheck.of(
                None if layout is None else reference,
                [row_name(channel, topology.components[node].id) for node, channel in window.rows],
                window.steps,
                {name for group in window.groups if group.held for name in group.names},
            ),
            usual=layout.mean if layout is not None and self.scales.covers(topology) else None,
            share=round(coverage.of_window(window.seconds, config.window_s, assumed=assumed, model=model), 6),
            components=components,
            grounds=grounds,
            evidence=evidence_key(topology.fingerprint, measured, window.seconds, whole=whole, assumed=assumed),
            anomalies=detector,
            warnings=(
                *advisories.machine_advisories(topology, assumed, supported, labelled or not model, settings.universal),
                *advisories.window_advisories(window, config, long_enough),
                *advisories.sensor_advisories(coverage, window.slow, grounds.missing, detector.unavailable),
                *advisories.simulation_advisories(
                    settings.detected_from.get(topology.name, {}) if model and evidence else {}
                ),
                *window.warnings,
            ),
            equipment=equipment,
        )

    def _label_source(self, topology: str) -> str:
        states = self.settings.states
        return states if isinstance(states, str) else states.get(topology, "simulated")

    def _expectations(self, topology: Topology | None, equipment: Equipment | None) -> Expectations:
        nominal: dict[str, float] = {}
        if topology is not None and is_template(topology, (topology.name,)):
            nominal.update(NOMINAL.get(topology.name, {}))
            nominal.update(self.settings.nominal.get(topology.name, {}))
        if equipment is None:
            return Expectations(nominal)
        nominal.update(equipment.nominal)
        return Expectations(nominal, equipment.limits)


def _result_recorder(
    fleet: Fleet, at_s: float, model: str, trend: str | None, prepared: Prepared
) -> Callable[[PredictionResponse, str], None]:
    """A callback that stores one answer in the history, and with its readings as the latest one."""

    def record(answer: PredictionResponse, version: str) -> None:
        if prepared.readings is not None:
            fleet.keep_latest(Diagnosed(at_s, answer, prepared.plan.window_plan.sensors, prepared.readings, model))
        fleet.record(
            Result(
                answer.equipment_id,
                at_s,
                answer.health.score,
                answer.health.status,
                answer.degradation.rate,
                answer.degradation.time_to_failure_hours,
                answer.degradation.basis,
                tuple(answer.anomaly.detected_anomalies),
                {part.component_id: part.health for part in answer.components if part.health is not None},
                answer.coverage,
                version,
                trend,
                prepared.evidence,
            )
        )

    return record
