"""What `model_path` may be: a reference, an artifact, a model file, or the output of `penstock-hydraulics train`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from penstock import ModelManager, Registry
from penstock.errors import ModelLoadError
from penstock_hydraulics.signals.features import SCALES, Scales

KIND: Final = "hydraulic-diagnostics"
_MANIFEST: Final = "manifest.json"
_TRAINING: Final = "training.json"
_ONNX: Final = ".onnx"
_CHECKPOINTS: Final = (".ckpt", ".pt", ".pth")
_WEIGHTS: Final = ".safetensors"
_WHAT: Final = "the output directory of `penstock-hydraulics train`, a file of it, or an artifact"


class ModelSource(NamedTuple):
    """What an engine loads: a reference of `registry`, or a file with the configuration of its task."""

    registry: Registry
    ref: str
    config: Mapping[str, Any] | None = None


def find_model(path: Path | str, registry: Registry, scratch: Path) -> ModelSource:
    """The model that `path` names, prepared in the directory `scratch` where it is no reference.

    Weights are exported to ONNX, which takes PyTorch (`penstock-hydraulics[train]`) and some seconds. Raises
    ModelNotFound, or ModelLoadError naming what the path lacks.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return _of_directory(place, scratch)
    if place.suffix.lower() not in (_ONNX, _WEIGHTS, *_CHECKPOINTS):
        registry.ensure(str(path))
        return ModelSource(registry, str(path))
    if not place.is_file():
        raise ModelLoadError(f"{place}: there is no such model file")
    if place.suffix.lower() == _ONNX:
        return _of_onnx(place, scratch)
    return _of_weights(place, scratch)


def _of_directory(place: Path, scratch: Path) -> ModelSource:
    if (place / _MANIFEST).is_file():
        registry = Registry(scratch / "registry")
        artifact = registry.publish(place, prove=False)  # it is loaded next, which proves it
        return ModelSource(registry, f"{artifact.name}:{artifact.version}")
    if (place / _TRAINING).is_file():
        return _of_onnx(place / "model.onnx", scratch)
    raise ModelLoadError(f"{place}: the directory holds neither {_MANIFEST} nor {_TRAINING}; name {_WHAT}")


def _of_onnx(path: Path, scratch: Path) -> ModelSource:
    """A model with the scales that it carries, or that the training wrote beside it."""
    registry = Registry(scratch / "registry")
    beside = path.with_name(_TRAINING)
    scales = _scales_in(path, registry)
    if scales is None and beside.is_file():
        scales = _scales_beside(beside)
    if scales is None:
        raise ModelLoadError(f"{path}: the file carries no scales of its readings; name {_WHAT}")
    return ModelSource(registry, str(path), {"scales": scales})


def _scales_in(path: Path, registry: Registry) -> dict[str, Any] | None:
    manager = ModelManager(registry, choosing="first")
    try:
        text = manager.load_model(path, task="tensor").backend.metadata.get(SCALES)
    finally:
        manager.close()
    try:
        return None if text is None else dict(json.loads(text))
    except (ValueError, TypeError):
        raise ModelLoadError(f"{path}: its scales are damaged; train or export it again") from None


def _scales_beside(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["scales"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelLoadError(f"{path}: it holds no scales; train the model again") from None


def _of_weights(path: Path, scratch: Path) -> ModelSource:
    try:
        from penstock_hydraulics.learning.models.export import export_onnx
        from penstock_hydraulics.learning.training.saved_model import read, read_checkpoint
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"{path}: weights are exported before they run, which needs {error.name}; install"
            " 'penstock-hydraulics[train]', or name the model.onnx of the training"
        ) from None
    fitted = read(path.parent) if path.suffix.lower() == _WEIGHTS else read_checkpoint(path)
    exported = scratch / f"{path.stem}.onnx"
    export_onnx(fitted.diagnosis(), exported)
    scales: Scales = fitted.scales
    return ModelSource(Registry(scratch / "registry"), str(exported), {"scales": scales.to_mapping()})
