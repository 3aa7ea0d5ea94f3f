from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained_subjects as subjects
from torch import nn

from penstock.errors import InvalidInput
from penstock.toolchain.recipes.training.checkpoint import seed_all
from penstock.toolchain.recipes.training.loop import Fitted, Run, why_different
from penstock.toolchain.recipes.training.options import Training
from penstock.toolchain.recipes.training.runs import run_for

TRAINING = Training(learning_rate=1e-2)


def run(folder: Path, training: Training = TRAINING, epochs: int = 3, **more: Any) -> Run:
    return run_for("fit", training, epochs, subjects.subject(), replace(subjects.materials(folder), **more))


def network() -> nn.Module:
    found = subjects.subject().module
    assert found is not None
    return found.module


def fitted(folder: Path, training: Training = TRAINING, epochs: int = 3, **more: Any) -> Fitted:
    return run(folder, training, epochs, **more).fit(network())


def test_a_model_learns_and_is_left_in_evaluation_mode(tmp_path: Path) -> None:
    module = network()
    before = subjects.accuracy(module)
    result = run(tmp_path, epochs=6).fit(module)
    assert not module.training
    assert subjects.accuracy(module) > max(0.85, before)
    assert (result.epochs, result.steps) == (6, 48)
    assert result.losses[-1] < result.losses[0]
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "rmsprop"])
def test_each_optimizer_makes_the_loss_smaller(tmp_path: Path, optimizer: Any) -> None:
    losses = fitted(tmp_path, Training(optimizer=optimizer, rate_schedule="constant")).losses
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    one, other, third = fitted(tmp_path), fitted(tmp_path), fitted(tmp_path, seed=1)
    assert one == other
    assert why_different(one.to_json(), other.to_json()) is None
    assert one.weights_sha256 != third.weights_sha256
    assert why_different(one.to_json(), third.to_json()) == "the seed was 0 and is 1"


def test_why_two_trainings_differ_is_said(tmp_path: Path) -> None:
    one = fitted(tmp_path, epochs=1).to_json()
    data = replace(subjects.materials(tmp_path, count=128))
    other = run_for("fit", TRAINING, 1, subjects.subject(), data).fit(network()).to_json()
    assert why_different(one, other) == "the training data differs"
    for name, words in (("threads", "the number of threads was 1 and is 2"), ("torch", "the PyTorch was")):
        changed = {**one, "weights_sha256": "", "circumstances": {**one["circumstances"], name: 2}}
        assert words in (why_different(one, changed) or "")
    assert "a function of the user" in (why_different(one, {**one, "weights_sha256": ""}) or "")


def test_training_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    seed_all(1)
    expected = torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002
    threads = torch.get_num_threads()
    seed_all(1)
    fitted(tmp_path, Training(threads=2), epochs=1)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected  # noqa: NPY002
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_steps_end_a_training(tmp_path: Path) -> None:
    result = fitted(tmp_path, Training(steps=11), epochs=100)
    assert (result.steps, result.epochs, result.stopped_early) == (11, 2, False)


def test_a_training_stops_early_with_its_best_weights(tmp_path: Path) -> None:
    training = Training(patience=2, learning_rate=0.05, rate_schedule="constant", optimizer="sgd", metric="accuracy")
    module = network()
    result = run(tmp_path, training, 60).fit(module)
    assert result.stopped_early
    assert result.epochs == result.best_epoch + 2 < 60
    assert result.scores[result.best_epoch - 1] == max(result.scores)
    again = run(tmp_path, replace(training, steps=result.best_epoch * 7), 60)
    other = network()
    again.fit(other)  # stops where the best weights were
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_progress_grows_to_one(tmp_path: Path) -> None:
    seen: list[float] = []
    fitted(tmp_path, epochs=2, progress=lambda _, share: seen.append(share))
    assert seen == sorted(seen)
    assert seen[0] == 1 / 16
    assert seen[-1] == 1.0


