from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from rig import simulated_recordings

from penstock_hydraulics.learning.data.dataset import UNKNOWN, Variation, recorded_machine, scales_of
from penstock_hydraulics.learning.data.recordings import RIG
from penstock_hydraulics.learning.data.simulated import CIRCUITS, simulated_machines
from penstock_hydraulics.learning.models.gnn import Logits
from penstock_hydraulics.learning.training.losses import loss_of
from penstock_hydraulics.machine.states import ANOMALIES, HEADS
from penstock_hydraulics.machine.templates import TEMPLATES

PUMP = RIG.index["pump_main"]


@pytest.fixture(scope="module")
def recordings():
    return simulated_recordings(6, cycles=2)


@pytest.fixture(scope="module")
def machine(recordings):
    return recorded_machine(recordings, unsettled=0.2)


@pytest.fixture(scope="module")
def windows(machine):
    return machine.windows(scales_of([machine]))


def test_each_state_is_labelled_at_the_component_that_has_it(recordings, windows):
    labelled = {"cooler_main": 0, "valve_main": 1, "pump_main": 2, "accumulator_main": 3}
    for node, component in enumerate(RIG.components):
        if component.id in labelled:
            assert windows.levels[:, node].tolist() == recordings.labels[:, labelled[component.id]].tolist()
        else:
            assert (windows.levels[:, node] == UNKNOWN).all()
            assert (windows.health[:, node] == 1).all()


def test_unlabelled_anomalies_are_unknown_and_a_healthy_machine_has_no_degradation(windows):
    known = {ANOMALIES[place] for place in np.flatnonzero(~windows.anomalies[0].isnan())}
    assert known == {"overheating", "valve_stiction", "leakage", "pressure_drop"}
    assert windows.degradation[0] == 0
    assert not windows.anomalies[0].nan_to_num().any()


def test_cycles_during_warm_up_have_a_lower_weight(recordings):
    moving = replace(recordings, settled=np.arange(len(recordings)) % 2 == 0)
    assert recorded_machine(moving, unsettled=0.2).weights[:2] == pytest.approx([1, 0.2])


def test_augmentation_drops_whole_sensors_and_adds_none(windows):
    many = windows.take(torch.zeros(400, dtype=torch.int64))
    varied = Variation(sensor_dropout=0.5, noise=0.0).of(many, torch.Generator().manual_seed(0))
    assert ((varied.present == 1) <= (many.present == 1)).all()
    gone = varied.present == 0
    assert not varied.signals[gone].any()
    assert not varied.statistics[gone].any()
    flow, highest = varied.present[:, PUMP, 1], varied.present[:, PUMP, 5]
    assert (highest <= flow).all()
    kept = varied.present.flatten(1).sum(dim=1)
    assert (kept == many.present[0].sum()).float().mean() > 0.3
    assert (kept == 3).any()  # the pump's pressure, temperature and vibration alone


def test_windows_are_unchanged_without_augmentation(windows):
    same = Variation(sensor_dropout=0.0, noise=0.0).of(windows, torch.Generator().manual_seed(0))
    assert torch.equal(same.signals, windows.signals)
    assert torch.equal(same.present, windows.present)


def test_unlabelled_values_do_not_change_the_loss(windows):
    torch.manual_seed(0)
    count, nodes = windows.levels.shape
    logits = Logits(torch.randn(count, nodes, 14), torch.randn(count, nodes), torch.randn(count), torch.randn(count, 9))
    before = loss_of(logits, windows, 0.0)
    unlabelled = windows.anomalies.isnan()
    logits.anomalies[unlabelled] += 5.0
    tank = RIG.index["tank"]
    logits.levels[:, tank] += torch.randn(count, 14)
    assert loss_of(logits, windows, 0.0) == pytest.approx(before.item())
    logits.levels[:, PUMP, HEADS[2].start] += 9.0
    assert loss_of(logits, windows, 0.0).item() != pytest.approx(before.item())


def test_simulated_machines_have_labels_for_every_component_and_all_faults():
    machines = simulated_machines(30, seed=1)
    assert [machine.topology.name for machine in machines] == list(CIRCUITS)
    assert sum(machine.anomalies.sum(axis=0) for machine in machines).min() > 0
    for machine in machines:
        assert np.isfinite(machine.readings).all()
        assert machine.health.shape == (30, len(machine.topology.components))
        assert machine.health.min() < 0.5 < machine.health.max() == 1
        kinds = [component.kind for component in machine.topology.components]
        for head in HEADS:
            assert (machine.levels[:, [kind == head.kind for kind in kinds]] != UNKNOWN).all()


def test_simulated_machines_are_the_same_for_the_same_seed():
    one, other = (simulated_machines(2, seed=3, circuits=("dual_pump_system",))[0] for _ in range(2))
    assert np.array_equal(one.readings, other.readings)


def test_padding_of_a_machine_is_labelled_as_unknown(machine):
    other = simulated_machines(2, seed=0, circuits=("dual_pump_system",))[0]
    windows = other.windows(scales_of([machine, other]))
    components = len(TEMPLATES["dual_pump_system"].components)
    assert windows.levels.shape == (2, 16)
    assert (windows.levels[:, components:] == UNKNOWN).all()
    assert windows.health[:, components:].isnan().all()
    assert not windows.kinds[0, components:].any()
