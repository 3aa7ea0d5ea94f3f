"""Writes a version as a directory that MLflow loads, with files that need no pickle where there is such a variant."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from penstock.artifacts.artifact import Artifact, Variant
from penstock.artifacts.files import write_durable
from penstock.errors import InvalidInput
from penstock.toolchain.interchange.mlflow_model import MLMODEL, PICKLE, PROGRAM
from penstock.toolchain.interchange.mlflow_signature import to_mlflow
from penstock.toolchain.interchange.plain_files import copy_variant
from penstock.toolchain.interchange.programs import write_program
from penstock.toolchain.interchange.yaml_text import to_yaml

EXAMPLE_ROWS = 2
_FLAVOR_OF = {"onnx": "onnx", "pt2": "pytorch", "pytorch": "pytorch", "torchscript": "pytorch"}
"""By format, the preferred one first."""
_DATA = "data"
_PICKLE_MODULE = "mlflow.pytorch.pickle_module"


@dataclass(frozen=True)
class Written:
    """What was written: the flavor, the variant in it, and sentences for the user."""

    flavor: str
    variant: str
    notes: tuple[str, ...] = ()


def mlflow_variant(artifact: Artifact, name: str | None = None) -> Variant:
    """The variant to write: the one that is named, else the first of the formats onnx, pt2, pytorch and torchscript.

    Raises InvalidInput for a named one that MLflow has no flavor for, or if no variant has such a format.
    """
    if name is not None:
        variant = artifact.manifest.variant(name)
        if variant.format in _FLAVOR_OF:
            return variant
        raise InvalidInput(
            f"{artifact.ref}: MLflow has no flavor for the format {variant.format} of the variant {name}; write its "
            "files as they are, plain=True",
            field="variant",
        )
    found = (variant for format in _FLAVOR_OF for variant in artifact.variants if variant.format == format)
    chosen = next(found, None)
    if chosen is None:
        formats = ", ".join(variant.format for variant in artifact.variants)
        raise InvalidInput(
            f"{artifact.ref}: MLflow has no flavor for {formats}; write the files as they are, plain=True"
        )
    return chosen


def write_mlflow(artifact: Artifact, variant: Variant, target: Path, trust: str = "data") -> Written:
    """Write one variant to the empty directory `target`; weights alone become a program first.

    Raises IntegrityError for a file that was altered, InvalidInput where building the class of weights needs more
    `trust`, and ExportFailed for a class that cannot be exported.
    """
    if variant.format == "onnx":
        copy_variant(artifact, variant, target)
        return _finish(artifact, variant.name, target, _onnx(variant), ("onnx", "onnxruntime"))
    data = target / _DATA
    data.mkdir()
    notes: tuple[str, ...] = ()
    if variant.format == "pytorch":
        write_program(artifact, variant, data / PROGRAM, trust)
        notes = (f"the weights of {variant.name} were exported to a program, since MLflow would pickle the module",)
    else:
        copy_variant(artifact, variant, data)
        notes = _as_pickle(data, variant) if variant.format == "torchscript" else ()
    return _finish(artifact, variant.name, target, _pytorch(artifact), ("torch",), notes)


def _as_pickle(data: Path, variant: Variant) -> tuple[str, ...]:
    """Rename TorchScript to what MLflow opens it as."""
    (data / Path(variant.file).name).rename(data / PICKLE)
    write_durable(data / "pickle_module_info.txt", _PICKLE_MODULE.encode())
    return ("MLflow opens TorchScript only where MLFLOW_ALLOW_PICKLE_DESERIALIZATION=true is set",)


def _onnx(variant: Variant) -> dict[str, Any]:
    name = Path(variant.file).name
    flavor = {"onnx_version": _version("onnx"), "data": name, "providers": ["CPUExecutionProvider"], "code": None}
    return {"onnx": flavor, "python_function": _function("mlflow.onnx", name)}


def _pytorch(artifact: Artifact) -> dict[str, Any]:
    """The flavor `pytorch`, and `python_function` for a model of one input, the only one that MLflow passes on."""
    flavor = {"model_data": _DATA, "pytorch_version": _version("torch"), "code": None}
    if not _by_array(artifact):
        return {"pytorch": flavor}
    function = {
        **_function("mlflow.pytorch", _DATA),
        "pickle_module_name": _PICKLE_MODULE,
        "model_config": {"device": None},
    }
    return {"pytorch": flavor, "python_function": function}


def _function(loader: str, data: str) -> dict[str, Any]:
    return {
        "loader_module": loader,
        "data": data,
        "python_version": platform.python_version(),
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
    }


def _by_array(artifact: Artifact) -> bool:
    return len(artifact.signature.inputs) == 1


def _version(package: str) -> str:
    """The installed version; a model that was published elsewhere is written without its runtime as well."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _finish(
    artifact: Artifact,
    variant: str,
    target: Path,
    flavors: Mapping[str, Any],
    packages: Sequence[str],
    notes: tuple[str, ...] = (),
) -> Written:
    """The files beside the model: MLmodel, its requirements, an input example and the card."""
    named = "onnx" in flavors or not _by_array(artifact)
    document = {
        "flavors": flavors,
        "model_uuid": artifact.digest[:32],
        "utc_time_created": _time(artifact.manifest.created_at),
        "signature": to_mlflow(artifact.signature, named=named),
        **_examples(artifact, target, named=named),
        "metadata": {"penstock": _facts(artifact, variant)},
    }
    mlflow = next((name for name in (_version("mlflow"), _version("mlflow-skinny")) if name != "unknown"), None)
    if mlflow is not None:
        document["mlflow_version"] = mlflow
    requirements = [_pinned("mlflow", mlflow), *(_pinned(name, _version(name)) for name in packages)]
    _write(target / MLMODEL, to_yaml(document))
    _write(target / "requirements.txt", "".join(f"{line}\n" for line in requirements))
    python = platform.python_version()
    _write(target / "python_env.yaml", to_yaml({"python": python, "dependencies": ["-r requirements.txt"]}))
    conda = [f"python={python}", "pip", {"pip": requirements}]
    _write(target / "conda.yaml", to_yaml({"name": "mlflow-env", "channels": ["conda-forge"], "dependencies": conda}))
    if text := artifact.card_text():
        _write(target / "README.md", text)
    return Written(next(iter(flavors)), variant, notes)


