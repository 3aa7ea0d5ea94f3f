"""`penstock scan`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from crafted import evil_pickle, model, outside
from typer.testing import CliRunner

from penstock.cli.main import app, run

ARTIFACTS = Path(__file__).parents[2] / "src" / "penstock_digits" / "artifacts"


def scan(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["scan", *map(str, arguments)])
    return result.exit_code, result.output


def test_a_clean_file_is_allowed(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    code, output = scan(tmp_path / "m.onnx")
    assert code == 0
    assert "ok" in output
    assert "data" in output


def test_a_file_that_needs_more_trust_is_refused_until_it_is_granted(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(evil_pickle(tmp_path / "marker"))
    code, output = scan(tmp_path / "m.pkl")
    assert code == 1
    assert "posix.system" in output
    assert "needs --trust code" in output
    assert scan(tmp_path / "m.pkl", "--trust", "code")[0] == 0
    assert not (tmp_path / "marker").exists()


def test_a_forbidden_file_is_refused_with_every_trust(tmp_path: Path) -> None:
    onnx.save(model(tensors=[outside("../secret")]), tmp_path / "m.onnx")
    code, output = scan(tmp_path / "m.onnx", "--trust", "native")
    assert code == 1
    assert "(refused)" in output


def test_the_answer_for_programs_holds_every_finding(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(evil_pickle(tmp_path / "marker"))
    code, output = scan(tmp_path / "m.pkl", "--json")
    answer = json.loads(output)
    assert code == 1
    assert (answer["trust"], answer["allowed"]) == ("data", False)
    assert [(file["kind"], file["tier"], file["refused"]) for file in answer["files"]] == [("pickle", "code", False)]
    assert answer["files"][0]["findings"][0]["needs"] == "code"


def test_an_artifact_is_verified_and_all_its_files_are_scanned() -> None:
    code, output = scan(ARTIFACTS / "digits", "--json")
    files = json.loads(output)["files"]
    assert code == 0
    assert [file["kind"] for file in files] == ["onnx", "safetensors", "safetensors"]


def test_a_directory_is_scanned_with_the_artifacts_in_it(tmp_path: Path) -> None:
    code, output = scan(ARTIFACTS, "--json")
    assert (code, len(json.loads(output)["files"])) == (0, 6)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "handler.py").write_text("1")
    onnx.save(model(), tmp_path / "m.onnx")
    code, output = scan(tmp_path, "--json")
    assert code == 1
    assert {Path(file["path"]).name: file["tier"] for file in json.loads(output)["files"]} == {
        "handler.py": "code",
        "m.onnx": "data",
    }


def test_a_damaged_artifact_does_not_hide_the_others(tmp_path: Path) -> None:
    shutil.copytree(ARTIFACTS / "digits", tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_text("{")
    shutil.copytree(ARTIFACTS / "digits", tmp_path / "b")
    (tmp_path / "m.pkl").write_bytes(evil_pickle(tmp_path / "marker"))
    code, output = scan(tmp_path, "--json")
    found = [(file["kind"], file["refused"]) for file in json.loads(output)["files"]]
    assert code == 1
    assert found == [
        ("damaged", True),
        ("onnx", False),
        ("safetensors", False),
        ("safetensors", False),
        ("pickle", False),
    ]


@pytest.mark.parametrize("name", ["missing.onnx", "empty"])
def test_a_directory_without_files_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    assert run(lambda: app(["scan", str(tmp_path / name)], standalone_mode=False)) == 1
    assert name in capsys.readouterr().err


def test_an_unknown_tier_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: app(["scan", str(tmp_path), "--trust", "all"], standalone_mode=False)) == 1
    assert "--trust" in capsys.readouterr().err
