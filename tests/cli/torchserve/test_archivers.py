"""The commands of upstream's archivers, and the distribution that installs them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from model_archives import WORKFLOW, contents, written

from penstock.cli.torchserve.archivers import archive_model, archive_workflow
from penstock.libraries import import_attribute

PACKAGE = Path(__file__).parents[3] / "packages" / "penstock-torchserve"


def test_models_are_packed_with_upstreams_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, {"h.py": b"1", "m.pt": b"2", "net.py": b"3", "r.txt": b"4", "c.yaml": b"{}", "x": b"5"})
    arguments = [
        "--model-name", "m", "-v1.0", "--handler", "h.py", "--serialized-file", "m.pt", "--model-file", "net.py",
        "-r", "r.txt", "-c", "c.yaml", "--extra", "x", "--runtime", "python3", "--archive-format", "tgz",
    ]  # fmt: skip
    assert archive_model(arguments) == 0
    assert contents(Path("m.tar.gz")).keys() == {
        "h.py",
        "m.pt",
        "net.py",
        "r.txt",
        "c.yaml",
        "x",
        "MAR-INF/MANIFEST.json",
    }
    assert archive_model(arguments) == 1
    assert "already exists; --force overwrites it" in capsys.readouterr().err
    assert archive_model([*arguments, "-f"]) == 0


def test_workflows_are_packed_with_upstreams_options(tmp_path: Path) -> None:
    written(tmp_path, {"w.yaml": WORKFLOW.encode(), "h.py": b"1"})
    arguments = ["--workflow-name", "w", "--spec-file", "w.yaml", "--handler", "h.py"]
    assert [archive_workflow(arguments), archive_workflow(arguments), archive_workflow([*arguments, "-f"])] == [0, 1, 0]
    assert contents(Path("w.war")).keys() == {"w.yaml", "h.py", "WAR-INF/MANIFEST.json"}


@pytest.mark.parametrize("arguments", [[], ["--model-name", "m"], ["--archive-format", "rar"], ["--nonsense"]])
def test_wrong_usage_is_exit_code_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert archive_model(arguments) == 2
    assert "usage: torch-model-archiver" in capsys.readouterr().err
    assert archive_workflow(arguments) == 2


def test_the_distribution_holds_the_commands_and_no_module(tmp_path: Path) -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    assert set(project["scripts"]) == {"torch-model-archiver", "torch-workflow-archiver"}
    for target in project["scripts"].values():
        assert callable(import_attribute(target))
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "wheel")],
        cwd=PACKAGE, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = (tmp_path / "wheel").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        points = next(name for name in names if name.endswith("entry_points.txt"))
        assert all(command in archive.read(points).decode() for command in project["scripts"])
    assert [name for name in names if ".dist-info/" not in name] == []
