import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_recordings import synthetic_recordings

from penstock import Registry
from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.recordings import SENSORS
from penstock_hydraulics.learning.evaluation import summary
from penstock_hydraulics.learning.evaluation.cross_validation import ALL, GROUPED, OutOfFold, coverage_sets
from penstock_hydraulics.learning.models.gnn import Architecture
from penstock_hydraulics.learning.publishing.measured_coverage import measured_coverage
from penstock_hydraulics.learning.publishing.publish import golden_inputs, publish, versions_of
from penstock_hydraulics.learning.training.config import TrainingConfig
from penstock_hydraulics.learning.training.network import network
from penstock_hydraulics.machine.states import HEADS, LEVELS
from penstock_hydraulics.signals.evidence import Evidence, EvidenceTable
from penstock_hydraulics.signals.features import INPUTS, Scales

RECORDINGS = synthetic_recordings(runs=24)
CONFIG = TrainingConfig(epochs=1, validation=0.0, architecture=Architecture(width=8, layers=1))


def answers(name, wrong_runs):
    found = {ALL: levels(wrong_runs)} | dict.fromkeys(coverage_sets(), levels([]))
    return OutOfFold(name, GROUPED, found, RECORDINGS.runs % 3, 3.0)


def levels(wrong_runs):
    found = np.full((len(RECORDINGS), LEVELS), 0.01)
    wrong = np.isin(RECORDINGS.runs, wrong_runs)
    for place, head in enumerate(HEADS):
        count = len(head.levels)
        answer = (RECORDINGS.labels[:, place] + wrong) % count
        found[:, head.columns] = 0.03 / (count - 1)
        found[np.arange(len(found)), head.start + answer] = 0.97
    return found


@pytest.fixture(scope="module")
def figures():
    measured = {GROUPED: {"network": answers("network", [5]), "extra_trees": answers("extra_trees", [5])}}
    found = json.loads(json.dumps(summary.summarise(measured, RECORDINGS, "network")))
    return found | {"models": ["network", "extra_trees", "logistic_regression"]}


@pytest.fixture(scope="module")
def published(figures, tmp_path_factory):
    out = tmp_path_factory.mktemp("published")
    return publish(RECORDINGS, figures, network(CONFIG), out, echo=str), out


def test_the_selected_model_is_the_release_and_the_other_one_the_second_version(published):
    artifacts, out = published
    assert [artifact.ref for artifact in artifacts] == ["hydraulics:v1.0", "hydraulics:v1.0-trees"]
    assert (out / "hydraulics" / "champion").read_text() == "v1.0\n"
    assert artifacts[0].manifest.task.config["topologies"] == "any"
    assert artifacts[1].manifest.task.config["topologies"] == ["zema_rig"]
    for artifact in artifacts:
        artifact.verify()
        assert artifact.manifest.task.kind == "hydraulic-diagnostics"


def test_the_manifest_carries_scales_thresholds_metrics_and_the_licence_of_the_data(published, figures):
    for artifact in published[0]:
        manifest = artifact.manifest
        Scales.from_mapping(manifest.task.config["scales"])
        assert set(manifest.task.config["thresholds"]) == {
            "overheating",
            "valve_stiction",
            "leakage",
            "pressure_drop",
        }
        assert set(manifest.metrics) == {
            f"{what}_{head.name}" for what in ("macro_f1", "accuracy", "ece") for head in HEADS
        }
        assert manifest.training_data["doi"] == "10.24432/C5CW21"
        assert manifest.training_data["licence"] == "CC BY 4.0"


def test_the_manifest_carries_what_the_evaluation_and_the_model_itself_tell(published, figures):
    evaluated = EvidenceTable.model_validate(figures["coverage"]["extra_trees"]["zema_rig"])
    assert all(one.states.keys() == {head.name for head in HEADS} for one in evaluated.sets)
    untrained, trees = published[0]
    told = {}
    for artifact in (untrained, trees):
        table = EvidenceTable.model_validate(artifact.manifest.task.config["coverage"]["zema_rig"])
        assert [one.sensors for one in table.sets] == [one.sensors for one in evaluated.sets]
        told[artifact.version] = sum(len(one.states) for one in table.sets)
        assert "## Coverage" in artifact.card_text()
    assert told["v1.0"] == 0  # one epoch tells nothing, whatever the evaluation says
    evidence = Evidence(EvidenceTable.model_validate(trees.manifest.task.config["coverage"]["zema_rig"]))
    assert "valve_condition" not in evidence.states({"vibration_pump_main"})
    assert evidence.states({*SENSORS.values()})


def test_an_evaluation_without_coverage_gives_a_model_without_it(figures):
    said = []
    found = measured_coverage({}, "network", Path("no.onnx"), Scales({}, {}), RECORDINGS, said.append)
    assert found is None
    assert "evaluate it again" in said[0]


def test_the_card_attributes_the_data_and_shows_every_model(published, figures):
    for artifact in published[0]:
        card = artifact.card_text()
        for part in ("Helwig", "Pignanelli", "Schütze", "10.24432/C5CW21", "CC BY 4.0", "means of one second"):
            assert part in card
        assert figures["selection"]["sentence"] in card
        assert "| logistic_regression | not run |" in card
        assert card.startswith("---\nlicense:")
        assert str(published[1]) not in card


def test_both_versions_pass_their_golden_samples_in_a_registry(published, tmp_path):
    with Registry(tmp_path / "registry") as registry:
        for artifact in published[0]:
            taken = registry.publish(artifact.path)
            golden = taken.golden()
            assert golden.rows == 6
            assert set(golden.inputs) == set(INPUTS)
        assert registry.resolve("hydraulics") == ("hydraulics", "v1.0")


def test_golden_samples_are_simulated_and_the_last_has_three_sensors():
    inputs = golden_inputs(Scales({}, {}))
    assert inputs["present"].sum(axis=(1, 2)).tolist() == [18, 18, 18, 18, 18, 3]
    assert all((inputs["signals"][0] != inputs["signals"][place]).any() for place in range(1, 6))


def test_nothing_is_overwritten(published, figures):
    with pytest.raises(InvalidInput, match="already exists"):
        publish(RECORDINGS, figures, network(CONFIG), published[1])


def test_trees_are_the_release_where_the_rule_selects_them(figures):
    other = figures | {"selection": figures["selection"] | {"served": "extra_trees"}}
    assert versions_of(other) == {"extra_trees": "v1.0", "network": "v1.0-network"}
    assert versions_of(figures) == {"network": "v1.0", "extra_trees": "v1.0-trees"}


def test_a_selection_that_cannot_be_published_is_refused(figures):
    other = figures | {"selection": figures["selection"] | {"served": "logistic_regression"}}
    with pytest.raises(InvalidInput, match="selects logistic_regression, which cannot be published"):
        versions_of(other)
