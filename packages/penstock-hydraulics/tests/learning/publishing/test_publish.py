import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_recordings import synthetic_recordings
from typer.testing import CliRunner

from penstock import Registry
from penstock.cli.main import app
from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.recordings import SENSORS
from penstock_hydraulics.learning.evaluation import summary
from penstock_hydraulics.learning.evaluation.cross_validation import ALL, COOLER, FEW, GROUPED, OutOfFold, coverage_sets
from penstock_hydraulics.learning.models.gnn import Architecture
from penstock_hydraulics.learning.publishing import publish as publishing
from penstock_hydraulics.learning.publishing.measured_coverage import measured_coverage
from penstock_hydraulics.learning.publishing.publish import Publication, golden_inputs, publish, put_into
from penstock_hydraulics.learning.publishing.reference_ranges import reference_ranges
from penstock_hydraulics.learning.publishing.versions import versions_of
from penstock_hydraulics.learning.training.config import TrainingConfig
from penstock_hydraulics.learning.training.network import network
from penstock_hydraulics.machine.states import HEADS, LEVELS
from penstock_hydraulics.signals.evidence import Evidence, EvidenceTable
from penstock_hydraulics.signals.features import INPUTS, Scales
from penstock_hydraulics.simulator import FAULTS

RECORDINGS = synthetic_recordings(runs=24)
CONFIG = TrainingConfig(epochs=1, validation=0.0, architecture=Architecture(width=8, layers=1))


def answers(name, wrong_runs, protocol=GROUPED):
    found = {ALL: levels(wrong_runs), FEW: levels(wrong_runs)} | dict.fromkeys(coverage_sets(), levels([]))
    return OutOfFold(name, protocol, found, RECORDINGS.runs % 3, 3.0)


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
    measured = {
        protocol: {name: answers(name, [5], protocol) for name in ("network", "extra_trees")}
        for protocol in (GROUPED, COOLER)
    }
    found = json.loads(json.dumps(summary.summarise(measured, RECORDINGS, "network")))
    return found | {"models": ["network", "extra_trees", "logistic_regression"]}


@pytest.fixture(scope="module")
def published(figures, tmp_path_factory):
    out = tmp_path_factory.mktemp("published")
    publication = publish(RECORDINGS, figures, network(CONFIG), out, windows=1, echo=str)
    return [publication.served, *publication.others], out


def test_the_network_and_the_trees_get_the_next_free_version_and_the_selected_one_is_the_champion(published, figures):
    artifacts, out = published
    assert figures["selection"]["served"] == "network"
    assert [artifact.ref for artifact in artifacts] == ["hydraulics:v1.1", "hydraulics:v1.1-trees"]
    assert (out / "hydraulics" / "champion").read_text() == "v1.1\n"
    assert sorted(path.name for path in out.iterdir()) == ["hydraulics", "network.ckpt"]
    assert artifacts[0].manifest.task.config["topologies"] == "any"
    assert artifacts[1].manifest.task.config["topologies"] == ["zema_rig"]
    assert artifacts[1].manifest.task.config["universal"] == "hydraulics:v1.1"
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
        assert artifact.manifest.task.config["reference"] == reference_ranges(RECORDINGS)
        assert [one.sensors for one in table.sets] == [one.sensors for one in evaluated.sets]
        told[artifact.version] = sum(len(one.states) for one in table.sets)
        assert "## Coverage" in artifact.card_text()
    assert told["v1.1"] == 0  # one epoch tells nothing, whatever the evaluation says
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


def test_the_manifest_and_the_card_tell_which_simulated_faults_are_detected(published):
    for artifact in published[0]:
        detected = artifact.manifest.task.config["detected_from"]["zema_rig"]
        assert detected["cavitation"] == {"pump_main": None}
        assert detected["contamination"] == {"filter_main": 1.0}
        assert detected.keys() == FAULTS.keys()
        assert "| flow_restriction | load_valve | 0.5 |" in artifact.card_text()


def test_the_command_of_the_platform_publishes_a_directory_beside_the_shipped_versions(
    published, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with Registry(tmp_path / "registry") as registry:
        registry.ensure("hydraulics")
        shipped = registry.resolve("hydraulics")
    options = ["--registry", str(tmp_path / "registry")]
    result = CliRunner().invoke(app, ["models", "publish", str(published[0][1].path), "--alias", "trial", *options])
    assert result.exit_code == 0, result.output
    with Registry(tmp_path / "registry") as registry:
        assert registry.resolve("hydraulics@trial") == ("hydraulics", "v1.1-trees")
        assert registry.resolve("hydraulics") == shipped
        assert registry.get("hydraulics:v1.1-trees").golden().rows == 6


def test_an_alias_puts_both_versions_into_a_registry_beside_the_shipped_ones(published, tmp_path):
    artifacts = published[0]
    with Registry(tmp_path / "registry") as registry:
        put_into(registry, Publication(artifacts[0], artifacts[1:]), "champion")
        assert {"v1.0", "v1.0-trees", "v1.1", "v1.1-trees"} == set(registry.versions("hydraulics"))
        assert registry.resolve("hydraulics") == ("hydraulics", "v1.1")
        assert set(registry.get("hydraulics").golden().inputs) == set(INPUTS)


def test_golden_samples_are_simulated_and_the_last_has_three_sensors():
    inputs = golden_inputs(Scales({}, {}))
    assert inputs["present"].sum(axis=(1, 2)).tolist() == [18, 18, 18, 18, 18, 3]
    assert all((inputs["signals"][0] != inputs["signals"][place]).any() for place in range(1, 6))


def test_nothing_is_overwritten(published, figures):
    with pytest.raises(
        InvalidInput, match=r"v1.1 already exists; choose another version, or omit it for the next free"
    ):
        publish(RECORDINGS, figures, network(CONFIG), published[1], "v1.1")
    assert versions_of(figures, None, published[1]) == {"network": "v1.2", "extra_trees": "v1.2-trees"}
    assert versions_of(figures, "2026-11", published[1]) == {"network": "2026-11", "extra_trees": "2026-11-trees"}


def test_too_large_artifacts_are_refused(published, monkeypatch):
    monkeypatch.setattr(publishing, "SIZE_LIMIT", 1000)
    with pytest.raises(InvalidInput, match=r"more than 0\.001 MB; train smaller models"):
        publishing._check_size(published[1] / "hydraulics")
