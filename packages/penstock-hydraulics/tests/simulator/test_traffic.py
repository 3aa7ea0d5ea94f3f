"""Simulated windows as requests and files."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from penstock.errors import InvalidInput, ModelNotReady, PenstockError
from penstock_hydraulics.cli.simulate import simulate_windows
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import Component, Topology
from penstock_hydraulics.simulator.traffic import Plan, faults_of, send, topology_named, traffic, write_lines

RIG = TEMPLATES["zema_rig"]


def test_a_simulated_request_is_valid() -> None:
    ((request, labels),) = traffic(Plan(RIG, windows=1, equipment_id="press_7"))

    assert request["equipment_id"] == "press_7"
    assert request["topology"] == "zema_rig"
    assert set(request["sensor_data"]) == set(RIG.expected_sensors)
    assert request["sampling_rate_hz"]["flow_pump_main"] == 10.0
    assert datetime.fromisoformat(request["timestamp"]).tzinfo is not None
    assert labels.health == 1.0


def test_a_custom_circuit_is_sent_in_full_even_with_the_name_of_a_template() -> None:
    own = Topology("zema_rig", (Component("p", "pump", ("pressure",)),), ())

    ((request, _),) = traffic(Plan(own, windows=1))

    assert request["topology"] == own.document()


def test_timestamps_have_the_interval_and_end_now() -> None:
    stamps = [
        datetime.fromisoformat(request["timestamp"]) for request, _ in traffic(Plan(RIG, windows=3, interval_s=3600.0))
    ]

    assert stamps[1] - stamps[0] == stamps[2] - stamps[1] == timedelta(hours=1)


def test_the_fault_goes_to_the_first_component_that_can_have_it_unless_named() -> None:
    dual = TEMPLATES["dual_pump_system"]

    assert faults_of(Plan(dual, "leakage", 0.4)) == {"pump_main": {"leakage": 0.4}}
    assert faults_of(Plan(dual, "leakage", 0.4, "pump_aux")) == {"pump_aux": {"leakage": 0.4}}
    assert faults_of(Plan(dual, "leakage", 0.4, degrade=True)) == {"pump_main": {"leakage": (0.0, 0.4)}}
    assert faults_of(Plan(dual)) == {}


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (Plan(RIG, "rust"), "Unknown fault 'rust'"),
        (
            Plan(Topology("t", (Component("p", "pump"),), ()), "contamination"),
            "has no component that can have contamination",
        ),
    ],
)
def test_an_impossible_fault_is_refused(plan: Plan, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        faults_of(plan)


def test_a_topology_is_a_template_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"name": "own", "components": [{"component_id": "p", "type": "pump"}]}))

    assert topology_named("excavator") is TEMPLATES["excavator"]
    assert topology_named(str(file)).name == "own"
    file.write_text("{")
    with pytest.raises(InvalidInput, match="is not JSON"):
        topology_named(str(file))
    with pytest.raises(InvalidInput, match="neither a template"):
        topology_named("press")


def test_each_line_holds_a_request_and_its_labels() -> None:
    lines: list[str] = []

    assert write_lines(traffic(Plan(RIG, "leakage", 1.0, windows=2)), lines.append) == 2

    first = json.loads(lines[0])
    assert first["labels"]["anomalies"] == ["leakage"]
    assert first["labels"]["levels"]["pump_main"] == 2
    assert len(first["request"]["sensor_data"]["pressure_pump_main"]) == 60


class _Answering(BaseHTTPRequestHandler):
    answer: dict[str, Any]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/predict"
        assert request["topology"] == "zema_rig"
        body = json.dumps(self.answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def _served(answer: dict[str, Any]) -> HTTPServer:
    handler = type("Handler", (_Answering,), {"answer": answer})
    server = HTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return server


DIAGNOSIS = {
    "health": {"score": 0.5, "status": "warning"},
    "anomaly": {"predictions": {}, "detected_anomalies": ["leakage"]},
}


def test_demo_traffic_prints_each_answer_next_to_its_label() -> None:
    server = _served(DIAGNOSIS)
    printed: list[str] = []
    try:
        sent = send(traffic(Plan(RIG, windows=2)), f"http://127.0.0.1:{server.server_port}", printed.append)
    finally:
        server.shutdown()
        server.server_close()

    assert sent == 2
    assert printed[1].split() == ["2", "simulated", "1.00", "answered", "0.50", "warning", "anomalies:", "leakage"]


def test_a_server_with_another_default_model_is_reported() -> None:
    server = _served({"predicted": "seven"})
    try:
        with pytest.raises(PenstockError, match="is not a hydraulics model"):
            send(traffic(Plan(RIG, windows=1)), f"http://127.0.0.1:{server.server_port}", print)
    finally:
        server.shutdown()
        server.server_close()


def test_an_unreachable_server_is_one_sentence() -> None:
    with pytest.raises(ModelNotReady, match="no server answers"):
        send(traffic(Plan(RIG, windows=1)), "http://127.0.0.1:9", print)


def _command() -> Typer:
    app = Typer()
    app.command()(simulate_windows)
    return app


def test_the_command_writes_to_standard_output_or_to_a_file(tmp_path: Path) -> None:
    options = ["--fault", "leakage", "--severity", "1", "--windows", "2", "--degrade", "--equipment", "e1"]
    file = tmp_path / "windows.jsonl"

    shown = CliRunner().invoke(_command(), options)
    written = CliRunner().invoke(_command(), [*options, "--out", str(file)])

    assert (shown.exit_code, written.exit_code, written.output) == (0, 0, "")
    for lines in (shown.stdout.splitlines(), file.read_text().splitlines()):
        assert [json.loads(line)["labels"]["severities"]["pump_main"]["leakage"] for line in lines] == [0.0, 1.0]


def test_the_command_sends_and_keeps_what_it_sent(tmp_path: Path) -> None:
    server = _served(DIAGNOSIS)
    file = tmp_path / "windows.jsonl"
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        result = CliRunner().invoke(_command(), ["--windows", "2", "--url", url, "--out", str(file)])
    finally:
        server.shutdown()
        server.server_close()

    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) == len(file.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        ({"component": "pump_main"}, "Missing fault"),
        ({"degrade": True}, "Missing fault"),
        ({"interval_s": float("inf")}, "start before 1970"),
        ({"interval_s": 1e14}, "start before 1970"),
        ({"interval_s": 1e6, "windows": 1_000_000}, "start before 1970"),
        ({"interval_s": 86_400.0 * 365, "windows": 100}, "start before 1970"),
        ({"equipment_id": "a b"}, "equipment_id: 'a b' is invalid"),
        ({"topology": Topology("bare", (Component("a", "pump"),), ())}, "bare has no expected sensors"),
    ],
)
def test_a_plan_that_makes_no_requests_is_refused_in_one_sentence(options: dict[str, Any], printed: str) -> None:
    with pytest.raises(InvalidInput, match=printed):
        next(traffic(Plan(**{"topology": RIG, "windows": 2, **options})))


def test_a_deeply_nested_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(InvalidInput, match="is not JSON"):
        topology_named(str(tmp_path / "deep.json"))


def test_sent_windows_are_in_the_file_even_after_a_server_error(tmp_path: Path) -> None:
    file = tmp_path / "windows.jsonl"
    result = CliRunner().invoke(_command(), ["--windows", "3", "--url", "http://127.0.0.1:9", "--out", str(file)])
    assert isinstance(result.exception, ModelNotReady)
    assert len(file.read_text().splitlines()) == 1


def test_an_unwritable_file_is_reported_before_anything_is_sent(tmp_path: Path) -> None:
    out = tmp_path / "missing" / "windows.jsonl"
    result = CliRunner().invoke(_command(), ["--windows", "1", "--url", "http://127.0.0.1:9", "--out", str(out)])
    assert isinstance(result.exception, FileNotFoundError)
