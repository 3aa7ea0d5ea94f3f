from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zoo
from recipe_models import digits_artifact, onnx_of, written
from safetensors.torch import save_file
from torch_forms import write_pt2, write_trace

from penstock.artifacts.artifact import VariantSource
from penstock.errors import InvalidInput
from penstock.toolchain.recipes.opening import subject_of


def weights(model: zoo.TorchModel, path: Path, architecture: str | None = None) -> VariantSource:
    save_file(model.make().state_dict(), path)
    return VariantSource("pytorch", "fp32", path, architecture=architecture or model.architecture)


def test_the_starter_model_opens_as_a_module_and_as_an_onnx_file() -> None:
    artifact = digits_artifact()
    subject = subject_of(artifact)
    assert subject.onnx == artifact.path / "variants/onnx-fp32/model.onnx"
    assert subject.precision == "fp32"
    assert subject.notes == ()
    assert subject.module is not None
    assert subject.module.architecture == "penstock_digits.model:DigitsCNN"
    golden = artifact.golden()
    assert golden is not None
    reference = subject.module.reference()
    np.testing.assert_allclose(reference.run(golden.inputs)["logits"], golden.outputs["logits"], rtol=1e-4, atol=1e-4)
    reference.close()
    assert subject.module.example["input"].tolist() == golden.inputs["input"][:2].tolist()


def test_a_class_that_is_not_registered_needs_trust_and_the_onnx_file_stays(tmp_path: Path) -> None:
    onnx = VariantSource("onnx", "fp32", onnx_of(zoo.CNN))
    artifact = written(tmp_path / "a", zoo.CNN, onnx, weights(zoo.CNN, tmp_path / "w.safetensors"))
    subject = subject_of(artifact)
    assert subject.module is None
    assert subject.onnx is not None
    (note,) = subject.notes
    assert note.startswith("the module of the variant pytorch-fp32 is left out: ")
    assert 'trust="code"' in note
    trusted = subject_of(artifact, "code")
    assert trusted.module is not None
    assert trusted.notes == ()


def test_the_module_of_a_pt2_program_gives_the_outputs_of_the_model(tmp_path: Path) -> None:
    program = VariantSource("pt2", "fp32", write_pt2(zoo.CNN, tmp_path / "m.pt2"))
    subject = subject_of(written(tmp_path / "a", zoo.CNN, program), "code")
    assert subject.onnx is None
    assert subject.module is not None
    inputs = zoo.CNN.inputs(5)
    backend = subject.module.reference()
    np.testing.assert_allclose(backend.run(inputs)["logits"], zoo.CNN.expected(inputs)["logits"], rtol=1e-4, atol=1e-5)
    backend.close()
    assert not subject.module.module.training


def test_the_program_stands_in_for_weights_that_do_not_fit_their_class(tmp_path: Path) -> None:
    program = VariantSource("pt2", "fp32", write_pt2(zoo.MLP, tmp_path / "m.pt2"))
    other = weights(zoo.MLP, tmp_path / "w.safetensors", zoo.CNN.architecture)
    subject = subject_of(written(tmp_path / "a", zoo.MLP, program, other), "code")
    assert subject.module is not None
    assert subject.module.architecture is None
    assert "the weights do not fit Cnn: size mismatch for out.weight" in subject.notes[0]


def test_without_a_form_that_can_be_changed_the_reason_names_the_variants(tmp_path: Path) -> None:
    script = VariantSource("torchscript", "fp32", write_trace(zoo.MLP, tmp_path / "m.ts"))
    artifact = written(tmp_path / "a", zoo.MLP, script)
    with pytest.raises(InvalidInput) as caught:
        subject_of(artifact, "code")
    assert str(caught.value) == (
        "mlp:v1: techniques need an fp32 variant of the format onnx, pytorch or pt2, and none of torchscript-fp32 can "
        "be used; publish it with `penstock export`"
    )


def test_a_form_that_is_not_trusted_is_named_where_it_is_the_only_one(tmp_path: Path) -> None:
    artifact = written(tmp_path / "a", zoo.CNN, weights(zoo.CNN, tmp_path / "w.safetensors"))
    with pytest.raises(InvalidInput, match=r"none of pytorch-fp32 can be used \(the module of .*networks.*trust="):
        subject_of(artifact)


def test_an_altered_file_is_left_out(tmp_path: Path) -> None:
    artifact = written(tmp_path / "a", zoo.MLP, VariantSource("onnx", "fp32", onnx_of(zoo.MLP)))
    path = artifact.variant_path(artifact.variants[0])
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InvalidInput, match=r"onnx-fp32 is left out: .*bytes"):
        subject_of(artifact)
