"""Whether a recipe that runs again gives the same file, and why not."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from penstock.artifacts.files import sha256_of
from penstock.backends.devices import cpu_flags
from penstock.tensors import Arrays
from penstock.toolchain.recipes.making import Made
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.recipes.subject import Materials, Subject

_LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch", "torchao", "torch-pruning", "openvino", "nncf")

_VARIES = {
    "torchscript": "TorchScript numbers its classes within a process; make it in a new one",
    "aoti": "the C++ compiler records its directories",
    **dict.fromkeys(
        ("onnx", "openvino", "pt2"), "a library or a function of yours draws random numbers without a seed"
    ),
}
"""Why files of a format may differ although nothing else does."""


def circumstances(recipe: Recipe, subject: Subject, materials: Materials) -> dict[str, str]:
    """What the bytes of a result follow from, by name: recipe, model, data, seed, libraries and processor."""
    found = {"recipe": recipe.digest, "model": _model(subject), "seed": str(materials.seed)}
    if materials.data is not None:
        found["data"] = _arrays(materials.data)
    if materials.labels is not None:
        found["labels"] = _arrays({"labels": materials.labels})
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    flags = sha256_of(" ".join(sorted(cpu_flags())).encode())[:12]
    return {**found, "processor": f"{platform.machine()}, flags {flags}"}


def why_other(made: Made, digest: str, before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Why a recipe gave another file than the one of `digest`, made in other circumstances; None if it is the same."""
    if made.digest == digest:
        return None
    changed = [name for name in before if before[name] != now.get(name)]
    changed += [name for name in now if name not in before]
    if not changed:
        return f"the same recipe, model, data and libraries gave other bytes: {_VARIES[made.exported.format]}"
    return "the file is another one, since " + " and ".join(_change(name, before, now) for name in changed)


def _change(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    if name in _LIBRARIES or name == "seed":
        return f"{name} was {before.get(name, 'not there')} and is {now.get(name, 'not there')}"
    if name not in before or name not in now:
        return f"there {'are' if name in ('data', 'labels') else 'is'} {'now' if name in now else 'no longer'} {name}"
    return f"the {name} {'are' if name in ('data', 'labels') else 'is'} another"


def _model(subject: Subject) -> str:
    """The content of the forms: the ONNX file, and the weights of the module."""
    content = hashlib.sha256()
    if subject.onnx is not None:
        content.update(subject.onnx.read_bytes())
    if subject.module is not None:
        for name, tensor in sorted(subject.module.module.state_dict().items()):
            content.update(name.encode() + tensor.detach().contiguous().float().numpy().tobytes())
    return content.hexdigest()


def _arrays(arrays: Arrays) -> str:
    content = hashlib.sha256()
    for name in sorted(arrays):
        content.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    return content.hexdigest()
