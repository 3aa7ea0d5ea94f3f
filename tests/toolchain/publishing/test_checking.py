from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import row_models
import torch_forms
import zoo
from onnx import numpy_helper
from safetensors.torch import save_file

import penstock
from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource
from penstock.errors import IntegrityError, ModelNotFound
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec
from penstock.toolchain.publishing.checking import VariantCheck, Verification, check_variant
from penstock.toolchain.publishing.publish import publish_variants, recorded
from penstock.toolchain.verification.measures import Errors

MLP = zoo.MLP


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("forms")
    save_file(MLP.make().state_dict(), directory / "weights.safetensors")
    torch_forms.write_script(MLP, directory / "script.ts")
    model = onnx.load(MLP.onnx())
    for weights in model.graph.initializer:
        if weights.name.endswith("out.bias"):
            weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) + np.float32(0.5), weights.name))
    onnx.save(model, directory / "wrong.onnx")
    return directory


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., tuple[Registry, Artifact]]:
    def publish(*variants: VariantSource, **changes: object) -> tuple[Registry, Artifact]:
        registry = Registry(tmp_path / "registry")
        fields = {
            "name": "m", "version": "1.0.0", "task": TaskEntry(kind="tensor"), "signature": MLP.signature,
            "variants": variants, "golden": MLP.golden(), "card": "", "prove": False, **changes,
        }  # fmt: skip
        return registry, publish_variants(registry, **fields)

    return publish


def weights(files: Path, **changes: object) -> VariantSource:
    source = VariantSource("pytorch", "fp32", files / "weights.safetensors", architecture=MLP.architecture)
    return replace(source, **changes)


def script(files: Path) -> VariantSource:
    return VariantSource("torchscript", "fp32", files / "script.ts", name="torchscript-script")


def onnx_form() -> VariantSource:
    """As a function: the export takes seconds, which every process would spend when it collects the tests."""
    return VariantSource("onnx", "fp32", MLP.onnx())


def by_name(found: Verification) -> dict[str, VariantCheck]:
    return {one.name: one for one in found.variants}


def checked(artifact: Artifact, trust: str = "code") -> dict[str, VariantCheck]:
    """Every variant, in this process: a child that imports PyTorch takes seconds."""
    names = [variant.name for variant in artifact.variants]
    eager = next((name for name in names if name.startswith("pytorch")), None)
    return {name: check_variant(artifact, name, trust, eager) for name in names}


def test_every_variant_of_a_right_version_is_ok(files, publish):
    _, artifact = publish(onnx_form(), weights(files), script(files))
    found = checked(artifact)
    assert list(found) == ["onnx-fp32", "pytorch-fp32", "torchscript-script"]
    for one in found.values():
        assert one.ok, one.why
        assert one.batch_invariant
        assert one.max_abs is not None
        assert one.max_abs < 1e-5
        assert one.top1 == 1.0
        assert one.cosine == pytest.approx(1.0)


def test_the_report_is_that_of_the_contract(publish):
    registry, artifact = publish(onnx_form())
    found = penstock.verify("m", registry=registry.path)
    assert found.ok
    document = found.to_json()
    assert list(document) == ["ref", "variants"]
    assert document["ref"] == artifact.ref
    assert list(document["variants"][0]) == [
        "name", "max_abs", "max_rel", "cosine", "top1", "batch_invariant", "ok", "why",
    ]  # fmt: skip


def test_a_wrong_variant_is_not_ok_and_the_others_are(files, publish):
    registry, _ = publish(onnx_form(), VariantSource("onnx", "fp32", files / "wrong.onnx", name="onnx-wrong"))
    found = penstock.verify("m", registry=registry)
    assert not found.ok
    assert by_name(found)["onnx-fp32"].ok
    bad = by_name(found)["onnx-wrong"]
    assert bad.ok is False
    assert bad.max_abs == pytest.approx(0.5, abs=1e-3)
    assert bad.why.startswith("output 'logits', sample ")
    assert "differs by 0.5" in bad.why


