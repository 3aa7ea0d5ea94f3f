"""A predictor of a live `torch.nn.Module`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from penstock.engine.loading.manager import ModelManager
from penstock.engine.predictor.predictor import Predictor
from penstock.errors import InvalidInput, ModelLoadError
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec

X = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32))


class Scores(nn.Module):
    """Three probabilities; in training mode dropout would change them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.9), nn.Linear(8, 3))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features).softmax(dim=1)


class Pair(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": left + right, "difference": left - right}


def _truth(model: nn.Module) -> list[int]:
    with torch.inference_mode():
        return model.eval()(X).argmax(dim=1).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "example", [X[:1], (X[:3],), {"features": X[:2]}, X[:1].numpy()], ids=["tensor", "tuple", "mapping", "array"]
)
def test_a_module_answers_as_it_does_itself(example: Any, registry: Registry) -> None:
    model = Scores()
    with Predictor(model, example_input=example, registry=registry, batch_size=8) as predictor:
        assert (predictor.info.name, predictor.info.version, predictor.info.format) == ("Scores", "v1.0", "pytorch")
        answers = predictor.predict_batch(X.numpy())
    assert [answer.predictions[0] for answer in answers] == _truth(model)


def test_several_inputs_and_outputs_keep_their_names(registry: Registry) -> None:
    example = {"left": X[:2], "right": X[2:4]}
    with Predictor(Pair(), example_input=example, registry=registry, task="tensor") as predictor:
        answer = predictor.predict({"inputs": {"left": X[:5].tolist(), "right": X[5:10].tolist()}})
    outputs = {name: np.asarray(values, np.float32) for name, values in answer.outputs.items()}
    assert np.allclose(outputs["sum"], X[:5] + X[5:10])
    assert np.allclose(outputs["difference"], X[:5] - X[5:10])


def test_the_module_itself_is_not_changed(registry: Registry) -> None:
    model = Scores().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with Predictor(model, example_input=X[:1], registry=registry) as predictor:
        truth = predictor.predict(X[0].numpy()).confidence_scores
        with torch.no_grad():
            model.layers[0].weight.zero_()
        assert predictor.predict(X[0].numpy()).confidence_scores == truth
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(before["layers.2.weight"], model.layers[2].weight)


def test_a_signature_does_instead_of_an_example(registry: Registry) -> None:
    signature = Signature((TensorSpec("features", "FP32", (-1, 4)),), (TensorSpec("scores", "FP32", (-1, 3)),))
    model = Scores()
    with Predictor(model, signature=signature, registry=registry) as predictor:
        assert predictor.predict(X.numpy()).predictions == _truth(model)


def test_a_module_whose_rows_influence_each_other_runs_each_request_alone(registry: Registry) -> None:
    class Centred(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(dim=0)

    with Predictor(Centred(), example_input=X[:2], registry=registry, task="tensor") as predictor:
        assert not predictor.info.batchable
        one, two = predictor.predict_batch([{"inputs": {"x": X[:3].tolist()}}, {"inputs": {"x": X[3:9].tolist()}}])
    assert np.allclose(one.outputs["output"], X[:3] - X[:3].mean(dim=0), atol=1e-6)
    assert np.allclose(two.outputs["output"], X[3:9] - X[3:9].mean(dim=0), atol=1e-6)


def test_a_module_without_an_example_is_refused_with_what_to_give(registry: Registry) -> None:
    with pytest.raises(InvalidInput, match="example_input: Scores does not record its inputs; give an example"):
        Predictor(Scores(), registry=registry)


def test_an_example_that_does_not_fit_is_refused(registry: Registry) -> None:
    with pytest.raises(ModelLoadError, match="Scores: the model does not run on the example input: mat1 and mat2"):
        Predictor(Scores(), example_input=torch.zeros(1, 5), registry=registry)


@pytest.mark.parametrize(("value", "name"), [(Scores, "Scores"), (7, "int"), (None, "NoneType")])
def test_what_is_no_model_is_refused_by_name(value: Any, name: str, registry: Registry) -> None:
    with pytest.raises(InvalidInput, match=f"model: {name} is not a model; give a reference"):
        Predictor(value, registry=registry)


def test_a_manager_lists_modules_with_other_models(registry: Registry, onnx_file: Path) -> None:
    manager = ModelManager(registry)
    manager.load_module(Scores(), example_input=X[:1])
    manager.load_model(onnx_file)
    assert [info.name for info in manager.list_cached_models()] == ["Scores", onnx_file.stem]
    assert manager.load_model("Scores:v1.0") is manager.get_model("Scores")
    assert manager.get_model_info("Scores").num_parameters == 4 * 8 + 8 + 8 * 3 + 3
    manager.close()


def test_a_module_in_bfloat16_answers_as_it_does_itself(registry: Registry) -> None:
    torch.manual_seed(2)
    model, rows = nn.Linear(4, 3).bfloat16(), X[:20].bfloat16()
    with Predictor(model, example_input=rows[:2], registry=registry, task="tensor") as predictor:
        assert (predictor.info.dtype, predictor.predict(rows[:0].new_ones(1, 4)).outputs.keys()) == ("BF16", {"output"})
        answer = predictor.predict(rows)
    with torch.inference_mode():
        assert np.allclose(answer.outputs["output"], model(rows).float(), rtol=2**-7)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda x: (x, [x, x]), "its output 'output_1' is of the type list; a model that is served returns a tensor"),
        (lambda x: {"loss": None, "logits": x}, "its output 'loss' is None; a model that is served returns a tensor"),
        (lambda x: float(x.sum()), "its output 'output' is of the type float; a model that is served returns a tensor"),
    ],
    ids=["nested", "none", "number"],
)
def test_answers_that_are_no_tensors_are_refused_by_name(answer: Any, sentence: str, registry: Registry) -> None:
    class Answering(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return answer(x)

    with pytest.raises(ModelLoadError, match=f"Answering: .*{sentence}"):
        Predictor(Answering(), example_input=X[:2], registry=registry)


def test_an_example_of_uneven_lists_is_refused_by_name(registry: Registry) -> None:
    with pytest.raises(InvalidInput, match="example_input: features: its lists have different lengths"):
        Predictor(Scores(), example_input=[[1.0, 2.0], [3.0]], registry=registry)
