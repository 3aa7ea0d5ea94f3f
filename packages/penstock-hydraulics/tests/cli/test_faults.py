from importlib.resources import files
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.errors import InvalidInput
from penstock_hydraulics.cli import main as cli

SHIPPED = Path(str(files("penstock_hydraulics") / "artifacts" / "hydraulics"))


def run(*arguments):
    return CliRunner().invoke(cli.app, ["faults", *map(str, arguments)], catch_exceptions=False)


def test_the_table_of_a_shipped_version_is_printed():
    result = run(SHIPPED / "v1.0-trees", "--windows", 1)
    assert result.exit_code == 0, result.output
    assert "| contamination | filter_main | 1 | 100 / 0 / 0 / 0 | 100 / 0 / 0 / 0 |" in result.output


def test_a_model_of_another_task_is_refused():
    digits = next(Path(str(files("penstock_digits") / "artifacts")).rglob("manifest.json")).parent
    with pytest.raises(InvalidInput, match="is no ONNX model with the task hydraulic-diagnostics; choose another"):
        run(digits)