def _pinned(package: str, version: str | None) -> str:
    return package if version in (None, "unknown") else f"{package}=={version}".partition("+")[0]


def _time(created_at: str) -> str:
    """As MLflow writes times, in UTC without its offset."""
    return datetime.fromisoformat(created_at).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def _facts(artifact: Artifact, variant: str) -> dict[str, Any]:
    """What MLflow has no place for."""
    signature = artifact.signature
    dims = {spec.name: list(spec.dims) for spec in (*signature.inputs, *signature.outputs) if any(spec.dims)}
    names = {side: [spec.name for spec in getattr(signature, side)] for side in ("inputs", "outputs")}
    return {
        "ref": artifact.ref,
        "digest": artifact.digest,
        "variant": variant,
        "task": artifact.manifest.task.kind,
        **names,
        **({"dims": dims} if dims else {}),
        **({"batch_axes": dict(signature.batch_axes)} if signature.batch_axes else {}),
    }


def _examples(artifact: Artifact, target: Path, *, named: bool) -> dict[str, Any]:
    """The first golden samples as MLflow's input example; nothing without any."""
    golden = artifact.golden()
    if golden is None:
        return {}
    rows = {name: array if golden.whole else array[:EXAMPLE_ROWS] for name, array in golden.inputs.items()}
    values = {name: np.asarray(array).tolist() for name, array in rows.items()}
    example = values if named else next(iter(values.values()))
    _write(target / "input_example.json", json.dumps(example))
    _write(target / "serving_input_example.json", json.dumps({"inputs": example}))
    return {
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "ndarray",
        }
    }


def _write(path: Path, text: str) -> None:
    write_durable(path, text.encode())
