from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.reference.bins import SPECIAL
from penstock.tasks.base import Task
from penstock.tasks.catalog import load_task
from penstock.tasks.classification import ClassScores
from penstock.tasks.image import ImageClassification
from penstock.toolchain.publishing.referencing import answers_of
from penstock_digits.data import Digits, load_split
from penstock_digits.measure import PICTURES, picture_rows

SHIPPED = Path(str(files("penstock_digits") / "artifacts"))
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(params=["digits", "digits-image"])
def artifact(request) -> Artifact:
    return Artifact.open(SHIPPED / request.param)


def answer(artifact: Artifact, value: object) -> object:
    """The shipped ONNX model's answer through its own task."""
    task: Task = load_task(artifact.manifest.task.kind, artifact.manifest.task.config, artifact.signature)
    request = task.coerce(value)
    session = onnxruntime.InferenceSession(artifact.variant_path(artifact.manifest.variant("onnx-fp32")))
    return task.postprocess({"logits": session.run(None, task.preprocess(request))[0]}, request)


def test_the_shipped_artifacts_are_valid(artifact):
    artifact.verify()
    assert artifact.version == "v1.0"
    assert [variant.name for variant in artifact.variants] == ["onnx-fp32", "pytorch-fp32"]


def test_both_together_stay_well_under_two_megabytes():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 1_000_000


def test_both_have_a_reference_of_digits_that_the_network_has_not_seen():
    rows = {name: Artifact.open(SHIPPED / name).reference().rows for name in ("digits", "digits-image")}
    assert rows == {"digits": 360, "digits-image": 12 * 360}


def test_pictures_of_other_digits_lie_within_the_reference_of_pictures():
    artifact = Artifact.open(SHIPPED / "digits-image")
    task = ImageClassification(artifact.manifest.task.config, artifact.signature)
    some = Digits(*(part[::30] for part in load_split().train))
    rows = np.concatenate([picture_rows(task, PICTURES[look].how, some) for look in ("png", "photo_reversed")])
    session = onnxruntime.InferenceSession(artifact.variant_path(artifact.manifest.variant("onnx-fp32")))
    scores = ClassScores(artifact.signature, "logits", tuple(artifact.manifest.task.config["labels"]), "input")
    answers = answers_of(scores, {"logits": session.run(None, {"input": rows})[0]})
    reference = artifact.reference()

    def outside(inputs: np.ndarray) -> float:
        counts = reference.count({"input": inputs}, answers)
        found = [counts[place][: len(SPECIAL)] for place in reference.slices[: len(reference.input_features)]]
        return float(np.sum(found) / np.sum([counts[place] for place in reference.slices[: len(found)]]))

    assert outside(rows) < 0.02
    assert outside(1 - rows) > 0.1


def test_both_hold_the_same_weights():
    digits, image = (Artifact.open(SHIPPED / name) for name in ("digits", "digits-image"))
    for name in ("onnx-fp32", "pytorch-fp32"):
        assert digits.manifest.variant(name).files == image.manifest.variant(name).files


def test_the_recorded_accuracy_meets_the_target(artifact):
    metrics = artifact.manifest.metrics
    assert metrics["accuracy"] >= 0.98
    assert metrics["macro_f1"] >= 0.98
    pictures = {name: value for name, value in metrics.items() if name.startswith("accuracy_")}
    assert all(value >= 0.97 for value in pictures.values())
    assert len(pictures) == (12 if artifact.name == "digits-image" else 0)


def test_onnx_answers_the_golden_samples_as_recorded(artifact):
    golden = artifact.golden()
    assert golden is not None
    assert golden.rows == 32
    session = onnxruntime.InferenceSession(artifact.variant_path(artifact.manifest.variant("onnx-fp32")))
    logits = session.run(["logits"], golden.inputs)[0]
    assert np.allclose(logits, golden.outputs["logits"], atol=golden.atol, rtol=golden.rtol)


def test_eager_pytorch_answers_the_golden_samples_as_recorded(artifact):
    import torch
    from safetensors.torch import load_file

    from penstock_digits.model import DigitsCNN

    golden = artifact.golden()
    assert golden is not None
    network = DigitsCNN().eval()
    network.load_state_dict(load_file(artifact.variant_path(artifact.manifest.variant("pytorch-fp32"))))
    with torch.inference_mode():
        logits = network(torch.from_numpy(golden.inputs["input"])).numpy()
    assert np.allclose(logits, golden.outputs["logits"], atol=golden.atol, rtol=golden.rtol)


def test_the_onnx_model_is_one_file_with_a_free_batch(artifact):
    model = onnx.load(artifact.variant_path(artifact.manifest.variant("onnx-fp32")), load_external_data=False)
    assert all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    (given,), (logits,) = model.graph.input, model.graph.output
    assert (given.name, logits.name) == ("input", "logits")
    assert given.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_no_file_contains_a_path_of_the_build_machine(artifact):
    for path in artifact.path.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not any(place in data for place in (b"/home/", b"/root/", b"/work", b"/tmp/", b"site-packages", b".py"))


def test_the_card_has_every_required_section(artifact):
    card = artifact.card_text()
    assert card.startswith('---\nlicense: "apache-2.0"')
    for words in ("CC BY 4.0", "Alpaydin", "## Intended use", "## Training data", "## Limits", "## Confusion"):
        assert words in card
    assert ("## Accuracy on pictures" in card) == (artifact.name == "digits-image")


def test_the_request_of_the_examples_is_a_seven():
    request = json.loads((EXAMPLES / "digit.json").read_text())
    assert (len(request["input_data"]), request["model_version"], request["batch_size"]) == (784, "v1.0", 1)
    response = answer(Artifact.open(SHIPPED / "digits"), request)
    assert response.predictions == [7]
    assert response.confidence_scores[0] > 0.9


@pytest.mark.parametrize(
    ("name", "digit"),
    [("seven.png", 7), ("two-light-on-dark.png", 2), ("five-photo.jpg", 5), ("three-light-on-dark.jpg", 3)],
)
def test_the_images_of_the_examples_are_classified(name, digit):
    path = EXAMPLES / "images" / name
    response = answer(Artifact.open(SHIPPED / "digits-image"), path)
    assert (response.class_id, response.class_name) == (digit, str(digit))
    assert response.confidence > 0.9
    assert path.stat().st_size < 20_000


def test_the_artifacts_need_neither_torch_nor_scikit_learn():
    code = (
        "import sys\n"
        "for name in ('torch', 'sklearn', 'onnx', 'onnxscript'): sys.modules[name] = None\n"
        "from importlib.resources import files\n"
        "import penstock_digits\n"
        "assert (files('penstock_digits') / 'artifacts' / 'digits' / 'manifest.json').is_file()\n"
        "import penstock_digits.artifacts\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
