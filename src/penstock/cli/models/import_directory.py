"""What `penstock models import` takes from a directory: of MLflow, or of Hugging Face."""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from importlib import invalidate_caches
from pathlib import Path
from typing import Any, NamedTuple

from penstock.artifacts.artifact import Artifact
from penstock.backends.catalog import holds_module
from penstock.backends.torch.state_dict import read_module
from penstock.errors import InvalidInput, UnsupportedFormat
from penstock.file_description import FileDescription
from penstock.registry.registry import Registry
from penstock.scan.scanner import scan_file
from penstock.toolchain.export.source import module_source
from penstock.toolchain.interchange.huggingface import CONFIG, open_hugging_face, read_config
from penstock.toolchain.interchange.mlflow_model import MLMODEL, PICKLE, MlflowModel, is_mlflow, read_mlflow
from penstock.toolchain.interchange.mlflow_signature import UNNAMED
from penstock.toolchain.publishing.exporting import ExportRequest, export_and_publish, require_published

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What Hugging Face names the weights of a model."""
_FORMS = ("onnx", "pt2")
"""What a model of transformers is exported to: what most CPUs run fastest, and what recipes can change."""


class DirectoryModel(NamedTuple):
    """The model file in a directory, what the directory says of it, and what goes into the lineage."""

    file: Path
    description: FileDescription
    lineage: dict[str, Any]


def model_in(directory: Path, about: FileDescription) -> DirectoryModel:
    """The model in a directory; what the user says, `about`, comes before what the directory says.

    Raises UnsupportedFormat for a directory that is of neither kind, or lacks something.
    """
    if is_mlflow(directory):
        return _of_mlflow(directory, about)
    if (directory / CONFIG).is_file():
        return DirectoryModel(*_of_hugging_face(directory, about), {})
    raise UnsupportedFormat(
        f"{directory}: this is a directory without {CONFIG} (of Hugging Face) or {MLMODEL} (of MLflow); name the "
        "model file in it"
    )


def _of_mlflow(directory: Path, about: FileDescription) -> DirectoryModel:
    model = read_mlflow(directory)
    lineage = {"mlflow": {"flavor": model.flavor, **model.lineage}}
    return DirectoryModel(model.file, _described(directory, model, about), lineage)


def _described(directory: Path, model: MlflowModel, about: FileDescription) -> FileDescription:
    """The user's description, with inputs and an example of `MLmodel` where the user gives none."""
    if about.signature is not None or about.example is not None:
        return about
    signature = model.signature if _lacks_signature(model.file) else None
    if signature is None and _lacks_signature(model.file):
        raise InvalidInput(
            f"input: {directory / MLMODEL} has no signature of tensors; describe the model's inputs, as in "
            "--input x:FP32:-1x784, or give an --example",
            field="input",
        )
    return replace(about, signature=signature, example=_checked_example(model))


def _lacks_signature(file: Path) -> bool:
    """True for TorchScript, weights and pickles, which do not record their inputs."""
    return scan_file(file).kind not in ("onnx", "pt2", "aoti")


def _checked_example(model: MlflowModel) -> Any:
    """The example if it fits the signature: MLflow stores examples of every kind, also such as no model takes.

    Arrays by name, or in their order where MLflow's signature names none.
    """
    if model.example is None or model.signature is None:
        return None
    try:
        arrays = model.signature.validate(model.example)[0]
    except InvalidInput:
        return None
    return tuple(arrays.values()) if UNNAMED in arrays else arrays


def _of_hugging_face(directory: Path, about: FileDescription) -> tuple[Path, FileDescription]:
    """The weights in a directory of Hugging Face, with its `config.json` as the arguments of their class."""
    settings = read_config(directory)
    weights = [directory / name for name in _WEIGHTS if (directory / name).is_file()]
    if not weights:
        raise UnsupportedFormat(
            f"{directory}: neither {' nor '.join(_WEIGHTS)} is in it; weights in several files are read without "
            "--architecture, by transformers"
        )
    return weights[0], replace(about, architecture_args={**settings, **about.architecture_args})


