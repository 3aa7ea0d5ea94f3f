"""Files of a finished training: weights, configuration, and the model as ONNX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.dataset import Variation
from penstock_hydraulics.learning.models.export import export_onnx
from penstock_hydraulics.learning.models.gnn import Architecture, UniversalTemporalGNN
from penstock_hydraulics.learning.training.config import Epoch, TrainingConfig
from penstock_hydraulics.learning.training.fitting import Fitted
from penstock_hydraulics.signals.features import Scales

CHECKPOINT: Final = "checkpoint.pt"
WEIGHTS: Final = "weights.safetensors"
TRAINING: Final = "training.json"
MODEL: Final = "model.onnx"


def refuse_to_overwrite(out: Path) -> None:
    """Raises `InvalidInput` if the directory holds a finished training."""
    if (out / TRAINING).exists():
        raise InvalidInput(f"{out} already holds a trained model; use another directory or remove it")


def save(fitted: Fitted, out: Path) -> tuple[Path, ...]:
    """Write model, weights and `training.json` (last) into `out`; then delete the checkpoint."""
    paths = (out / MODEL, out / WEIGHTS, out / TRAINING)
    export_onnx(fitted.diagnosis(), paths[0])
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
    paths[2].write_text(json.dumps(document) + "\n", encoding="utf-8")
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


def _config(document: Mapping[str, Any]) -> TrainingConfig:
    parts = {"architecture": Architecture(**document["architecture"]), "variation": Variation(**document["variation"])}
    return TrainingConfig(**{**document, **parts})


def _network(architecture: Architecture, tensors: Mapping[str, Any], place: int) -> UniversalTemporalGNN:
    network = UniversalTemporalGNN(architecture)
    network.load_state_dict(
        {name.removeprefix(f"{place}."): tensor for name, tensor in tensors.items() if name.startswith(f"{place}.")}
    )
    return network.eval()
