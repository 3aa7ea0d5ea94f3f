"""`penstock monitor`, as docs/monitoring.md shows it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from penstock.cli.main import app

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
