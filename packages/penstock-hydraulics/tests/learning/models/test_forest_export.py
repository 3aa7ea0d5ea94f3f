from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from synthetic_recordings import synthetic_recordings

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.recordings import RIG, ROWS, rows_of
from penstock_hydraulics.learning.evaluation.calibration import tempered
from penstock_hydraulics.learning.models.baselines import (
    FEW_SENSORS,
    extra_trees,
    gradient_boosting,
    logistic_regression,
)
from penstock_hydraulics.learning.models.forest_export import NODES, OUTPUTS, write_forest
from penstock_hydraulics.machine.states import ANOMALIES, HEADS, SUPERVISED, equipment_health
from penstock_hydraulics.signals.features import INPUTS, Layout, encode, encode_all

RECORDINGS = synthetic_recordings(noise=1.5)
TEMPERATURES = [0.7, 1.0, 1.6, 1.0]


def inputs_of(recordings, layout, rows=None):
    readings = recordings.readings if rows is None else recordings.readings[:, rows]
    encoded = encode_all(readings, layout)
    count = len(recordings)
    return {name: np.repeat(value, count, axis=0) if len(value) == 1 else value for name, value in encoded.items()}


def answers(path, inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUTS, session.run(list(OUTPUTS), inputs), strict=True))


@pytest.fixture(
    scope="module", params=[extra_trees(5), replace(gradient_boosting(2), copies=0)], ids=lambda learner: learner.name
)
def exported(request, tmp_path_factory):
    fitted = request.param.fit(RECORDINGS)
    path = tmp_path_factory.mktemp("forest") / "trees.onnx"
    write_forest(fitted, TEMPERATURES, path)
    return fitted, path


def test_the_graph_agrees_with_scikit_learn(exported):
    fitted, path = exported
    levels = answers(path, inputs_of(RECORDINGS, Layout.make(RIG, ROWS, fitted.scales)))["levels"]
    wanted = fitted.levels(RECORDINGS)
    assert levels.shape == (len(RECORDINGS), NODES, 14)
    for head, temperature in zip(HEADS, TEMPERATURES, strict=True):
        for node in (0, NODES - 1):
            found = levels[:, node, head.columns]
            np.testing.assert_allclose(found, tempered(wanted[:, head.columns], temperature), atol=1e-5)


def test_the_graph_agrees_with_scikit_learn_with_few_sensors(exported):
    fitted, path = exported
    kept = rows_of(FEW_SENSORS)
    layout = Layout.make(RIG, [row for row, there in zip(ROWS, kept, strict=True) if there], fitted.scales)
    levels = answers(path, inputs_of(RECORDINGS, layout, kept))["levels"][:, 0]
    wanted = fitted.levels(RECORDINGS, FEW_SENSORS)
    best = HEADS[1].columns
    np.testing.assert_allclose(levels[:, best], tempered(wanted[:, best], 1.0), atol=1e-5)


def test_health_and_anomalies_follow_from_the_levels(exported):
    fitted, path = exported
    found = answers(path, inputs_of(RECORDINGS, Layout.make(RIG, ROWS, fitted.scales)))
    levels, health = found["levels"][:, 0], found["component_health"]
    nodes = {head: RIG.index[part.id] for head in HEADS for part in RIG.components if part.kind == head.kind}
    for head, node in nodes.items():
        np.testing.assert_allclose(health[:, node], 1 - levels[:, head.columns] @ head.severities, atol=1e-5)
    others = [node for node in range(NODES) if node not in nodes.values()]
    assert (health[:, others] == 1).all()
    wanted = [equipment_health(row[list(nodes.values())]) for row in health]
    np.testing.assert_allclose(found["health"], wanted, atol=1e-5)
    np.testing.assert_allclose(found["degradation"], 1 - found["health"], atol=1e-6)
    for one in SUPERVISED:
        carried = levels[:, one.columns].sum(axis=1)
        np.testing.assert_allclose(found["anomalies"][:, ANOMALIES.index(one.anomaly)], carried, atol=1e-5)


def test_batched_answers_equal_single_answers(exported):
    fitted, path = exported
    layout = Layout.make(RIG, ROWS, fitted.scales)
    batch = answers(path, inputs_of(RECORDINGS, layout))
    for place in (0, 77, 120):
        alone = answers(path, encode(RECORDINGS.readings[place], layout))
        for name, array in alone.items():
            np.testing.assert_allclose(array[0], batch[name][place], atol=1e-6)


def test_the_graph_has_the_inputs_of_every_model(exported):
    model = onnx.load(exported[1])
    assert [one.name for one in model.graph.input] == list(INPUTS)
    assert [one.name for one in model.graph.output] == list(OUTPUTS)


def test_other_classifiers_than_trees_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="LogisticRegression cannot be exported"):
        write_forest(replace(logistic_regression(), copies=0).fit(RECORDINGS), TEMPERATURES, tmp_path / "x.onnx")


def test_a_training_without_one_of_the_levels_is_refused(tmp_path):
    some = RECORDINGS.take(np.flatnonzero(RECORDINGS.labels[:, 1] < 3))
    with pytest.raises(InvalidInput, match="valve_condition: the training data has only the levels"):
        write_forest(extra_trees(2).fit(some), TEMPERATURES, tmp_path / "x.onnx")
