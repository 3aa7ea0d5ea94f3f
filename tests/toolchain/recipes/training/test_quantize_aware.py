from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import trained_subjects as subjects
import zoo
from torch import nn

from penstock.errors import InvalidInput
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.recipes.subject import Materials, Subject
from penstock.toolchain.recipes.training.options import Training
from penstock.toolchain.recipes.training.quantize_aware import QuantizeAware


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Subject, Subject]:
    """A convolutional network with a batch norm, before and after; it learns to repeat its answers."""
    model = zoo.CNN
    subject = subjects.subject(model.make(), model.signature, model.inputs(4))
    folder = tmp_path_factory.mktemp("scratch")
    technique = QuantizeAware(epochs=2, training=Training(learning_rate=1e-4))
    return subject, technique.apply(subject, Materials(folder, model.inputs(64, seed=3)))


def answers(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:  # type: ignore[type-arg]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [port.name for port in session.get_inputs()] == [*inputs]
    return session.run(None, inputs)[0]  # type: ignore[no-any-return]


def test_onnx_runtime_runs_the_quantized_model_at_every_batch(made: tuple[Subject, Subject]) -> None:
    before, after = made
    assert after.onnx is not None
    assert after.precision == "int8"
    for rows in (1, 3, 7):
        inputs = zoo.CNN.inputs(rows, seed=8)
        expected = next(iter(zoo.CNN.expected(inputs).values()))
        got = answers(after.onnx, inputs)
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() < 0.15 * np.abs(expected).max()


def test_the_quantized_module_answers_as_the_file_does(made: tuple[Subject, Subject]) -> None:
    _, after = made
    assert after.onnx is not None
    assert after.module is not None
    backend = after.module.reference()
    try:
        inputs = zoo.CNN.inputs(5, seed=9)
        expected = next(iter(backend.run(inputs).values()))
    finally:
        backend.close()
    got = answers(after.onnx, inputs)
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_what_runs_in_int8_is_counted(made: tuple[Subject, Subject]) -> None:
    _, after = made
    facts = after.facts["quantize-aware"]
    assert (facts["quantized"], facts["quantizable"]) == (3, 3)
    assert "3 of 3 convolutions and matrix products have int8 inputs" in after.notes[0]


def test_the_batch_norm_is_folded_and_the_former_module_unchanged(made: tuple[Subject, Subject]) -> None:
    before, after = made
    assert before.module is not None
    assert after.onnx is not None
    fresh = zoo.CNN.make()
    for one, other in zip(before.module.module.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert b"BatchNormalization" not in after.onnx.read_bytes()


def test_training_with_labels_keeps_the_accuracy_and_gives_the_same_file_again(tmp_path: Path) -> None:
    recipe = Recipe.from_json({"techniques": [{"kind": "quantize-aware", "epochs": 1}]})
    made = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        made.append(recipe.techniques[0].apply(subjects.trained(), subjects.materials(folder)))
    one, other = made
    assert one.facts == other.facts
    assert one.onnx is not None
    assert other.onnx is not None
    assert one.onnx.read_bytes() == other.onnx.read_bytes()
    points, labels = subjects.rows(512, seed=1)
    assert (answers(one.onnx, {"x": points}).argmax(axis=1) == labels).mean() > 0.9


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x) if x.sum() > 0 else self.out(-x)


def test_a_model_that_cannot_be_captured_or_quantized_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"quantize-aware: torch.export cannot capture the model in training mode"):
        QuantizeAware().apply(subjects.subject(Branching()), subjects.materials(tmp_path))
    norm = subjects.subject(nn.Sequential(nn.LayerNorm(8)))
    with pytest.raises(InvalidInput, match="no convolutions or linear layers that can be quantized"):
        QuantizeAware().apply(replace(norm, signature=norm.signature), subjects.materials(tmp_path))
    with pytest.raises(InvalidInput, match="quantize-aware: there is no data to train on"):
        QuantizeAware().apply(subjects.subject(), Materials(tmp_path))
