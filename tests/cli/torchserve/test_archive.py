"""`penstock archive`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_archives import CONFIG, MODEL, WORKFLOW, contents, manifest, written, zipped

Penstock = Callable[..., Any]


def test_an_archive_is_written_shown_and_unpacked(penstock: Penstock, tmp_path: Path) -> None:
    written(tmp_path, {"handler.py": b"1", "c.yaml": CONFIG.encode(), "store/none": b""})
    done = penstock(
        "archive", "create", "--model-name", "m", "-v", "2.0", "--handler", "handler.py", "-c", "c.yaml",
        "--export-path", "store", "--extra-files", "*.none",
    )  # fmt: skip
    assert (done.code, done.out) == (0, "wrote store/m.mar\n")
    assert done.err == "note: extra_files: no file matches '*.none'\n"
    shown = penstock("archive", "show", "store/m.mar", "--json").json()
    assert (shown["name"], shown["version"], shown["handler"], shown["form"]) == ("m", "2.0", "handler.py", "zip")
    assert shown["model_config"]["batchSize"] == 8
    assert [member["name"] for member in shown["members"]] == ["MAR-INF/MANIFEST.json", "c.yaml", "handler.py"]
    done = penstock("archive", "unpack", "store/m.mar", "model", "--json")
    assert done.json() == {"path": "model", "digest": shown["digest"], "files": 3}
    assert contents(Path("model"))["handler.py"] == b"1"
    assert penstock("archive", "show", "model", "--json").json()["digest"] == shown["digest"]


def test_what_is_odd_is_a_note(penstock: Penstock, tmp_path: Path) -> None:
    files = {**MODEL, "MAR-INF/MANIFEST.json": manifest(configFile="c.yaml", serializedFile="m.pt")}
    zipped(tmp_path / "m.mar", {**files, "c.yaml": b"batchSize: many"})
    done = penstock("archive", "show", "m.mar")
    assert done.code == 0
    assert "note: serializedFile names 'm.pt', which is not in the archive\n" in done.out
    assert "note: batchSize in m.mar: c.yaml is 'many', not a whole number" in done.out


def test_a_workflow_is_written_and_shown(penstock: Penstock, tmp_path: Path) -> None:
    written(tmp_path, {"w.yaml": WORKFLOW.encode()})
    done = penstock("archive", "create-workflow", "--workflow-name", "w", "--spec-file", "w.yaml", "--json")
    assert Path(done.json()["path"]).name == "w.war"
    shown = penstock("archive", "show", "w.war", "--json").json()
    assert (shown["name"], shown["spec_file"], shown["warnings"]) == ("w", "w.yaml", [])


@pytest.mark.parametrize("command", [("show", "m.mar"), ("unpack", "m.mar", "target")])
def test_a_hostile_archive_is_one_sentence(penstock: Penstock, tmp_path: Path, command: tuple[str, ...]) -> None:
    zipped(tmp_path / "m.mar", {**MODEL, "../evil.py": b"1"})
    done = penstock("archive", *command)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "penstock: m.mar: the member '../evil.py' would leave the directory it is unpacked to; "
        "pack its files again with `penstock archive create`\n"
    )
    assert not (tmp_path / "target").exists()


def test_options_are_named_as_at_the_command_line(penstock: Penstock, tmp_path: Path) -> None:
    arguments = ("archive", "create", "--model-name", "m", "--version", "1", "--handler", "base_handler")
    assert penstock(*arguments).code == 0
    done = penstock(*arguments)
    assert (done.code, done.err) == (1, f"penstock: {tmp_path / 'm.mar'} already exists; --force overwrites it\n")
    assert penstock(*arguments, "--force").code == 0
    assert penstock("archive", "create", "--model-name", "m").code == 2