def test_a_variant_that_is_right_on_its_golden_samples_only_is_found_with_eager_pytorch(files, publish, tmp_path):
    model = onnx.load(MLP.onnx())
    name = model.graph.input[0].name
    limits = {"low": np.float32(-5), "high": np.float32(5)}
    model.graph.initializer.extend([numpy_helper.from_array(value, one) for one, value in limits.items()])
    for node in model.graph.node:
        node.input[:] = ["clipped" if one == name else one for one in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Clip", [name, *limits], ["clipped"]))
    onnx.save(model, tmp_path / "clipped.onnx")
    clipped = VariantSource("onnx", "fp32", tmp_path / "clipped.onnx")
    _, alone = publish(clipped, version="1.0.0")
    assert checked(alone)["onnx-fp32"].ok
    _, both = publish(clipped, weights(files), version="2.0.0")
    bad = checked(both)["onnx-fp32"]
    assert bad.ok is False
    assert "values 100 times as large" in bad.why


def test_a_form_that_rounds_by_design_is_held_to_its_golden_samples(files, publish):
    errors = recorded(Errors(0.6, 0.3, 0.9, 1.0, 10))
    rounded = VariantSource("onnx", "int8", files / "wrong.onnx", errors=errors)
    _, artifact = publish(onnx_form(), rounded, weights(files))
    found = checked(artifact)
    assert found["onnx-int8"].ok, found["onnx-int8"].why
    assert found["onnx-fp32"].ok, found["onnx-fp32"].why
    _, other = publish(onnx_form(), replace(rounded, errors=None), weights(files), version="2.0.0")
    assert checked(other)["onnx-int8"].ok is False


def test_a_variant_that_crashes_its_process_does_not_end_the_report(files, publish):
    crashing = weights(files, architecture="crashing_models:Crashing", name="crashing")
    registry, _ = publish(crashing, onnx_form(), replace(onnx_form(), name="elsewhere", requires=("quantum",)))
    found = penstock.verify("m", registry=registry)
    assert not found.ok
    crash, good, elsewhere = found.variants
    assert crash.ok is False
    assert "crashed with SIGSEGV" in crash.why
    assert good.ok
    assert (elsewhere.ok, elsewhere.why) == (None, "this machine lacks quantum")


def test_what_this_machine_cannot_run_is_neither_right_nor_wrong(publish):
    registry, _ = publish(onnx_form(), replace(onnx_form(), name="elsewhere", requires=("quantum",)))
    found = penstock.verify("m", registry=registry)
    assert found.ok
    assert by_name(found)["elsewhere"].ok is None


def test_nothing_is_ok_when_no_variant_runs_here(publish):
    registry, _ = publish(replace(onnx_form(), requires=("quantum",)))
    assert not penstock.verify("m", registry=registry).ok


def test_a_variant_that_is_not_trusted_is_not_run(files, publish):
    _, artifact = publish(onnx_form(), script(files))
    found = checked(artifact, "data")
    assert found["torchscript-script"].ok is None
    assert 'trust="code"' in found["torchscript-script"].why
    assert found["onnx-fp32"].ok


def test_an_altered_file_is_not_ok(publish):
    _, artifact = publish(onnx_form())
    path = artifact.variant_path(artifact.variants[0])
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    one = checked(artifact)["onnx-fp32"]
    assert one.ok is False
    assert str(path) in one.why


def test_altered_golden_samples_are_an_error(publish):
    registry, artifact = publish(onnx_form())
    path = artifact.path / "golden.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match=r"golden\.safetensors"):
        penstock.verify("m", registry=registry)


def test_without_golden_samples_nothing_is_shown(publish):
    registry, artifact = publish(onnx_form(), golden=None)
    assert not penstock.verify("m", registry=registry).ok
    assert "no golden samples" in checked(artifact)["onnx-fp32"].why


def test_a_version_that_mixes_rows_is_right_when_each_row_alone_is(tmp_path, publish):
    model = row_models.DEPENDENT["the mean of the batch"]
    path = row_models.write(tmp_path / "mean.onnx", model)
    x = np.random.default_rng(3).standard_normal((4, row_models.FEATURES)).astype(np.float32)
    spec = ("FP32", (-1, row_models.FEATURES))
    signature = Signature((TensorSpec("x", *spec),), (TensorSpec("y", *spec),))
    samples = {"together": x - x.mean(axis=0), "alone": np.zeros_like(x)}
    for version, (how, y) in enumerate(samples.items(), 1):
        _, artifact = publish(
            VariantSource("onnx", "fp32", path),
            version=f"{version}.0.0", signature=signature, golden=Golden({"x": x}, {"y": y}), batchable=False,
        )  # fmt: skip
        one = checked(artifact)["onnx-fp32"]
        assert one.ok, (how, one.why)
        assert one.batch_invariant is False


def test_a_version_that_claims_rows_of_their_own_and_mixes_them_is_not_ok(tmp_path, publish):
    path = row_models.write(tmp_path / "mean.onnx", row_models.DEPENDENT["the mean of the batch"])
    x = np.random.default_rng(3).standard_normal((4, row_models.FEATURES)).astype(np.float32)
    spec = ("FP32", (-1, row_models.FEATURES))
    signature = Signature((TensorSpec("x", *spec),), (TensorSpec("y", *spec),))
    golden = Golden({"x": x}, {"y": x - x.mean(axis=0)})
    _, artifact = publish(VariantSource("onnx", "fp32", path), signature=signature, golden=golden, batchable=True)
    one = checked(artifact)["onnx-fp32"]
    assert one.ok is False
    assert one.why.startswith("requests could not share a run")


def test_an_unknown_reference_is_an_error(publish):
    registry, _ = publish(onnx_form())
    with pytest.raises(ModelNotFound):
        penstock.verify("m:9.0.0", registry=registry)
