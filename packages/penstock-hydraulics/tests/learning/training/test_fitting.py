from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rig import simulated_recordings

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.recordings import ROWS, SENSORS, load
from penstock_hydraulics.learning.data.simulated import simulated_machines
from penstock_hydraulics.learning.models.gnn import Architecture
from penstock_hydraulics.learning.training.config import TrainingConfig
from penstock_hydraulics.learning.training.fitting import fit, predict
from penstock_hydraulics.learning.training.loop import held_out
from penstock_hydraulics.learning.training.saved_model import read_checkpoint
from penstock_hydraulics.machine.states import HEADS

TINY = TrainingConfig(
    architecture=Architecture(width=16, attention_heads=2), epochs=3, batch=16, averaging=0.5, validation=0.0
)


@pytest.fixture(scope="module")
def recordings():
    return simulated_recordings(12)


@pytest.fixture(scope="module")
def everything(recordings):
    return np.arange(len(recordings))


def _weights(fitted) -> list[torch.Tensor]:
    return [value for network in fitted.networks for value in network.state_dict().values()]


def _same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(_weights(one), _weights(other), strict=True))


def test_training_learns_what_the_recordings_show(recordings, everything):
    fitted = fit(recordings, everything, replace(TINY, epochs=40))
    assert fitted.history[-1].loss < 0.5 * fitted.history[0].loss
    right = (predict(fitted, recordings, everything).best == recordings.labels).mean(axis=0)
    assert right.min() > 0.85


def test_the_same_seed_gives_the_same_weights_and_torchs_random_state_is_unchanged(recordings, everything):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = fit(recordings, everything, TINY)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert _same(one, fit(recordings, everything, TINY))
    assert not _same(one, fit(recordings, everything, replace(TINY, seed=1)))


def test_a_resumed_training_gives_the_same_weights_as_an_uninterrupted_one(recordings, everything, tmp_path):
    config = replace(TINY, members=2, validation=0.2)
    epochs = []

    def cut_off(epoch):
        epochs.append(epoch)
        if len(epochs) in (2, 5):
            raise KeyboardInterrupt

    machines = simulated_machines(2, 0, ("standard_pump_system",))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(recordings, everything, config, machines=machines, progress=cut_off, checkpoints=tmp_path / "c.pt")
    part = read_checkpoint(tmp_path / "c.pt")
    assert part.scales.to_mapping() == fit(recordings, everything, TINY, machines=machines).scales.to_mapping()
    assert (part.config, len(part.networks)) == (config, 1)
    resumed = fit(
        recordings, everything, config, machines=machines, progress=epochs.append, checkpoints=tmp_path / "c.pt"
    )
    whole = fit(recordings, everything, config, machines=machines)
    assert _same(resumed, whole)
    assert resumed.history == whole.history == tuple(epochs)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_refused(recordings, everything, tmp_path):
    path = tmp_path / "c.pt"
    fit(recordings, everything, replace(TINY, epochs=1), checkpoints=path)
    with pytest.raises(InvalidInput, match="other data or options"):
        fit(recordings, everything, TINY, checkpoints=path)
    with pytest.raises(InvalidInput, match="other data or options"):
        fit(recordings, everything[4:], replace(TINY, epochs=1), checkpoints=path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:1000], whole[:middle] + bytes(500) + whole[middle + 500 :], b""):
        path.write_bytes(damaged)
        with pytest.raises(InvalidInput, match=r"c\.pt: the checkpoint is damaged"):
            fit(recordings, everything, replace(TINY, epochs=1), checkpoints=path)


def test_early_stopping_sets_the_number_of_epochs_for_all_runs(recordings, everything):
    config = replace(TINY, epochs=30, patience=2, validation=0.25, peak_rate=1.0)  # a learning rate too high to improve
    history = fit(recordings, everything, config).history
    validation = [epoch for epoch in history if epoch.member == 0]
    best = min(range(len(validation)), key=lambda place: validation[place].validation) + 1
    assert len(validation) == best + 2 < 30
    assert [epoch.epoch for epoch in history if epoch.member == 1] == list(range(1, best + 1))


def test_validation_uses_whole_runs():
    runs = np.repeat(np.arange(10), 7)
    validation = held_out(runs, 0.2, seed=3)
    assert validation.sum() == 14
    assert len(np.unique(runs[validation])) == 2


def test_scales_are_computed_from_training_data_only(recordings):
    half = np.arange(24)
    fitted = fit(recordings, half, replace(TINY, epochs=1))
    place = ROWS.index((0, "pressure"))
    mean = recordings.readings[half][:, place].mean(axis=0)
    assert fitted.scales.machines["zema_rig"]["pump_main.pressure"].mean == pytest.approx(mean, rel=1e-4)


def test_dropped_sensors_have_no_effect(recordings, everything):
    fitted = fit(recordings, everything, replace(TINY, epochs=1))
    blind = predict(fitted, recordings, everything, drop=tuple(SENSORS.values()))
    assert np.ptp(blind.probabilities, axis=0).max() < 1e-5
    rows = np.ones((len(recordings), len(ROWS)), bool)
    rows[0] = False
    some = predict(fitted, recordings, everything, rows=rows).probabilities
    assert some[0] == pytest.approx(blind.probabilities[0], abs=1e-5)
    assert some[1] == pytest.approx(predict(fitted, recordings, everything).probabilities[1], abs=1e-5)


def test_an_ensemble_answers_with_the_mean(recordings, everything):
    fitted = fit(recordings, everything, replace(TINY, epochs=1, members=2))
    alone = [predict(replace(fitted, networks=(one,)), recordings, everything).probabilities for one in fitted.networks]
    assert predict(fitted, recordings, everything).probabilities == pytest.approx(sum(alone) / 2, abs=1e-5)


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("members", 0), ("validation", 1.0)])
def test_an_invalid_config_is_refused(name, value):
    with pytest.raises(InvalidInput) as refused:
        TrainingConfig(**{name: value})
    assert refused.value.errors[0].field == name


@pytest.mark.skipif("PENSTOCK_HYDRAULICS_DATA" not in os.environ, reason="PENSTOCK_HYDRAULICS_DATA names no recordings")
def test_a_short_training_on_real_recordings_generalises_to_unseen_runs():
    recordings = load(Path(os.environ["PENSTOCK_HYDRAULICS_DATA"]))
    unseen = held_out(recordings.runs, 0.2, seed=0) & recordings.in_settled_runs
    trained = ~held_out(recordings.runs, 0.2, seed=0)
    config = TrainingConfig(validation=0.0, epochs=25)
    fitted = fit(recordings, np.flatnonzero(trained), config)
    answers = predict(fitted, recordings, np.flatnonzero(unseen))
    right = (answers.best == recordings.labels[unseen]).mean(axis=0)
    assert dict(zip((head.name for head in HEADS), right >= [0.97, 0.95, 0.95, 0.8], strict=True)) == dict.fromkeys(
        (head.name for head in HEADS), True
    )
