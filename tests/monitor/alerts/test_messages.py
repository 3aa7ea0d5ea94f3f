"""Messages as Alertmanager writes them, and texts as Prometheus does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from penstock.monitor.alerts.messages import Event, moment, payload, rendered
from penstock.monitor.alerts.rules import RULES
from penstock.monitor.alerts.states import fingerprint

LABELS = {"severity": "critical", "alertname": "PenstockErrors", "model": 'a"b\\', "instance": "host:8002"}
EVENT = Event("firing", LABELS, {"summary": "s", "description": "d"}, 1764388800.1234)


def test_a_message_is_the_payload_of_an_alertmanager_webhook() -> None:
    document = json.loads(payload(EVENT, "http://host:8002"))
    alert = {
        "status": "firing",
        "labels": LABELS,
        "annotations": {"summary": "s", "description": "d"},
        "startsAt": "2025-11-29T04:00:00.123Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://host:8002/metrics",
        "fingerprint": fingerprint(LABELS),
    }
    assert document == {
        "version": "4",
        "groupKey": r'{}:{alertname="PenstockErrors", instance="host:8002", model="a\"b\\", severity="critical"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "penstock",
        "groupLabels": LABELS,
        "commonLabels": LABELS,
        "commonAnnotations": {"summary": "s", "description": "d"},
        "externalURL": "http://host:8002",
        "alerts": [alert],
    }


def test_a_resolved_alert_has_its_end_and_another_key_but_the_same_group() -> None:
    resolved = EVENT._replace(news="resolved", ended=EVENT.began + 60)
    first, last = (json.loads(payload(each, "http://h")) for each in (EVENT, resolved))
    assert last["status"] == last["alerts"][0]["status"] == "resolved"
    assert last["alerts"][0]["endsAt"] == "2025-11-29T04:01:00.123Z"
    assert (first["groupKey"], first["alerts"][0]["startsAt"]) == (last["groupKey"], last["alerts"][0]["startsAt"])
    assert EVENT.key == f"{fingerprint(LABELS)}-2025-11-29T04:00:00.123Z-firing"
    assert resolved.key == EVENT.key.replace("firing", "resolved")


def test_a_moment_has_milliseconds_always() -> None:
    assert moment(0) == "1970-01-01T00:00:00.000Z"


FILTERS = ("", " | humanizePercentage", " | humanizeDuration")
VALUES = (0.0, 0.5, 1.0, 3.0, 0.047619047619, 59.25, 61.5, 3725.0, 90061.0, 0.0123, 0.00002, 123456.5)


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (0.0, ["0", "0%", "0s"]),
        (0.5, ["0.5", "50%", "500ms"]),
        (3.0, ["3", "300%", "3s"]),
        (0.047619047619, ["0.047619047619", "4.762%", "47.62ms"]),
        (61.5, ["61.5", "6150%", "1m 1s"]),
        (90061.0, ["90061", "9.006e+06%", "1d 1h 1m 1s"]),
        (0.00002, ["2e-05", "0.002%", "20us"]),
    ],
)
def test_values_are_written_for_people(value: float, texts: list[str]) -> None:
    assert [rendered("{{ $value" + each + " }}", {}, value) for each in FILTERS] == texts


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Prometheus")
def test_texts_are_those_of_prometheus(tmp_path: Path) -> None:
    template = "{{ $labels.model }}:" + ":".join("{{ $value" + each + " }}" for each in FILTERS)
    rules = [{"alert": f"A{n}", "expr": f"v{n}", "annotations": {"text": template}} for n in range(len(VALUES))]
    wanted = [
        {
            "alertname": f"A{n}",
            "eval_time": "1m",
            "exp_alerts": [
                {"exp_labels": {"model": "m"}, "exp_annotations": {"text": rendered(template, {"model": "m"}, value)}}
            ],
        }
        for n, value in enumerate(VALUES)
    ]
    series = [{"series": f'v{n}{{model="m"}}', "values": f"{value!r}x5"} for n, value in enumerate(VALUES)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}), encoding="utf-8")
    tests = [{"interval": "1m", "input_series": series, "alert_rule_test": wanted}]
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_text_of_every_rule_can_be_written() -> None:
    for rule in RULES:
        for template in (rule.summary, rule.action):
            assert not re.search(r"[{}$]", rendered(template, {}, 0.5)), rule.name
