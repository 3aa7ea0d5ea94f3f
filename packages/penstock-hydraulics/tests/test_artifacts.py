from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from penstock import Artifact, Predictor, Registry
from penstock_hydraulics.learning.data.recordings import RIG, ROWS, load
from penstock_hydraulics.learning.models.export import onnx_answers
from penstock_hydraulics.machine.states import HEADS
from penstock_hydraulics.signals.features import FeatureConfig, Layout, Scales, encode
from penstock_hydraulics.simulator import simulate

SHIPPED = Path(str(files("penstock_hydraulics") / "artifacts" / "hydraulics"))
VERSIONS = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())
DATA = os.environ.get("PENSTOCK_HYDRAULICS_DATA")
needs_recordings = pytest.mark.skipif(not DATA, reason="PENSTOCK_HYDRAULICS_DATA names no recordings")


@pytest.fixture(params=VERSIONS)
def artifact(request) -> Artifact:
    return Artifact.open(SHIPPED / request.param)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with Registry(tmp_path_factory.mktemp("registry")) as found:
        found.ensure("hydraulics")
        yield found


@pytest.fixture
def predictor(artifact, registry):
    with Predictor(artifact.ref, registry=registry) as found:
        yield found


def test_two_versions_ship_and_one_of_them_is_the_champion():
    champion = (SHIPPED / "champion").read_text().strip()
    assert champion == "v1.0"
    assert champion in VERSIONS
    assert len(VERSIONS) == 2


def test_the_artifacts_stay_under_two_megabytes():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 2_000_000


def test_the_artifacts_are_complete(artifact):
    artifact.verify()
    assert artifact.ref == f"hydraulics:{artifact.path.name}"
    assert [variant.name for variant in artifact.variants] == ["onnx-fp32"]


def test_the_registry_takes_both_and_serves_the_champion(registry):
    assert sorted(registry.versions("hydraulics")) == VERSIONS
    assert registry.aliases("hydraulics") == {"champion": "v1.0"}
    assert registry.resolve("hydraulics") == ("hydraulics", "v1.0")


def test_the_golden_samples_are_answered_as_recorded(artifact):
    golden = artifact.golden()
    found = onnx_answers(artifact.variant_path(artifact.variants[0]), golden.inputs)
    for name, wanted in golden.outputs.items():
        np.testing.assert_allclose(found[name], wanted, atol=golden.atol, rtol=golden.rtol)


def test_the_recorded_figures_meet_the_requirements():
    metrics = Artifact.open(SHIPPED / "v1.0").manifest.metrics
    wanted = dict(zip((head.name for head in HEADS), (0.99, 0.98, 0.98, 0.90), strict=True))
    for name, least in wanted.items():
        assert metrics[f"macro_f1_{name}"] >= least
        assert metrics[f"ece_{name}"] <= 0.03


def test_the_card_attributes_the_data_and_names_no_machine(artifact):
    card = artifact.card_text()
    for part in ("Helwig", "Pignanelli", "Schütze", "10.24432/C5CW21", "CC BY 4.0", "means of one second"):
        assert part in card
    everything = card + (artifact.path / "manifest.json").read_text()
    assert not re.search(r"/(home|root|work|tmp|Users)/", everything)


def test_the_answer_to_a_window_does_not_depend_on_its_batch(artifact):
    scales = Scales.from_mapping(artifact.manifest.task.config["scales"])
    layout = Layout.make(RIG, ROWS, scales)
    readings = np.random.default_rng(0).normal(50, 20, (5, len(ROWS), FeatureConfig().steps)).astype(np.float32)
    single = [encode(window, layout) for window in readings]
    model = artifact.variant_path(artifact.variants[0])
    batch = onnx_answers(model, {name: np.concatenate([one[name] for one in single]) for name in single[0]})
    for place, one in enumerate(single):
        for name, array in onnx_answers(model, one).items():
            np.testing.assert_allclose(array[0], batch[name][place], atol=1e-5)


def test_a_healthy_rig_scores_higher_than_one_with_a_worn_pump(predictor):
    def health(faults):
        window = next(iter(simulate(RIG, faults, windows=1, seed=1)))
        request = {"equipment_id": "rig", "topology": "zema_rig", "sensor_data": readings(window)}
        return predictor.predict(request | {"sampling_rate_hz": dict(window.rates_hz)}).health.score

    def readings(window):
        return {name: np.asarray(values).tolist() for name, values in window.readings.items()}

    assert health({}) > health({"pump_main": {"leakage": 1.0}}) + 0.1


def test_the_champion_answers_without_torch_or_scikit_learn(tmp_path):
    code = (
        "import sys\n"
        "from penstock import Predictor\n"
        f"with Predictor('hydraulics', registry={str(tmp_path / 'registry')!r}) as predictor:\n"
        "    predictor.predict({'equipment_id': 'a', 'sensor_data': {'pressure_pump_main': [150.0, 151.0] * 30}})\n"
        "assert not {'torch', 'sklearn', 'onnx'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@needs_recordings
def test_recorded_cycles_get_their_labelled_levels(predictor):
    recordings = load(Path(DATA))
    chosen = np.flatnonzero(recordings.in_settled_runs)[::40]
    hits = np.zeros(len(HEADS))
    for cycle in chosen:
        request = {"equipment_id": "rig", "topology": "zema_rig", "sensor_data": recordings.window(int(cycle))}
        parts = {part.state.name: part.state for part in predictor.predict(request).components if part.state}
        for place, head in enumerate(HEADS):
            hits[place] += parts[head.name].level == head.levels[recordings.labels[cycle, place]]
    assert (hits / len(chosen) > 0.9).all()
