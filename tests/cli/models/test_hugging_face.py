"""`penstock models import` of local directories of Hugging Face, with transformers and without the network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hugging_face import VOCABULARY, distilbert
from safetensors.torch import load_file, save_file

from penstock.cli.models.import_file import publish_file
from penstock.engine.predictor.predictor import Predictor
from penstock.errors import ModelLoadError, PenstockError, UnsupportedFormat, Untrusted
from penstock.registry.registry import Registry
from penstock.toolchain.interchange.huggingface import open_hugging_face

__all__ = ["distilbert"]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def directory(distilbert: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(distilbert[0], tmp_path / "copy"))


@pytest.fixture(scope="module")
def imported(distilbert: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the model, exported once for all tests."""
    path = tmp_path_factory.mktemp("hub-registry") / "registry"
    with Registry(path, f"sqlite:///{path}/registry.db") as registry:
        publish_file(registry, distilbert[0], name="sentiment", version="1.0.0")
    return path


def test_a_classifier_is_exported_and_answers_like_transformers(imported: Path, distilbert: tuple[Path, Any]) -> None:
    ids = np.random.default_rng(5).integers(1, VOCABULARY, (2, 13))
    mask = np.ones_like(ids)
    mask[1, 7:] = 0
    expected = distilbert[1](torch.from_numpy(ids), torch.from_numpy(mask)).logits.detach().numpy()
    with Registry(imported, f"sqlite:///{imported}/registry.db") as registry:
        with Predictor("sentiment", registry=registry) as predictor:
            answer = predictor.predict({"inputs": {"input_ids": ids, "attention_mask": mask}})
        np.testing.assert_allclose(answer.outputs["logits"], expected, rtol=1e-4, atol=1e-5)


def test_lengths_are_free_and_the_source_is_recorded(imported: Path) -> None:
    with Registry(imported, f"sqlite:///{imported}/registry.db") as registry:
        manifest = registry.get("sentiment").manifest
    assert [(spec.name, spec.dtype, spec.shape) for spec in manifest.signature.inputs] == [
        ("input_ids", "INT64", (-1, -1)), ("attention_mask", "INT64", (-1, -1)),
    ]  # fmt: skip
    assert [(spec.name, spec.shape) for spec in manifest.signature.outputs] == [("logits", (-1, 3))]
    assert [variant.name for variant in manifest.variants] == ["onnx-fp32", "pt2-fp32"]
    assert all(variant.errors is not None and variant.errors.max_abs < 1e-4 for variant in manifest.variants)
    found = manifest.lineage["huggingface"]
    assert (found["class"], found["model_type"]) == ("DistilBertForSequenceClassification", "distilbert")
    assert found["labels"] == ["bad", "good", "neither"]


def test_weights_in_several_files_are_read(directory: Path, distilbert: tuple[Path, Any]) -> None:
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for part, inside in parts.items():
        save_file({name: weights[name] for name in inside}, directory / part, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: part for part, inside in parts.items() for name in inside}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    opened = open_hugging_face(directory)
    torch.testing.assert_close(opened.module.model.state_dict(), distilbert[1].state_dict())
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UnsupportedFormat, match=r"model-00002-of-00002\.safetensors is missing"):
        open_hugging_face(directory)


def test_a_pickle_of_weights_is_read_as_data(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(weights, directory / "pytorch_model.bin")
    assert open_hugging_face(directory).lineage["model_type"] == "distilbert"


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    torch.save({"weight": Payload()}, directory / "pytorch_model.bin")


def configured(**changes: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        config = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))

    return change


def without_weights_of_the_classifier(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def truncated(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


FAULTS: dict[str, tuple[Callable[[Path], object], type[PenstockError], str]] = {
    "no weights": (lambda path: (path / "model.safetensors").unlink(), UnsupportedFormat, "neither model.safetensors"),
    "a pickle": (pickled, PenstockError, "pytorch_model.bin"),
    "code of its own": (configured(auto_map={"AutoModel": "modeling.Own"}), Untrusted, 'trust="code"'),
    "no class": (configured(architectures=None), UnsupportedFormat, "no architectures"),
    "an unknown class": (configured(architectures=["OwnNet"]), UnsupportedFormat, "no class OwnNet"),
    "a class that is no model": (configured(architectures=["logging"]), UnsupportedFormat, "no class logging"),
    "no JSON": (lambda path: (path / "config.json").write_text("{"), UnsupportedFormat, "not JSON"),
    "a list": (lambda path: (path / "config.json").write_text("[]"), UnsupportedFormat, "no JSON object"),
    "missing weights": (without_weights_of_the_classifier, ModelLoadError, "lack classifier.weight"),
    "other shapes": (configured(dim=8), ModelLoadError, "DistilBertForSequenceClassification"),
    "truncated weights": (truncated, PenstockError, "model.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_directory_is_one_sentence_and_publishes_nothing(
    directory: Path, tmp_path: Path, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, kind, said = FAULTS[fault]
    damage(directory)
    with Registry(tmp_path / "registry") as registry:
        with pytest.raises(kind) as caught:
            publish_file(registry, directory, name="bad")
        assert registry.list() == []
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "ran" not in capfd.readouterr().out


def test_inputs_that_are_not_known_are_asked_for(directory: Path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, conv_dim=(8,), conv_stride=(4,),
        conv_kernel=(4,), num_conv_pos_embeddings=2, num_conv_pos_embedding_groups=1,
    )  # fmt: skip
    Wav2Vec2Model(config).save_pretrained(directory / "audio")
    with pytest.raises(UnsupportedFormat, match=r"input_values:FP32:.*inputs="):
        open_hugging_face(directory / "audio")
