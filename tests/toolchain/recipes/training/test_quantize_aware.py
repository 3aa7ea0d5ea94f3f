from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import trained_subjects as subjects
from torch import nn

from penstock.errors import InvalidInput
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.recipes.subject import Materials, Subject
from penstock.toolchain.recipes.training.quantize_aware import QuantizeAware

RECIPE = Recipe.from_json(
    {"techniques": [{"kind": "quantize-aware", "epochs": 1, "training": {"learning_rate": 1e-3}}]}
)


def make(folder: Path) -> tuple[Subject, Subject]:
    before = subjects.trained_pictures()
    images, labels = subjects.pictures()
    return before, RECIPE.techniques[0].apply(before, Materials(folder, {"image": images}, labels))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, Subject]:
    """A convolutional network with a batch norm and a dropout, before and after."""
    return make(tmp_path_factory.mktemp("scratch"))


def answers(subject: Subject, images: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    session = onnxruntime.InferenceSession(subject.onnx, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]  # type: ignore[no-any-return]


def test_onnx_runtime_runs_the_quantized_model_as_rightly_as_before(made: tuple[Subject, Subject]) -> None:
    before, after = made
    images, labels = subjects.pictures(512, seed=1)
    assert before.module is not None
    with torch.no_grad():
        expected = before.module.module(torch.from_numpy(images)).argmax(dim=1).numpy()
    accuracy = (expected == labels).mean()
    assert accuracy > 0.9
    assert (answers(after, images).argmax(axis=1) == labels).mean() >= accuracy - 0.01
    assert after.precision == "int8"
    for rows in (1, 3, 7):
        assert answers(after, images[:rows]).shape == (rows, 4)


def test_the_quantized_module_answers_as_the_file_does(made: tuple[Subject, Subject]) -> None:
    _, after = made
    assert after.module is not None
    images, _ = subjects.pictures(5, seed=2)
    backend = after.module.reference()
    try:
        expected = next(iter(backend.run({"image": images}).values()))
    finally:
        backend.close()
    assert np.abs(answers(after, images) - expected).max() < 0.05 * np.abs(expected).max()


def test_what_runs_in_int8_is_counted_and_the_batch_norm_folded(made: tuple[Subject, Subject]) -> None:
    _, after = made
    facts = after.facts["quantize-aware"]
    assert (facts["quantized"], facts["quantizable"]) == (3, 3)
    assert "3 of 3 convolutions and matrix products have int8 inputs" in after.notes[0]
    assert after.onnx is not None
    operators = {node.op_type for node in onnx.load(after.onnx).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    assert not {"BatchNormalization", "Dropout"} & operators


def test_the_same_recipe_gives_the_same_file_and_leaves_the_former_module(
    made: tuple[Subject, Subject], tmp_path: Path
) -> None:
    before, after = made
    fresh, again = make(tmp_path)
    assert again.facts == after.facts
    assert after.onnx is not None
    assert again.onnx is not None
    assert again.onnx.read_bytes() == after.onnx.read_bytes()
    assert before.module is not None
    assert fresh.module is not None
    trained = subjects.trained_pictures().module
    assert trained is not None
    for one, other in zip(
        before.module.module.state_dict().values(), trained.module.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x) if x.sum() > 0 else self.out(-x)


def test_a_model_that_cannot_be_captured_or_quantized_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"quantize-aware: torch.export cannot capture the model"):
        QuantizeAware().apply(subjects.subject(Branching()), subjects.materials(tmp_path))
    norm = subjects.subject(nn.Sequential(nn.LayerNorm(8)))
    with pytest.raises(InvalidInput, match="no convolutions or linear layers that can be quantized"):
        QuantizeAware().apply(replace(norm, signature=norm.signature), subjects.materials(tmp_path))
    with pytest.raises(InvalidInput, match="quantize-aware: there is no data to train on"):
        QuantizeAware().apply(subjects.subject(), Materials(tmp_path))
