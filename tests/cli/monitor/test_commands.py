"""`penstock monitor`, as docs/monitoring.md shows it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from penstock.cli.main import app
from penstock.errors import ConfigError
from penstock.monitor.alerts.states import AlertState
from penstock.registry.alert_book import AlertBook, Decided, NewMessage, StoredAlert

PAGE = Path(__file__).parents[3] / "docs/monitoring.md"


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["monitor", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_commands_of_the_page_write_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```bash\n(penstock monitor .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines():
        assert run(*shlex.split(line, comments=True)[2:])[0] == 0, line
    rules = yaml.safe_load((tmp_path / "penstock-rules.yaml").read_text(encoding="utf-8"))
    assert "PenstockErrors" in {rule["alert"] for rule in rules["groups"][0]["rules"]}
    dashboard = json.loads((tmp_path / "penstock-dashboard.json").read_text(encoding="utf-8"))
    assert (dashboard["title"], dashboard["uid"]) == ("Penstock", "penstock")


@pytest.mark.parametrize("name", ["rules", "dashboard"])
def test_a_file_that_was_changed_fails_the_check_with_a_sentence(name: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    code, printed, _ = run(name)
    file.write_text(printed, encoding="utf-8")
    assert (code, run(name, "--check", str(file))) == (0, (0, "", ""))
    file.write_text(printed + "\n", encoding="utf-8")
    code, _, said = run(name, "--check", str(file))
    assert code == 1
    assert said == f"penstock: {file} is not what this release writes; write it again with --out\n"


def test_alerts_are_shown_from_the_database(tmp_path: Path, database: Callable[[Path], str]) -> None:
    registry = tmp_path / "registry"
    registry.mkdir()
    where = ("--registry", str(registry))
    assert run("alerts", *where)[:2] == (0, "No alert is pending or firing.\n")
    assert json.loads(run("alerts", "--json", *where)[1]) == {"alerts": [], "messages_waiting": 0}
    book = AlertBook(database(registry))
    labels = {"alertname": "PenstockModelFailed", "severity": "critical", "instance": "host:1", "ref": "digits"}
    state = AlertState(labels=labels, phase="firing", since=0.0, value=2.0, looked_at=9.0)
    lease = book.lease("host:1", "a", 60.0)
    assert lease is not None
    decided = Decided(
        [StoredAlert("f", "host:1", labels["alertname"], vars(state), 9.0)], [NewMessage("f", "key", "{}")]
    )
    assert book.decide("host:1", lease, lambda *_: decided, ["receiver"], 1e9)
    book.close()
    (alert,) = json.loads(run("alerts", "--json", *where)[1])["alerts"]
    assert alert["summary"] == "digits should be served, and nothing answers for it."
    assert {name: alert[name] for name in ("alert", "state", "since", "value", "labels")} == {
        "alert": "PenstockModelFailed",
        "state": "firing",
        "since": "1970-01-01T00:00:00.000Z",
        "value": 2.0,
        "labels": labels,
    }
    code, printed, _ = run("alerts", *where)
    assert code == 0
    assert "PenstockModelFailed" in printed
    assert "1 messages wait for a webhook" in printed


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_alerts_of_a_database_that_cannot_be_used_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"damaged" * 1000)
    with pytest.raises(ConfigError, match="cannot be used"):
        CliRunner().invoke(app, ["monitor", "alerts", "--registry", str(tmp_path)], catch_exceptions=False)
