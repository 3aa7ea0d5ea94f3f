from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import penstock
from penstock.errors import UnsupportedFormat
from penstock_hydraulics.checkpoints import describe
from penstock_hydraulics.learning.models.export import example_inputs
from penstock_hydraulics.learning.models.gnn import Architecture, UniversalTemporalGNN
from penstock_hydraulics.signals.features import INPUTS

SIZES = Architecture(width=16, attention_heads=2, layers=3, dropout=0.25, edges=False)


def _lightning(path: Path, prefix: str = "model.", **arguments: object) -> UniversalTemporalGNN:
    """A checkpoint as Lightning writes it, and its network."""
    network = UniversalTemporalGNN(SIZES).eval()
    weights = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    arguments = {"lr": 1e-3, "dropout": 0.25, "edges": False, **arguments}
    content = {"state_dict": weights, "hyper_parameters": arguments, "pytorch-lightning_version": "2.4.0", "epoch": 7}
    torch.save(content, path)
    return network


@pytest.mark.parametrize("name", ["rig.ckpt", "rig.pt"])
def test_a_lightning_checkpoint_loads_by_its_path_alone(tmp_path, name):
    network = _lightning(tmp_path / name)
    manager = penstock.ModelManager(tmp_path / "registry", choosing="first", threads=1)
    model = manager.load_model(model_path=tmp_path / name, use_compile=False)
    assert model.info.num_parameters == sum(parameter.numel() for parameter in network.parameters())
    inputs = example_inputs(3, 5, seed=4)
    answers = model.backend.run({name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)})
    with torch.inference_mode():
        wanted = network(*inputs)
    for output, tensor in zip(model.backend.signature.outputs, wanted, strict=True):
        np.testing.assert_allclose(answers[output.name], tensor.numpy(), atol=1e-5)
    manager.close()


def test_sizes_come_from_the_weights_and_the_rest_from_the_arguments():
    shapes = {f"net.{name}": tuple(tensor.shape) for name, tensor in UniversalTemporalGNN(SIZES).state_dict().items()}
    for arguments in ({"dropout": 0.25, "edges": False}, {"architecture": {"dropout": 0.25, "edges": False}}):
        assert describe(shapes, arguments)["architecture_args"] == {"architecture": SIZES}
    assert describe(shapes, {"dropout": "much"})["architecture_args"]["architecture"].dropout == Architecture().dropout


def test_other_weights_and_ensembles_are_not_recognized(tmp_path):
    assert describe({"layer.weight": (3, 4)}, {}) is None
    several = {f"model.{place}.encoder.patches.weight": (16, 7, 5) for place in range(2)}
    assert describe(several, {}) is None
    torch.save({"state_dict": {"layer.weight": torch.zeros(3, 4)}}, tmp_path / "other.ckpt")
    with pytest.raises(UnsupportedFormat, match="does not say which class it fills"):
        penstock.ModelManager(tmp_path / "registry").load_model(tmp_path / "other.ckpt")
