"""Directories of Hugging Face, and classes in the working directory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from configured_networks import Config, TinyForClassification
from safetensors.torch import save_file

from penstock.cli.models.import_file import publish_file
from penstock.engine.predictor.predictor import Predictor
from penstock.errors import UnsupportedFormat
from penstock.file_description import FileDescription, parse_tensors
from penstock.options import EngineOptions
from penstock.registry.registry import Registry
from penstock.tensors import Signature

INPUTS = Signature(parse_tensors(["mask:FP32:-1x4", "values:FP32:-1x4"]), ())  # not in the order of `forward`


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny"
    directory.mkdir()
    torch.manual_seed(0)
    save_file(TinyForClassification(Config(16, 3)).state_dict(), directory / "model.safetensors")
    config = {"model_type": "tiny", "architectures": ["TinyForClassification"], "hidden_size": 16, "num_labels": 3}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("name", ["AutoModelForClassification", "TinyForClassification"])
def test_a_directory_with_a_configuration_is_imported_by_the_class_of_its_weights(
    tmp_path: Path, directory: Path, name: str
) -> None:
    about = FileDescription(architecture=f"configured_networks:{name}", signature=INPUTS)
    torch.manual_seed(0)
    model = TinyForClassification(Config(16, 3)).eval()
    values, mask = torch.randn(2, 4), torch.tensor([[1.0, 1, 0, 1]] * 2)
    with Registry(tmp_path / "registry") as registry:
        artifact = publish_file(registry, directory, trust="code", description=about)
        assert artifact.ref == "tiny:v1.0"
        assert artifact.variants[0].architecture_args["num_labels"] == 3
        with Predictor(artifact.ref, registry=registry, config=EngineOptions(trust="code"), task="tensor") as predictor:
            arrays = predictor.predict({"inputs": {"values": values.numpy(), "mask": mask.numpy()}})
    np.testing.assert_allclose(arrays.outputs["logits"], model(values, mask)["logits"].detach(), rtol=1e-5)


def test_a_directory_that_lacks_something_is_refused_by_what_it_lacks(tmp_path: Path, directory: Path) -> None:
    with Registry(tmp_path / "registry") as registry:
        with pytest.raises(UnsupportedFormat, match=r"no class TinyForClassification; .*architecture=.module:Class"):
            publish_file(registry, directory, trust="code")
        (directory / "model.safetensors").unlink()
        with pytest.raises(UnsupportedFormat, match=r"neither model\.safetensors nor pytorch_model\.bin is in it"):
            publish_file(registry, directory, trust="code")
        (directory / "config.json").unlink()
        with pytest.raises(UnsupportedFormat, match=r"a directory without config\.json"):
            publish_file(registry, directory, trust="code")


def test_a_class_in_the_working_directory_is_found_under_trust_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets_of_this_test.py").write_text(
        "from torch import nn\n\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 2)\n"
    )
    save_file(torch.nn.Linear(4, 2).state_dict(), tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    about = FileDescription(
        architecture="nets_of_this_test:Net", signature=Signature(parse_tensors(["x:FP32:-1x4"]), ())
    )
    with Registry(tmp_path / "registry") as registry:
        assert publish_file(registry, tmp_path / "m.safetensors", trust="code", description=about).ref == "m:v1.0"
