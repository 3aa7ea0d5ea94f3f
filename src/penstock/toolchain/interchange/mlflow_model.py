"""Reads a directory that MLflow wrote: its model file, and what `MLmodel` says of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from penstock.artifacts.refs import shown
from penstock.artifacts.variant import check_path
from penstock.documents import read_json, read_yaml
from penstock.errors import UnsupportedFormat
from penstock.tensors import Signature
from penstock.toolchain.interchange.mlflow_signature import from_mlflow

MLMODEL = "MLmodel"
PROGRAM, PICKLE, STATE_DICT = "model.pt2", "model.pth", "state_dict.pth"
"""What MLflow's PyTorch flavor names its files: an exported program, a module or TorchScript, weights."""

_FLAVORS = ("onnx", "pytorch")
_LINEAGE = ("run_id", "model_id", "model_uuid", "utc_time_created", "mlflow_version")


class MlflowModel(NamedTuple):
    """A directory of MLflow.

    `file` is the model file, `signature` its inputs without outputs, `example` an input by name, both None where
    `MLmodel` has none. `code` is the directory of Python modules that came with the model. `lineage` are the run and
    model that MLflow recorded.
    """

    flavor: str
    file: Path
    signature: Signature | None
    example: Any
    code: Path | None
    lineage: dict[str, Any]


def is_mlflow(directory: Path) -> bool:
    """True for a directory with the file `MLmodel`."""
    return (directory / MLMODEL).is_file()


def read_mlflow(directory: Path) -> MlflowModel:
    """Read `MLmodel` and find the model file of its flavor `onnx` or `pytorch`; nothing of the model is opened.

    Raises UnsupportedFormat for another flavor, a file that is missing, or a path that leaves the directory.
    """
    path = directory / MLMODEL
    document = read_yaml(path)
    flavors = document.get("flavors")
    if not isinstance(flavors, Mapping) or not flavors:
        raise UnsupportedFormat(f"{path}: it names no flavors")
    flavor = next((name for name in _FLAVORS if name in flavors), None)
    if flavor is None:
        found = ", ".join(shown(str(name)) for name in flavors if name != "python_function") or "python_function"
        raise UnsupportedFormat(
            f"{path}: its flavor is {found}; Penstock imports MLflow's flavors {' and '.join(_FLAVORS)}; export the "
            "model to ONNX"
        )
    settings = flavors[flavor] if isinstance(flavors[flavor], Mapping) else {}
    file = _onnx_file(directory, settings) if flavor == "onnx" else _pytorch_file(directory, settings)
    code = settings.get("code")
    signature = from_mlflow(document.get("signature"), str(path))
    return MlflowModel(
        flavor,
        file,
        signature,
        _example(directory, document, signature),
        _inside(directory, code) if isinstance(code, str) and code else None,
        {name: document[name] for name in _LINEAGE if isinstance(document.get(name), str) and document[name]},
    )


def _onnx_file(directory: Path, settings: Mapping[str, Any]) -> Path:
    file = _inside(directory, settings.get("data") or "model.onnx")
    if not file.is_file():
        raise UnsupportedFormat(f"{directory}: the file {file.relative_to(directory)} of its flavor onnx is missing")
    return file


def _pytorch_file(directory: Path, settings: Mapping[str, Any]) -> Path:
    data = _inside(directory, settings.get("model_data") or "data")
    names = (PROGRAM, PICKLE, STATE_DICT)
    found = next((data / name for name in names if (data / name).is_file()), None)
    if found is None:
        raise UnsupportedFormat(
            f"{directory}: its flavor pytorch has none of {', '.join(names)} in {data.relative_to(directory)}"
        )
    return found


def _inside(directory: Path, name: object) -> Path:
    """A path of `MLmodel`; raises UnsupportedFormat for one that leaves the directory."""
    try:
        if not isinstance(name, str):  # an alias in YAML may stand for more than fits into a text
            raise ValueError("a path in it is not a text")
        path = directory / check_path(name)
    except ValueError as error:
        raise UnsupportedFormat(f"{directory / MLMODEL}: {error}") from None
    if not path.resolve().is_relative_to(directory.resolve()):
        raise UnsupportedFormat(f"{directory / MLMODEL}: {name!r} is a link that leaves the directory")
    return path


def _example(directory: Path, document: Mapping[str, Any], signature: Signature | None) -> Any:
    """The input example by the names of the signature; None without one, or of a kind that no model takes."""
    info = document.get("saved_input_example_info")
    name = info.get("artifact_path") if isinstance(info, Mapping) else None
    if name is None or signature is None:
        return None
    content = read_json(_inside(directory, name))
    if isinstance(content, Mapping) and isinstance(content.get("data"), list):  # a table, split into its parts
        content = content["data"]
    elif isinstance(content, Mapping) and "inputs" in content:
        content = content["inputs"]
    if isinstance(content, Mapping):
        return {str(name): value for name, value in content.items()}
    return {signature.inputs[0].name: content} if len(signature.inputs) == 1 else None