def is_hugging_face(directory: Path) -> bool:
    """True for a directory with `config.json`."""
    return directory.is_dir() and (directory / CONFIG).is_file() and not is_mlflow(directory)


def publish_hugging_face(
    models: Registry,
    directory: Path,
    name: str,
    version: str,
    card: str | None,
    trust: str,
    about: FileDescription,
    reference: Path | None = None,
    log_inputs: bool | None = None,
) -> Artifact:
    """Open a directory with transformers, export the model, and publish what agrees with it.

    Raises what `open_hugging_face` and an export raise; the registry is as before then.
    """
    if about.batch_axes or about.no_batch:
        raise InvalidInput(
            "batch_axis: the batch of a model of transformers is axis 0; leave it out", field="batch_axis"
        )
    inputs = about.signature.inputs if about.signature is not None else ()
    opened = open_hugging_face(directory, trust, inputs)
    example = opened.example if about.example is None else about.example
    source = module_source(opened.module, example, name=name, dynamic=opened.dynamic)
    request = replace(
        _request(name, version, card, about),
        origin=f"{opened.lineage['class']} in {directory.name}",
        made_up=about.example is None,
        lineage={"huggingface": dict(opened.lineage)},
        reference=reference,
        log_inputs=log_inputs,
    )
    return require_published(export_and_publish(models, source, request))


def pickled_with_code(directory: Path) -> MlflowModel | None:
    """A directory of MLflow that holds a module as a pickle, with the Python files of its classes; else None."""
    if not (directory.is_dir() and is_mlflow(directory)):
        return None
    model = read_mlflow(directory)
    return (
        model if model.code is not None and model.file.name == PICKLE and holds_module(model.file, "pytorch") else None
    )


def publish_pickled(
    models: Registry,
    pickle: MlflowModel,
    name: str,
    version: str,
    card: str | None,
    trust: str,
    about: FileDescription,
    reference: Path | None = None,
    log_inputs: bool | None = None,
) -> Artifact:
    """Open a pickle with the classes beside it, export the module, and publish what agrees with it.

    A server has no such classes, so the pickle itself is not published. Raises Untrusted unless `trust` covers code.
    """
    module = _module(pickle, trust)
    example = _example_of(pickle, about)
    if example is None:
        raise InvalidInput(
            "example: the module is exported, since its classes are in the directory only; give an input that it runs "
            "with, --example FILE",
            field="example",
        )
    source = module_source(module, example, name=name, dynamic=_dynamic(module, pickle))
    lineage = {"mlflow": {"flavor": pickle.flavor, **pickle.lineage}}
    request = replace(
        _request(name, version, card, about),
        origin=type(module).__name__,
        lineage=lineage,
        reference=reference,
        log_inputs=log_inputs,
    )
    return require_published(export_and_publish(models, source, request))


def _module(pickle: MlflowModel, trust: str) -> Any:
    """The module, its classes found in the directory after everything that is installed."""
    code = str(pickle.code)
    sys.path.append(code)
    invalidate_caches()
    try:
        return read_module(pickle.file, trust)
    finally:
        sys.path.remove(code)


def _example_of(model: MlflowModel, about: FileDescription) -> Any:
    if about.example is not None:
        return about.example
    found = _checked_example(model)
    return tuple(found.values()) if isinstance(found, dict) else found


def _dynamic(module: Any, model: MlflowModel) -> dict[str, list[int]]:
    """The free axes of MLflow's signature, by the parameters of `forward` in their order."""
    specs = model.signature.inputs if model.signature is not None else ()
    names = inspect.signature(module.forward).parameters
    return {
        name: [axis for axis, n in enumerate(spec.shape) if n < 0] for name, spec in zip(names, specs, strict=False)
    }


def _request(name: str, version: str, card: str | None, about: FileDescription) -> ExportRequest:
    described = FileDescription(task=about.task, labels=about.labels, preprocess=about.preprocess)
    return ExportRequest(name=name, version=version, forms=_FORMS, about=described, card=card)
