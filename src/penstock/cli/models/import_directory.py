"""What `penstock models import` takes from a directory: of MLflow, or of Hugging Face."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from penstock.errors import InvalidInput, UnsupportedFormat
from penstock.file_description import FileDescription, parse_arguments, read_text
from penstock.scan.scanner import scan_file
from penstock.toolchain.interchange.mlflow_model import MLMODEL, MlflowModel, is_mlflow, read_mlflow
from penstock.toolchain.interchange.mlflow_signature import UNNAMED

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What Hugging Face names the weights of a model."""
_CONFIG = "config.json"


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
    if (directory / _CONFIG).is_file():
        return DirectoryModel(*_of_hugging_face(directory, about), {})
    raise UnsupportedFormat(
        f"{directory}: this is a directory without {_CONFIG} (of Hugging Face) or {MLMODEL} (of MLflow); name the "
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
    """The weights in a directory of Hugging Face, with its `config.json` as the arguments of their class.

    Raises UnsupportedFormat if there are no weights, or if the class is not named.
    """
    config = directory / _CONFIG
    try:
        settings = parse_arguments(read_text(config))
    except ValueError as error:
        raise UnsupportedFormat(f"{config}: it is no JSON object: {error}") from None
    weights = [directory / name for name in _WEIGHTS if (directory / name).is_file()]
    if not weights:
        raise UnsupportedFormat(
            f"{directory}: neither {' nor '.join(_WEIGHTS)} is in it; weights in several files are saved as one with "
            'save_pretrained(…, max_shard_size="100GB")'
        )
    if about.architecture is None:
        class_name = next(iter(settings.get("architectures") or ["AutoModelFor…"]))
        raise UnsupportedFormat(f"{directory}: name the class of its weights, --architecture transformers:{class_name}")
    return weights[0], replace(about, architecture_args={**settings, **about.architecture_args})