def test_frozen_weights_stay_and_without_any_free_ones_all_learn(tmp_path: Path) -> None:
    module = network()
    module.get_parameter("out.weight").requires_grad_(True)
    first = module.get_parameter("first.weight").clone()
    run(tmp_path, epochs=1).fit(module)
    assert torch.equal(module.get_parameter("first.weight"), first)
    module = network()
    run(tmp_path, epochs=1).fit(module)
    assert not torch.equal(module.get_parameter("first.weight"), first)


def test_a_loss_that_is_not_finite_names_the_learning_rate(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"fit: the loss became \w+ in epoch \d+, batch \d+; use a smaller"):
        fitted(tmp_path, Training(optimizer="sgd", learning_rate=1e12))


def test_a_model_that_does_not_run_on_a_batch_is_one_sentence(tmp_path: Path) -> None:
    class Broken(subjects.Wide):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.reshape(2, -1))

    with pytest.raises(InvalidInput, match=r"fit: the model does not run on a batch of the calibration data with the"):
        run(tmp_path).fit(Broken())


def test_without_data_or_validation_the_setting_is_named(tmp_path: Path) -> None:
    bare = replace(subjects.materials(tmp_path), data=None, labels=None)
    with pytest.raises(InvalidInput, match="fit: there is no data to train on; give calibration data, or name"):
        run_for("fit", TRAINING, 1, subjects.subject(), bare)
    named = Training(data="trained_subjects:batches", patience=1)
    with pytest.raises(InvalidInput, match="fit: patience needs validation data; name a function as `validation`"):
        run_for("fit", named, 1, subjects.subject(), bare)


def test_named_data_and_validation_are_used(tmp_path: Path) -> None:
    bare = replace(subjects.materials(tmp_path), data=None, labels=None)
    named = Training(data="trained_subjects:batches", validation="trained_subjects:batches", patience=5)
    result = run_for("fit", named, 2, subjects.subject(), bare).fit(network())
    assert result.steps == 16
    assert len(result.scores) == 2


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    one = fitted(tmp_path, checkpoints=folder)
    module = network()
    other = run(tmp_path, checkpoints=folder).fit(module, lambda: pytest.fail("a step was done"))
    assert other == replace(one, resumed_at=one.steps)
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("change", ["seed", "rate", "labels", "weights", "damage"])
def test_a_state_of_another_training_is_not_used(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "states"
    fitted(tmp_path, epochs=1, checkpoints=folder)
    module, training = network(), TRAINING
    more: dict[str, Any] = {}
    if change == "seed":
        more = {"seed": 5}
    if change == "rate":
        training = Training(learning_rate=2e-2)
    if change == "labels":
        more = {"labels": subjects.rows()[1] * 0}
    if change == "weights":
        module = subjects.Wide()
    if change == "damage":
        state = next(folder.iterdir())
        state.write_bytes(state.read_bytes()[:-100])
    assert run(tmp_path, training, 1, checkpoints=folder, **more).fit(module).resumed_at is None


SCRIPT = """
import sys
from pathlib import Path
import test_loop
from penstock.toolchain.recipes.training import loop
loop.SAVED_EVERY_S = 0.0
steps = 0
def after_step():
    global steps
    steps += 1
    if steps == 13:
        print("ready", flush=True)
        sys.stdin.read()
folder = Path(sys.argv[1])
test_loop.run(folder, checkpoints=folder / "states").fit(test_loop.network(), after_step)
"""


def test_a_killed_training_continues_to_the_same_weights(tmp_path: Path) -> None:
    """Killed in the middle of the second epoch, with a dropout and an optimizer with state."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(subjects.__file__).parent)])
    command, environment = [sys.executable, "-c", SCRIPT, str(tmp_path)], {**os.environ, "PYTHONPATH": path}
    pipe, states = subprocess.PIPE, tmp_path / "states"
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGKILL)
    (states / f"{next(states.iterdir()).stem}.{child.pid}.part").write_bytes(b"half")
    continued = fitted(tmp_path, checkpoints=states)
    assert continued == replace(fitted(tmp_path), resumed_at=12)
    assert [state.suffix for state in states.iterdir()] == [".safetensors"]
