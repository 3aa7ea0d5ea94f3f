from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from penstock.artifacts.artifact import Artifact

SHIPPED = Path(str(files("penstock_digits") / "artifacts"))


TRAIN = [sys.executable, "-W", "error", "-m", "penstock_digits.train"]
BRIEFLY = "import sys; from penstock_digits import train; train.EPOCHS, train.COPIES = 2, 2; sys.exit(train.main())"
"""The same command, in a sixth of the time."""


def run_training(out: Path, command: list[str]) -> tuple[Path, str]:
    """Both artifacts and the output of a training; any warning fails it."""
    result = subprocess.run(
        [*command, "--out", str(out), "--seed", "0"], capture_output=True, text=True, check=False, timeout=1500
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return out, result.stdout


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, str]:
    return run_training(tmp_path_factory.mktemp("trained"), [sys.executable, "-W", "error", "-c", BRIEFLY])


@pytest.fixture(params=["digits", "digits-image"])
def name(request) -> str:
    return request.param


@pytest.mark.long
def test_a_new_training_reaches_the_shipped_figures(tmp_path):
    out, printed = run_training(tmp_path, TRAIN)
    assert json.loads(printed[printed.index("{") :])["accuracy"] >= 0.98
    for name in ("digits", "digits-image"):
        shipped = Artifact.open(SHIPPED / name).manifest.metrics
        metrics = Artifact.open(out / name).manifest.metrics
        assert metrics["accuracy"] >= 0.98
        for figure in shipped:
            bound = 0.02 if figure.startswith("accuracy_") else 0.005
            assert metrics[figure] == pytest.approx(shipped[figure], abs=bound), figure


def test_a_new_training_has_the_kinds_of_figures_of_the_shipped_artifacts(trained, name):
    metrics = Artifact.open(trained[0] / name).manifest.metrics
    assert metrics.keys() == Artifact.open(SHIPPED / name).manifest.metrics.keys()
    assert metrics["accuracy"] >= 0.9


def test_a_new_training_writes_the_same_kind_of_artifact(trained, name):
    fresh, shipped = Artifact.open(trained[0] / name), Artifact.open(SHIPPED / name)
    fresh.verify()
    assert fresh.signature == shipped.signature
    assert fresh.manifest.task == shipped.manifest.task
    assert fresh.manifest.training_data == shipped.manifest.training_data
    assert [variant.num_parameters for variant in fresh.variants] == [33_914, 33_914]
    assert 0 <= fresh.variants[0].max_abs_error < 1e-4


def test_golden_samples_are_held_out_digits_with_the_eager_answer(trained, name):
    from penstock_digits.data import features_of, load_split

    golden = Artifact.open(trained[0] / name).golden()
    held_out = load_split().held_out
    assert golden is not None
    assert np.array_equal(golden.inputs["input"], features_of(held_out.counts[: golden.rows]))
    right = golden.outputs["logits"].argmax(axis=1) == held_out.labels[: golden.rows]
    assert right.mean() > 0.9


def test_training_prints_progress_and_the_final_metrics(trained):
    printed = trained[1]
    assert "1437 digits to train on, 360 held out" in printed
    assert "epoch  1/" in printed
    assert json.loads(printed[printed.index("{") :])["accuracy"] >= 0.9


def test_training_does_not_write_over_artifacts(tmp_path):
    (tmp_path / "digits").mkdir()
    command = [sys.executable, "-m", "penstock_digits.train", "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert result.returncode == 2
    assert "already holds digits" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(monkeypatch):
    import torch

    from penstock_digits import train
    from penstock_digits.data import Digits, load_split

    monkeypatch.setattr(train, "EPOCHS", 1)
    monkeypatch.setattr(train, "COPIES", 1)
    digits = Digits(*(part[:200] for part in load_split().train))
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        first, again, other = (train.train(digits, seed).classifier[2].weight for seed in (5, 5, 6))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
