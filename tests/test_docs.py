"""Docs that can fail: what is undocumented, and what the README promises and does not hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from typer.main import get_command
from waiting import LONG_S

import penstock
from penstock.cli.main import app
from penstock.cli.output import size
from penstock.options import ModelOptions
from penstock.settings import NAMES, TABLES, Settings, alias_of

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = [README, *sorted((ROOT / "docs").glob("**/*.md"))]


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join(("penstock", *path, name)), command


COMMANDS = dict(commands(get_command(app)))


def section(text: str, title: str) -> str:
    """The part of a Markdown page under a heading, up to the next one of its rank or above."""
    match = re.search(rf"^(#+) {re.escape(title)}$(.*?)(?=^#{{1,2}} |\Z)", text, re.MULTILINE | re.DOTALL)
    return match[2] if match else ""


# Commands


@pytest.mark.parametrize("page", [*DOCS, ROOT / "CHANGELOG.md", ROOT / "TODO.md"], ids=lambda page: page.name)
def test_no_page_holds_what_a_merge_has_left(page: Path) -> None:
    assert not re.search(r"^(<<<<<<<|=======|>>>>>>>)", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_there_are_commands_to_document() -> None:
    assert {"penstock serve", "penstock models list", "penstock config show"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_with_all_its_options_and_an_example(name: str) -> None:
    text = section((ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), f"`{name}`")
    assert text, f"docs/cli.md has no section ## `{name}`"
    wanted = [max(param.opts, key=len) for param in COMMANDS[name].params if param.opts[0].startswith("-")]
    missing = [option for option in wanted if option != "--help" and f"`{option}" not in text]
    assert missing == []
    assert re.search(rf"```bash\n(.*\n)*?.*{re.escape(name)}", text), f"the section of {name} has no example"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_its_options(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert [param.name for param in command.params if param.name != "help" and not getattr(param, "help", None)] == []


# Settings

FLAT = [name for name in NAMES if name not in TABLES]


def shown(name: str) -> str:
    default = Settings.model_fields[name].default
    if default is None or default == ():
        return "not set"
    if name.endswith("_bytes"):
        return f"`{size(default).replace('.0 ', '')}`"
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def row(name: str) -> str:
    """The line of docs/settings.md for one setting."""
    names = [f"PENSTOCK_{name.upper()}", *filter(None, [alias_of(name)])]
    environment = ", ".join(f"`{each}`" for each in names)
    return f"| `{name}` | {environment} | {shown(name)} | {Settings.model_fields[name].description} |"


@pytest.mark.parametrize("name", FLAT)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    lines = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8").splitlines()
    assert row(name) in lines, f"docs/settings.md needs the line:\n{row(name)}"


def test_every_documented_setting_exists() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    known = {f"PENSTOCK_{name.upper()}" for name in FLAT}
    assert set(re.findall(r"PENSTOCK_[A-Z0-9_]*[A-Z0-9]", text)) == known


@pytest.mark.parametrize("name", ModelOptions.model_fields)
def test_every_setting_of_a_single_model_is_documented_and_is_one_of_all_models_too(name: str) -> None:
    text = section((ROOT / "docs" / "settings.md").read_text(encoding="utf-8"), "Settings of one model")
    assert f"`{name}`" in text
    assert name in FLAT


# Public names


@pytest.mark.parametrize("name", [name for name in penstock.__all__ if not name.startswith("__")])
def test_every_public_name_is_documented(name: str) -> None:
    pages = [page.name for page in DOCS if re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", page.read_text(encoding="utf-8"))]
    code = [page.name for page in DOCS if re.search(rf"import .*\b{name}\b", page.read_text(encoding="utf-8"))]
    assert pages or code, f"no page of docs/ and no line of README.md names {name}"


# Links


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_are_valid(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


# The README's commands


RUNNABLE = re.compile(r"<!-- run -->\s*```bash\n(?P<command>.*?)```(?:\s*```json\n(?P<answer>.*?)```)?", re.DOTALL)
"""A ```bash block after `<!-- run -->`, and the ```json block that shows its answer where one follows directly."""


class Example(NamedTuple):
    command: str
    answer: str | None


EXAMPLES = [Example(m["command"], m["answer"]) for m in RUNNABLE.finditer(README.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory like a reader's, with the examples; a failing curl exits with an error."""
    place = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", place / "examples")
    (place / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    return place


STARTERS = ("digits", "digits-image", "hydraulics")
"""What `make serve` serves."""


def test_the_readme_is_tested_with_the_models_of_make_serve() -> None:
    assert f"penstock serve {' '.join(STARTERS)} " in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def port(place: Path) -> Iterator[int]:
    """The starter models, served as `make serve` serves them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "penstock.cli.main", "serve", *STARTERS, "--port", str(port)]
    with (place / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=place, stdout=log, stderr=log)
    try:
        wait_until_ready(process, port, place / "server.log")
        yield port
    finally:
        process.terminate()
        process.wait(timeout=LONG_S)


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def alike(expected: Any, got: Any) -> bool:
    """The same answer; numbers with a fraction (times, confidences) may differ."""
    if isinstance(expected, dict) and isinstance(got, dict):
        return expected.keys() == got.keys() and all(alike(expected[key], got[key]) for key in expected)
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(map(alike, expected, got))
    return isinstance(got, int | float) if isinstance(expected, float) else bool(expected == got)


def test_the_readme_has_commands_to_run() -> None:
    assert EXAMPLES, "README.md has no ```bash block after <!-- run -->"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.command.split("\n")[0][:60])
def test_the_commands_of_the_readme_give_the_shown_output(example: Example, place: Path, port: int) -> None:
    """In the README's order, in one directory, against one server."""
    command = example.command.replace("localhost:8002", f"localhost:{port}").replace(
        "127.0.0.1:8002", f"127.0.0.1:{port}"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "HOME": str(place), "CURL_HOME": str(place)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=place, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if example.answer is not None:
        assert alike(json.loads(example.answer), json.loads(done.stdout)), done.stdout


def test_outputs_that_differ_in_more_than_times_are_distinguished() -> None:
    shown = {"predictions": [3], "confidence_scores": [0.98], "inference_time_ms": 0.4, "model_version": "v1.0"}
    assert alike(shown, shown | {"inference_time_ms": 12.0, "confidence_scores": [1]})
    assert not alike(shown, shown | {"predictions": [4]})
    assert not alike(shown, shown | {"extra": 1})
    assert not alike(shown, shown | {"confidence_scores": ["0.98"]})
