"""The table of alert rules and panels, from which the files for Prometheus and Grafana are written."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

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
    Share,
)

Unit: TypeAlias = Literal["percentunit", "s", "bytes", "reqps", "short"]
"""As Grafana names them."""
Severity: TypeAlias = Literal["critical", "warning"]


class Rule(NamedTuple):
    """An alert fires when `measure` is above `above` for `minutes`, and until it has not been for `keep_minutes`.

    For a server it ends only where the measure is not above `clear` either, which Prometheus does not know.
    `summary` and `action` may use labels as Prometheus' templates; `action` is what the person with the pager does.
    """

    name: str
    severity: Severity
    measure: Measure
    above: float
    minutes: float
    keep_minutes: float
    unit: Unit
    summary: str
    action: str
    clear_share: float = 0.8

    @property
    def clear(self) -> float:
        """The threshold below which an alert that fires may end."""
        return self.above * self.clear_share


class Panel(NamedTuple):
    """A graph without an alert: one line for each measure, with a legend."""

    title: str
    unit: Unit
    lines: tuple[tuple[str, Measure], ...]


_VERSION = ("model", "version")
_MODEL = "{{ $labels.model }}:{{ $labels.version }}"
_REQUESTS = Counter("penstock_requests_total")
_DURATION = "penstock_request_duration_seconds"


RULES = (
    Rule(
        "PenstockAbsent", "critical", Absent("penstock_processes"), 0, 5, 0, "short",
        "No server is scraped.",
        "Check that the servers run, and that Prometheus reaches /metrics.",
    ),
    Rule(
        "PenstockNotReady", "critical",
        Missing(Level("penstock_processes"), Level("penstock_ready_processes")), 0, 5, 2, "short",
        "{{ $value }} server processes of {{ $labels.instance }} are not ready.",
        "GET /health/ready says why. During a drain or a start this is expected.",
    ),
    Rule(
        "PenstockModelFailed", "critical",
        Level("penstock_model_state", ("ref",), {"state": "failed"}, counts=True), 0, 2, 2, "short",
        "{{ $labels.ref }} should be served, and nothing answers for it.",
        "GET /health/ready and the log say why; publish a version that works, or unload it.",
    ),
    Rule(
        "PenstockModelOutdated", "warning",
        Level("penstock_model_state", ("ref",), {"state": "outdated"}, counts=True), 0, 10, 2, "short",
        "{{ $labels.ref }} answers with an older version than the registry names.",
        "The log says why the newer one could not be loaded; publish one that works, or move the alias back.",
    ),
    Rule(
        "PenstockCircuitOpen", "critical", Level("penstock_circuit_open", _VERSION, counts=True), 0, 1, 5, "short",
        f"{_MODEL} keeps failing; the fallback of its route answers for it.",
        "Look for its errors in the log; take it off its route until it works.",
    ),
    Rule(
        "PenstockRoutesStale", "warning", Level("penstock_routes_stale"), 0, 2, 2, "short",
        "{{ $labels.instance }} cannot read the registry's database and keeps the routes it knows.",
        "Check the database; the server answers all the same. Canaries and webhooks wait meanwhile.",
    ),
    Rule(
        "PenstockErrors", "critical",
        Share(Counter("penstock_requests_total", {"outcome": "error|load_error"}), _REQUESTS),
        0.01, 5, 5, "percentunit",
        f"{{{{ $value | humanizePercentage }}}} of the requests to {_MODEL} fail.",
        "Look for errors in the log by request id; move the alias back if they began with a new version.",
    ),
    Rule(
        "PenstockRejected", "warning",
        Share(Counter("penstock_rejected_total"), _REQUESTS), 0.01, 5, 5, "percentunit",
        f"{{{{ $value | humanizePercentage }}}} of the requests to {_MODEL} are refused or too late.",
        "It is overloaded: add processes or replicas, or let clients send less. See the panel of the queue.",
    ),
    Rule(
        "PenstockSlow", "warning", Quantile(0.99, _DURATION), 1.0, 10, 5, "s",
        f"One request in a hundred to {_MODEL} takes longer than {{{{ $value | humanizeDuration }}}}.",
        "Compare the phases: a long queue is load, a long run is the model or the machine.",
    ),
    Rule(
        "PenstockQueueing", "warning", Quantile(0.95, "penstock_queue_seconds"), 0.5, 10, 5, "s",
        f"One request in twenty to {_MODEL} waits longer than {{{{ $value | humanizeDuration }}}}.",
        "More arrives than the model can answer: add processes or replicas, or a faster variant.",
    ),
    Rule(
        "PenstockOutOfRange", "warning",
        Share(Counter("penstock_out_of_range_total"), _REQUESTS, window="15m", least=50), 0.05, 15, 15, "percentunit",
        f"{{{{ $value | humanizePercentage }}}} of the requests to {_MODEL} have values outside the expected range.",
        "Ask who sends them what has changed: a unit, a sensor, a step of their preprocessing.",
    ),
    Rule(
        "PenstockDrift", "warning",
        Level("penstock_drift_verdict", _VERSION, {"verdict": "alarm"}, counts=True), 0, 0, 0, "short",
        f"What clients send to {_MODEL}, or what it answers, is far from its reference.",
        "GET /models/NAME/drift says what moved: bad values first, then predictions, then inputs.",
    ),
    Rule(
        "PenstockCanaryRolledBack", "warning",
        Level("penstock_canary", _VERSION, {"state": "rolled_back"}, counts=True), 0, 0, 0, "short",
        f"The canary {_MODEL} was rolled back within the last hour.",
        "`penstock routes why NAME` has the figures; publish a better version, or try this one again (`--again`).",
    ),
    Rule(
        "PenstockCanaryPaused", "warning",
        Level("penstock_canary", _VERSION, {"state": "paused"}, counts=True), 0, 1, 0, "short",
        f"The canary {_MODEL} is paused: it needs a decision.",
        "`penstock routes why NAME` says why; then resume it, promote it or roll it back.",
    ),
    Rule(
        "PenstockOpenFiles", "warning",
        Full(Level("process_open_fds"), Level("process_max_fds")), 0.8, 5, 5, "percentunit",
        "{{ $labels.instance }} uses {{ $value | humanizePercentage }} of its open files.",
        "Look for clients that open connections and leave them; raise the limit of open files (ulimit -n).",
    ),
    Rule(
        "PenstockGpuMemory", "warning",
        Full(Level("penstock_gpu_memory_used_bytes", ("gpu",)), Level("penstock_gpu_memory_total_bytes", ("gpu",))),
        0.95, 10, 5, "percentunit",
        "GPU {{ $labels.gpu }} of {{ $labels.instance }} has {{ $value | humanizePercentage }} of its memory in use.",
        "Serve fewer models or smaller batches on it: the next run may be out of memory.",
        0.95,
    ),
    Rule(
        "PenstockTracesDropped", "warning", Increase(Counter("penstock_traces_dropped_total")), 0, 15, 0, "short",
        "{{ $value }} traces of {{ $labels.instance }} were dropped in 15 minutes.",
        "The log says why the collector does not take them. Requests are answered all the same.",
    ),
    Rule(
        "PenstockPredictionLog", "warning",
        Increase(Counter("penstock_prediction_log_records_total", {"outcome": "dropped|failed"}), ("outcome",)),
        0, 15, 0, "short",
        "{{ $value }} records of the prediction log were {{ $labels.outcome }} in 15 minutes.",
        "Of dropped ones lower prediction_log_sample; of failed ones the log says what the disk refused.",
    ),
)  # fmt: skip
"""Every alert, the gravest of its kind first."""

PANELS = (
    Panel("Requests", "reqps", (("{{outcome}}", Rate(_REQUESTS, ("outcome",))),)),
    Panel(
        "Time of a request", "s",
        (
            ("p50 {{model}}", Quantile(0.5, _DURATION)),
            ("p99 {{model}}", Quantile(0.99, _DURATION)),
        ),
    ),
    Panel(
        "Where the time goes (mean)", "s",
        tuple(
            (f"{phase} {{{{model}}}}", Mean(f"penstock_{phase}_seconds"))
            for phase in ("queue", "preprocess", "compute", "postprocess")
        ),
    ),
    Panel("Rows in the run of a request (mean)", "short", (("{{model}}", Mean("penstock_batch_size")),)),
    Panel(
        "Queued rows, requests in flight", "short",
        (
            ("queued {{model}}", Level("penstock_queue_depth", ("model", "version"))),
            ("in flight {{model}}", Level("penstock_model_inflight", ("model", "version"))),
            ("in flight", Level("penstock_inflight")),
        ),
    ),
    Panel(
        "Memory", "bytes",
        (
            ("weights of {{model}}", Level("penstock_model_memory_bytes", ("model", "version"))),
            ("processes", Level("process_resident_memory_bytes")),
        ),
    ),
    Panel("CPU", "short", (("cores", Rate(Counter("process_cpu_seconds_total"))),)),
    Panel("GPU", "percentunit", (("{{gpu}}", Level("penstock_gpu_utilization_ratio", ("gpu",))),)),
)  # fmt: skip
"""Graphs that explain the alerts."""
