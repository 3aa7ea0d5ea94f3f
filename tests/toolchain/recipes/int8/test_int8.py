"""The techniques that quantize ONNX files, on the trained digits and on networks of each kind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from recipe_models import answers, digits_artifact, digits_rows, furthest, materials, onnx_of, subject

from penstock.backends.base import ModelFile
from penstock.backends.catalog import open_backend
from penstock.errors import InvalidInput
from penstock.options import BackendOptions
from penstock.tensors import Arrays
from penstock.toolchain.recipes.int8.dynamic import QuantizeDynamic
from penstock.toolchain.recipes.int8.losses import worst_nodes
from penstock.toolchain.recipes.int8.static import QuantizeStatic
from penstock.toolchain.recipes.int8.weight_only import WeightOnly
from penstock.toolchain.recipes.making import Made, make
from penstock.toolchain.recipes.opening import subject_of
from penstock.toolchain.recipes.recipe import Recipe, Technique
from penstock.toolchain.recipes.subject import Materials, Subject

TECHNIQUES: tuple[Technique, ...] = (
    QuantizeStatic(),
    QuantizeStatic(observer="entropy", rows=64),
    QuantizeStatic(observer="percentile", rows=64),
    QuantizeDynamic(convolutions=True),
    WeightOnly(),
    WeightOnly(compute="fp32"),
)


@pytest.fixture(scope="module")
def digits() -> Subject:
    return subject_of(digits_artifact())


def calibration(scratch: Path) -> Materials:
    return Materials(scratch, {"input": digits_rows("train").features})


def correct(made: Made) -> int:
    rows = digits_rows()
    logits = answers(made.exported, {"input": rows.features})["logits"]
    return int((logits.argmax(axis=1) == rows.labels).sum())


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda one: f"{one.kind}-{getattr(one, 'observer', '')}")
def test_digits_keep_their_accuracy_at_less_than_a_third_of_the_size(
    digits: Subject, tmp_path: Path, technique: Technique
) -> None:
    made = make(Recipe((technique,)), digits, calibration(tmp_path))
    assert digits.onnx is not None
    assert correct(made) >= correct(make(Recipe(), digits, calibration(tmp_path))) - 1
    assert made.exported.path.stat().st_size < 0.3 * digits.onnx.stat().st_size
    assert made.exported.precision == made.subject.precision == "int8"
    assert made.subject.module is None
    assert made.exported.exporter.startswith("onnxruntime.quantization ")


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda one: f"{one.kind}-{getattr(one, 'observer', '')}")
def test_a_recipe_run_again_gives_the_same_file(digits: Subject, tmp_path: Path, technique: Technique) -> None:
    recipe = Recipe.from_json(Recipe((technique,)).to_json())
    first, again = (make(recipe, digits, calibration(tmp_path)) for _ in range(2))
    assert first.digest == again.digest
    assert first.exported.path != again.exported.path


def test_static_int8_runs_every_convolution_in_int8(digits: Subject, tmp_path: Path) -> None:
    made = make(Recipe((QuantizeStatic(),)), digits, calibration(tmp_path))
    assert made.exported.notes == ("4 of 4 quantizable operators run in int8",)
    assert made.subject.facts == {"int8_operators": 4, "quantizable_operators": 4}


def test_dynamic_int8_leaves_convolutions_out_by_default(digits: Subject, tmp_path: Path) -> None:
    made = make(Recipe((QuantizeDynamic(),)), digits, materials(tmp_path))
    assert made.exported.notes == ("1 of 4 quantizable operators run in int8 (left in floating point: 3 Conv)",)


def test_an_excluded_operator_stays_in_floating_point(digits: Subject, tmp_path: Path) -> None:
    first, *_ = worst_nodes(QuantizeStatic(), digits, calibration(tmp_path))
    made = make(Recipe((QuantizeStatic(exclude=(first.operator,)),)), digits, calibration(tmp_path))
    assert made.subject.facts == {"int8_operators": 3, "quantizable_operators": 4}


@pytest.mark.parametrize("technique", [QuantizeStatic, QuantizeDynamic, WeightOnly])
def test_an_unknown_operator_to_exclude_is_refused_with_the_known_ones(
    digits: Subject, tmp_path: Path, technique: Callable[..., Technique]
) -> None:
    with pytest.raises(InvalidInput, match=r"exclude: the graph has no operator 'conv9'; .* are .*node_linear"):
        make(Recipe((technique(exclude=("conv9",)),)), digits, calibration(tmp_path))


def scale(model: onnx.ModelProto, name: str, factor: float, part: Any) -> None:
    tensor = next(one for one in model.graph.initializer if one.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[part] *= factor
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))


def test_the_operator_that_loses_most_is_found(tmp_path: Path) -> None:
    """One channel is scaled up and down again by the next layer, which quantization per tensor cannot hold."""
    model = onnx.load(onnx_of(zoo.CNN))
    scale(model, "second.weight", 300, np.s_[0])
    scale(model, "second.bias", 300, np.s_[0])
    scale(model, "out.weight", 1 / 300, np.s_[:, :9])
    path = tmp_path / "extreme.onnx"
    onnx.save(model, path)
    losses = worst_nodes(
        QuantizeStatic(per_channel=False), Subject("m", zoo.CNN.signature, onnx=path), materials(tmp_path, zoo.CNN)
    )
    readers = [node.name for node in model.graph.node if "second.weight" in node.input]
    assert [losses[0].operator] == readers
    assert losses[0].loss > 5 * losses[-1].loss
    assert len(losses) == 3


def test_time_ends_the_search_for_losses(tmp_path: Path) -> None:
    assert worst_nodes(QuantizeStatic(), subject(zoo.CNN), materials(tmp_path, zoo.CNN), seconds=0) == []


def deviation(made: Made, model: zoo.TorchModel) -> float:
    inputs = model.inputs(8, seed=5)
    return furthest(answers(made.exported, inputs), model.expected(inputs))


@pytest.mark.parametrize("model", [zoo.ENCODER, zoo.GRU, zoo.TWO_INPUTS], ids=lambda one: one.name)
@pytest.mark.parametrize("technique", [QuantizeStatic(), QuantizeDynamic(), WeightOnly()], ids=lambda one: one.kind)
def test_other_networks_stay_close(tmp_path: Path, model: zoo.TorchModel, technique: Technique) -> None:
    if model is zoo.TWO_INPUTS and technique.kind == "weight-only":
        pytest.skip("its weights are smaller than what is worth storing")
    made = make(Recipe((technique,)), subject(model), materials(tmp_path, model))
    assert 0 < deviation(made, model) < 0.03


def test_the_weights_of_a_gru_are_stored_and_this_is_said(tmp_path: Path) -> None:
    made = make(Recipe((QuantizeDynamic(),)), subject(zoo.GRU), materials(tmp_path))
    assert made.exported.notes[0].startswith("ONNX Runtime has no int8 kernel for GRU and RNN: the weights of /gru/GRU")
    types = {one.data_type for one in onnx.load(made.exported.path).graph.initializer if "int8" in one.name}
    assert types == {onnx.TensorProto.INT8}


def rows_are_independent(made: Made, inputs: Arrays) -> bool:
    backend = open_backend("onnx", ModelFile(made.exported.path), BackendOptions(threads=1))
    rows = len(next(iter(inputs.values())))
    alone = {name: array[:1] for name, array in inputs.items()}
    extreme = {name: np.concatenate([array[:1], array[1:] * 50]) for name, array in inputs.items()}
    try:
        first, among = backend.run(alone), backend.run(extreme)
    finally:
        backend.close()
    assert rows > 1
    return all(np.abs(among[name][:1] - first[name]).max() <= 1e-4 * np.abs(first[name]).max() for name in first)


def test_rows_are_independent_in_all_but_dynamic_int8(tmp_path: Path) -> None:
    inputs = zoo.MLP.inputs(8)
    for technique, independent in ((QuantizeStatic(), True), (WeightOnly(), True), (QuantizeDynamic(), False)):
        made = make(Recipe((technique,)), wide(), materials(tmp_path, zoo.MLP))
        assert rows_are_independent(made, inputs) is independent, technique


def wide() -> Subject:
    import networks

    return subject(zoo.TorchModel("wide", zoo.MLP.signature, network=networks.Wide))


def test_a_model_without_layers_to_quantize_is_refused(tmp_path: Path) -> None:
    for technique in (QuantizeStatic(), QuantizeDynamic(), WeightOnly()):
        with pytest.raises(InvalidInput, match=r"pair has no operator to quantize \(.*MatMul, Gemm.*are ArgMax"):
            make(Recipe((technique,)), subject(zoo.PAIR), materials(tmp_path, zoo.PAIR))


def test_weights_that_are_too_small_are_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="weights of two-inputs are too small to be worth storing"):
        make(Recipe((WeightOnly(),)), subject(zoo.TWO_INPUTS), materials(tmp_path))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"observer": "mse"}, "observer: input should be 'minmax', 'entropy' or 'percentile'"),
        ({"percentile": 100.5}, "percentile: input should be less than or equal to 100"),
        ({"rows": 8}, "rows: input should be greater than or equal to 32"),
        ({"rows": "64"}, "rows: input should be a valid integer"),
        ({"bits": 4}, "bits: input should be 7 or 8"),
        ({"exclude": "node"}, "exclude: input should be a valid array"),
        ({"per_channel": 1}, "per_channel: input should be a valid boolean"),
    ],
)
def test_settings_are_strict_and_within_their_range(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Recipe.from_json({"techniques": [{"kind": "quantize-static", **settings}]})
    assert str(caught.value) == f"recipe: techniques.0 (quantize-static): {expected}"


def test_the_quantizer_prints_logs_and_changes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    for technique in (QuantizeStatic(observer="entropy", rows=32), WeightOnly()):
        make(Recipe((technique,)), subject(zoo.CNN), materials(tmp_path, zoo.CNN))
    assert capfd.readouterr() == ("", "")
    assert [record.name for record in caplog.records if "torch" not in record.name] == []
    assert (list(root.handlers), root.level) == before


def test_data_of_another_model_are_refused(digits: Subject, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="calibration data: input: there is no array of this name"):
        make(Recipe((QuantizeStatic(),)), digits, materials(tmp_path, zoo.MLP))
    with pytest.raises(InvalidInput, match="quantize-static needs calibration data: real rows of input"):
        make(Recipe((QuantizeStatic(),)), digits, materials(tmp_path))
