"""The files for Prometheus and Grafana."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from penstock.monitor.alerts.rules import PANELS, RULES, Panel, Rule

HEAD = "# Written by `penstock monitor rules`; change it there.\n"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS, _WIDTH, _HEIGHT = 2, 12, 8


def expression(rule: Rule) -> str:
    """The alert of a rule in PromQL."""
    found = f"{rule.measure.promql} > {rule.above:g}"
    return f"({found})\nand\n({rule.measure.enough})" if rule.measure.enough else found


def rules_file() -> str:
    """The file of alerting rules for Prometheus 2.42 and later, in YAML."""
    lines = [HEAD + "groups:", "  - name: penstock", "    rules:"]
    for rule in RULES:
        lines.append(f"      - alert: {rule.name}")
        lines.append("        expr: |")
        lines += [f"          {line}" for line in expression(rule).splitlines()]
        lines.append(f"        for: {rule.minutes:g}m")
        if rule.keep_minutes:
            lines.append(f"        keep_firing_for: {rule.keep_minutes:g}m")
        lines.append(f"        labels: {{severity: {rule.severity}}}")
        lines.append("        annotations:")
        lines.append(f"          summary: {json.dumps(rule.summary)}")
        lines.append(f"          description: {json.dumps(rule.action)}")
    return "\n".join(lines) + "\n"


def dashboard_file() -> str:
    """The dashboard for Grafana 10 and later, in JSON: the graphs, then one for each alert with its threshold."""
    graphs = [*map(_graph_of_panel, PANELS), *map(_graph_of_rule, RULES)]
    document = {
        "title": "Penstock",
        "uid": "penstock",
        "tags": ["penstock"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": [_placed(graph, index) for index, graph in enumerate(graphs)],
    }
    return json.dumps(document, indent=2) + "\n"


def _placed(graph: dict[str, Any], index: int) -> dict[str, Any]:
    row, column = divmod(index, _COLUMNS)
    place = {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
    return {"id": index + 1, "type": "timeseries", "datasource": _SOURCE, "gridPos": place, **graph}


def _graph_of_panel(panel: Panel) -> dict[str, Any]:
    lines = [(legend, measure.promql) for legend, measure in panel.lines]
    return {"title": panel.title, "targets": _targets(lines), "fieldConfig": {"defaults": {"unit": panel.unit}}}


def _graph_of_rule(rule: Rule) -> dict[str, Any]:
    steps = [{"color": "green", "value": None}, {"color": "red", "value": rule.above}]
    shown: dict[str, Any] = {"unit": rule.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    shown["custom"] = {"thresholdsStyle": {"mode": "line"}}
    return {
        "title": rule.name,
        "description": rule.action,
        "targets": _targets([("", rule.measure.promql)]),
        "fieldConfig": {"defaults": shown},
    }


def _targets(lines: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"refId": chr(ord("A") + index), "expr": promql, "datasource": _SOURCE, "legendFormat": legend or "__auto"}
        for index, (legend, promql) in enumerate(lines)
    ]
