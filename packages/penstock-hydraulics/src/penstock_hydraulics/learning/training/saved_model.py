"""Files of a training: weights, configuration, the model as ONNX, and checkpoints; each carries its scales."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.dataset import Variation
from penstock_hydraulics.learning.models.export import export_onnx
from penstock_hydraulics.learning.models.gnn import Architecture, UniversalTemporalGNN
from penstock_hydraulics.learning.training.checkpoint import DAMAGED
from penstock_hydraulics.learning.training.config import Epoch, TrainingConfig
from penstock_hydraulics.learning.training.fitting import Fitted
from penstock_hydraulics.signals.features import Scales

CHECKPOINT: Final = "checkpoint.pt"
WEIGHTS: Final = "weights.safetensors"
TRAINING: Final = "training.json"
MODEL: Final = "model.onnx"
FINISHED: Final = "model.ckpt"
"""Weights, configuration and scales in one file, named as in checkpoints of Lightning."""


def refuse_to_overwrite(out: Path) -> None:
    """Raises `InvalidInput` if the directory holds a finished training."""
    if (out / TRAINING).exists():
        raise InvalidInput(f"{out} already holds a trained model; use another directory or remove it")


def save(fitted: Fitted, out: Path) -> tuple[Path, ...]:
    """Write model, weights, checkpoint and `training.json` (last) into `out`; then delete the training's checkpoint."""
    paths = (out / MODEL, out / WEIGHTS, out / FINISHED, out / TRAINING)
    export_onnx(fitted.diagnosis(), paths[0], fitted.scales)
    tensors = {
        f"{place}.{name}": tensor.contiguous()
        for place, network in enumerate(fitted.networks)
        for name, tensor in network.state_dict().items()
    }
    save_file(tensors, paths[1])
    document = {
        "config": asdict(fitted.config),
        "scales": fitted.scales.to_mapping(),
        "history": [asdict(epoch) for epoch in fitted.history],
    }
    _write_checkpoint(fitted, paths[2])
    paths[3].write_text(json.dumps(document) + "\n", encoding="utf-8")
    (out / CHECKPOINT).unlink(missing_ok=True)
    return paths


def read(out: Path) -> Fitted:
    """Read the output of `save`; raises `InvalidInput` that names the directory."""
    try:
        document = json.loads((out / TRAINING).read_text(encoding="utf-8"))
        config = _config(document["config"])
        tensors = load_file(out / WEIGHTS)
        networks = tuple(_network(config.architecture, tensors, place) for place in range(config.members))
        history = tuple(Epoch(**epoch) for epoch in document["history"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InvalidInput(f"{out} holds no readable trained model ({error}); train it again") from error
    return Fitted(networks, Scales.from_mapping(document["scales"]), config, history)


def _write_checkpoint(fitted: Fitted, path: Path) -> None:
    """One network under `model.`, which `ModelManager.load_model` opens, several under `model.<place>.`."""
    single = len(fitted.networks) == 1
    weights = {
        f"model.{name}" if single else f"model.{place}.{name}": tensor
        for place, network in enumerate(fitted.networks)
        for name, tensor in network.state_dict().items()
    }
    arguments = {"config": asdict(fitted.config), "scales": fitted.scales.to_mapping()}
    torch.save({"state_dict": weights, "hyper_parameters": arguments}, path)


def read_checkpoint(path: Path) -> Fitted:
    """A finished checkpoint, or that of a training in progress with its latest weights; no code in it runs.

    Raises `InvalidInput` for a file that is damaged, or that `train` has not written.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        about = content["hyper_parameters"]
        config, scales = _config(about["config"]), Scales.from_mapping(about["scales"])
        if "trainings" in content:
            weights = [training["kept"] for training in content["trainings"]]
            weights = (weights[1:] or weights) if config.validation else weights  # the first finds the epochs only
        else:
            weights = _members(content["state_dict"], config.members)
        networks = tuple(_filled(config.architecture, tensors) for tensors in weights)
    except (*DAMAGED, AttributeError) as error:
        raise InvalidInput(
            f"{path}: it is damaged or no checkpoint that `penstock-hydraulics train` wrote, which carries its scales;"
            " use the directory of a training, or publish the model as an artifact"
        ) from error
    return Fitted(networks, scales, config)


def _members(weights: Mapping[str, Any], members: int) -> list[dict[str, Any]]:
    prefixes = ["model."] if members == 1 else [f"model.{place}." for place in range(members)]
    return [
        {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        for prefix in prefixes
    ]


def _filled(architecture: Architecture, weights: Mapping[str, Any]) -> UniversalTemporalGNN:
    network = UniversalTemporalGNN(architecture)
    network.load_state_dict(weights)
    return network.eval()


def _config(document: Mapping[str, Any]) -> TrainingConfig:
    parts = {"architecture": Architecture(**document["architecture"]), "variation": Variation(**document["variation"])}
    return TrainingConfig(**{**document, **parts})


def _network(architecture: Architecture, tensors: Mapping[str, Any], place: int) -> UniversalTemporalGNN:
    return _filled(
        architecture,
        {name.removeprefix(f"{place}."): tensor for name, tensor in tensors.items() if name.startswith(f"{place}.")},
    )
