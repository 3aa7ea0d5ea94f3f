"""The files for Prometheus and Grafana: what they ask for is on a page after real traffic."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from linear_models import linear
from live_servers import Live
from prometheus_client.parser import text_string_to_metric_families

from penstock.monitor import gpus
from penstock.monitor.alerts.evaluation import NO_DATA
from penstock.monitor.alerts.files import dashboard_file, expression, rules_file
from penstock.monitor.alerts.rules import PANELS, RULES
from penstock.settings import Settings

ROOT = Path(__file__).parents[3]
GOOD = {"input_data": [0.5, -1.0, 2.0, 0.25]}
BY_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus adds to what it scrapes."""
_SELECTOR = re.compile(r"((?:penstock|process)_\w+)(?:\{([^}]*)\})?")


def expressions() -> list[str]:
    """Every expression of both files."""
    rules = yaml.safe_load(rules_file())["groups"][0]["rules"]
    panels = json.loads(dashboard_file())["panels"]
    return [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]


class Gpu:
    """One GPU, for a machine that has none."""

    class NVMLError(Exception):
        pass

    nvmlInit = staticmethod(lambda: None)
    nvmlDeviceGetCount = staticmethod(lambda: 1)
    nvmlDeviceGetHandleByIndex = staticmethod(lambda index: index)
    nvmlDeviceGetName = staticmethod(lambda _: "H200")
    nvmlDeviceGetMemoryInfo = staticmethod(lambda _: SimpleNamespace(used=1, total=2))
    nvmlDeviceGetUtilizationRates = staticmethod(lambda _: SimpleNamespace(gpu=50))


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "pynvml", Gpu)
    gpus._driver.cache_clear()
    yield
    gpus._driver.cache_clear()


@pytest.fixture
def labels(tmp_path: Path, one_gpu: None) -> dict[str, dict[str, set[str]]]:
    """The labels and their values of every sample on the page of a server after good and bad requests."""
    settings = Settings(
        model_path=linear(tmp_path / "vec.onnx"),
        registry=tmp_path / "registry",
        threads=1,
        otlp_endpoint="http://127.0.0.1:9",
        trace_sample=0.0,
        prediction_log=tmp_path / "log",
    )
    with Live("h1", settings, ()) as live:
        for body in (GOOD, {"input_data": [1]}, GOOD):
            live.http.post("/predict", json=body)
        live.http.post("/predict", json=GOOD, headers={"x-request-timeout-ms": "0.0001"})
        page = live.http.get("/metrics").text
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(page):
        found[family.name if family.type != "counter" else f"{family.name}_total"]  # also one without a sample yet
        for sample in family.samples:
            found[sample.name]
            for name, value in sample.labels.items():
                found[sample.name][name].add(value)
    return found


WITHOUT_SAMPLES = {
    "penstock_out_of_range_total",
    "penstock_circuit_open",
    "penstock_drift_verdict",
    "penstock_canary",
}
"""What only a model with expected ranges, a fallback, a reference or a canary has: the page has no sample of it."""


def test_every_metric_and_label_is_on_a_page_after_real_traffic(labels: dict[str, dict[str, set[str]]]) -> None:
    for promql in expressions():
        grouped = {name for by in re.findall(r"by \(([^)]*)\)", promql) for name in by.split(", ")} - BY_PROMETHEUS
        selectors = _SELECTOR.findall(promql)
        assert selectors, promql
        for metric, where in selectors:
            assert metric in labels, metric
            if metric in WITHOUT_SAMPLES:
                continue
            named = dict(re.findall(r'(\w+)=~"([^"]*)"', where))
            assert set(named) <= set(labels[metric]), (metric, named)
            if metric.endswith(("_count", "_sum")) or "le" not in grouped:
                assert grouped - {"le"} <= set(labels[metric]), (metric, grouped)
            else:
                assert grouped <= set(labels[metric]), (metric, grouped)
    states = labels["penstock_model_state"]["state"]
    assert {"serving", "failed", "outdated", "loading"} == states


def test_every_rule_says_what_to_do_and_is_in_the_documentation() -> None:
    page = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.summary.endswith(".")
        assert rule.action.endswith(".")
        assert f"`{rule.name}`" in page, rule.name
    assert set(re.findall(r"`(Penstock[A-Z]\w+)`", page)) == {NO_DATA.name, *(rule.name for rule in RULES)}


def test_a_share_or_a_quantile_needs_enough_requests() -> None:
    by_name = {rule.name: expression(rule) for rule in RULES}
    for name in ("PenstockErrors", "PenstockRejected", "PenstockSlow", "PenstockQueueing", "PenstockOutOfRange"):
        assert re.search(r"\nand\n\(sum by \(.*\) \(increase\(.*\)\) >= \d+\)$", by_name[name]), name


def test_the_dashboard_has_every_graph_and_alert_at_a_place_of_its_own() -> None:
    panels = json.loads(dashboard_file())["panels"]
    assert [panel["title"] for panel in panels] == [*(p.title for p in PANELS), *(rule.name for rule in RULES)]
    assert len({panel["id"] for panel in panels}) == len({str(panel["gridPos"]) for panel in panels}) == len(panels)
    for panel in panels:
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool comes with Prometheus")
def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rules_file(), encoding="utf-8")
    done = subprocess.run([str(PROMTOOL), "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


SERIES = {
    'penstock_requests_total{model="m",version="1",outcome="ok",instance="i",job="j"}': "0+100x60",
    'penstock_requests_total{model="m",version="1",outcome="error",instance="i",job="j"}': "0+5x60",
    'penstock_requests_total{model="few",version="1",outcome="error",instance="i",job="j"}': "0+1x60",
    'penstock_model_state{ref="broken",state="failed",instance="i",job="j"}': "0 0 0 1x57",
    'penstock_processes{instance="i",job="j"}': "2x60",
    'penstock_ready_processes{instance="i",job="j"}': "2x60",
}
FIRING: dict[str, list[dict[str, str]]] = {
    "PenstockErrors": [{"severity": "critical", "model": "m", "version": "1", "instance": "i", "job": "j"}],
    "PenstockModelFailed": [{"severity": "critical", "ref": "broken", "instance": "i", "job": "j"}],
    "PenstockNotReady": [],
    "PenstockAbsent": [],
}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool comes with Prometheus")
@pytest.mark.parametrize(("minute", "firing"), [(2, {name: [] for name in FIRING}), (30, FIRING)])
def test_prometheus_fires_what_it_should(minute: int, firing: dict[str, list[dict[str, str]]], tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(rules_file(), encoding="utf-8")
    by_name = {rule.name: rule for rule in RULES}
    texts = {
        "PenstockErrors": "4.762% of the requests to m:1 fail.",
        "PenstockModelFailed": ("broken should be served, and nothing answers for it."),
    }
    wanted = [
        {
            "alertname": name,
            "eval_time": f"{minute}m",
            "exp_alerts": [
                {"exp_labels": each, "exp_annotations": {"summary": texts[name], "description": by_name[name].action}}
                for each in alerts
            ],
        }
        for name, alerts in firing.items()
    ]
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    tests = [{"interval": "1m", "input_series": series, "alert_rule_test": wanted}]
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    command = [str(PROMTOOL), "test", "rules", "tests.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
