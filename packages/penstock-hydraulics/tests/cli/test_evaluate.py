import json

import pytest
from recorded_file import write_npz
from synthetic_recordings import synthetic_recordings
from typer.testing import CliRunner

from penstock.errors import InvalidInput
from penstock_hydraulics.cli import main as cli


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("data") / "recordings.npz", synthetic_recordings(runs=24))


OPTIONS = ["--epochs", "1", "--simulated", "0", "--grouped", "2", "--random", "0", "--no-leave-cooler"]


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(one) for one in arguments], catch_exceptions=False)


def test_evaluate_writes_figures_and_tables_and_prints_the_selection(npz, tmp_path):
    out = tmp_path / "evaluation"
    models = ("--models", "extra_trees,network", "--no-coverage")
    result = run("evaluate", "--data", npz, "--out", out, *models, *OPTIONS)
    assert result.exit_code == 0, result.output
    figures = json.loads((out / "evaluation.json").read_text())
    assert set(figures["protocols"]["run_grouped"]) == {"extra_trees", "network"}
    assert figures["selection"]["served"] is None
    why = "`extra_trees` does not qualify: it was not evaluated by leave_one_cooler_out."
    assert why in figures["selection"]["sentence"]
    assert figures["selection"]["sentence"] in result.output
    assert "| extra_trees |" in result.output
    assert "not run" in (out / "evaluation.md").read_text()
    assert figures["coverage"] == {}
    again = run("evaluate", "--data", npz, "--out", out, *models, *OPTIONS)
    assert "fold_0" in result.output
    assert "fold_0" not in again.output


def test_an_unknown_model_is_refused(npz, tmp_path):
    with pytest.raises(InvalidInput, match="unknown model trees; known models: network, network_without_edges"):
        run("evaluate", "--data", npz, "--out", tmp_path, "--models", "trees", *OPTIONS)


def test_publish_requires_an_evaluation(npz, tmp_path):
    with pytest.raises(
        InvalidInput, match=r"evaluation.json cannot be read .* run `penstock-hydraulics evaluate` first"
    ):
        run("publish", "--data", npz, "--evaluation", tmp_path, "--out", tmp_path / "out")


def test_publish_refuses_an_evaluation_that_selects_no_model(npz, tmp_path):
    selection = {"served": None, "scores": {}, "sentence": "No model qualifies, so none is served or published."}
    (tmp_path / "evaluation.json").write_text(json.dumps({"selection": selection}))
    with pytest.raises(InvalidInput, match="No model qualifies, so none is served or published"):
        run("publish", "--data", npz, "--evaluation", tmp_path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
