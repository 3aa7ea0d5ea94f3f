from __future__ import annotations

import json

import numpy as np
import pytest
from rig import simulated_recordings

from penstock.errors import InvalidInput
from penstock_hydraulics.cli import main as cli
from penstock_hydraulics.learning.training import saved_model
from penstock_hydraulics.learning.training.fitting import predict


def test_train_writes_model_weights_and_configuration(training):
    assert sorted(path.name for path in training.out.iterdir()) == [
        "model.ckpt",
        "model.onnx",
        "training.json",
        "weights.safetensors",
    ]
    document = json.loads((training.out / "training.json").read_text())
    assert document["config"]["epochs"] == 2
    assert set(document["scales"]["machines"]) >= {"zema_rig", "standard_pump_system", "excavator"}
    assert len(json.dumps(document["scales"])) < 200_000


def test_train_prints_its_progress(training):
    assert "early stopping  epoch  1/2" in training.printed
    assert "network 1  epoch  1/" in training.printed
    assert "validation " in training.printed


def test_a_saved_training_can_be_read(training):
    fitted = saved_model.read(training.out)
    recordings = simulated_recordings(2, cycles=1)
    answers = predict(fitted, recordings, np.arange(2)).probabilities
    assert answers.shape == (2, 14)
    assert fitted.history[0].epoch == 1


def test_train_does_not_overwrite_a_finished_training(training, capsys):
    arguments = ["train", "--data", str(training.data), "--out", str(training.out)]
    assert cli.run(lambda: cli.app(arguments)) == 1
    assert "already holds a trained model; use another directory" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "code"), [(["train", "--data", "nowhere.npz", "--out", "x"], 1), (["trian"], 2)])
def test_an_error_is_one_sentence_and_an_exit_code(arguments, code, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(lambda: cli.app(arguments)) == code
    if code == 1:
        assert capsys.readouterr().err == (
            "penstock-hydraulics: nowhere.npz: no such file or directory; pass an npz file or the directory of the UCI"
            " text files\n"
        )


def test_the_data_path_can_come_from_the_environment(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PENSTOCK_HYDRAULICS_DATA", str(tmp_path / "missing"))
    assert cli.run(lambda: cli.app(["train", "--out", str(tmp_path / "out")])) == 1
    assert "missing: no such file" in capsys.readouterr().err


def test_a_directory_without_a_training_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="holds no readable trained model"):
        saved_model.read(tmp_path)
