"""Opens the model of an artifact for techniques: as a PyTorch module, as an ONNX file, or as both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from penstock.artifacts.artifact import Artifact, Variant
from penstock.backends.base import ModelFile
from penstock.backends.catalog import module_of
from penstock.backends.examples import Examples
from penstock.errors import InferenceError, InvalidInput, ModelLoadError
from penstock.scan.gate import require_allowed
from penstock.scan.scanner import scan_file
from penstock.tensors import Arrays
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.recipes.subject import Subject

_WITH_MODULE = ("pytorch", "pt2")
_ROWS = 2


def subject_of(artifact: Artifact, trust: str = "data") -> Subject:
    """The model of an artifact in the forms that techniques can change; its files are not changed.

    The module is that of the fp32 PyTorch variant (its class filled with its weights), else the program of the .pt2
    variant; the ONNX file is the fp32 ONNX variant. A form that `trust` does not cover or that cannot be opened is left
    out, with a note that says why. Raises InvalidInput when none is left.
    """
    notes: list[str] = []
    module = _module(artifact, trust, notes)
    onnx = next((variant for variant in _fp32(artifact, "onnx") if _is_allowed(artifact, variant, trust, notes)), None)
    if module is None and onnx is None:
        has = ", ".join(variant.name for variant in artifact.variants)
        why = f" ({'; '.join(notes)})" if notes else ""
        raise InvalidInput(
            f"{artifact.ref}: techniques need an fp32 variant of the format onnx, pytorch or pt2, and none of {has} "
            f"can be used{why}; publish it with `penstock export`",
            field="ref",
        )
    path = None if onnx is None else artifact.variant_path(onnx)
    return Subject(artifact.name, artifact.signature, module=module, onnx=path, notes=tuple(notes))


def _fp32(artifact: Artifact, format: str) -> Iterator[Variant]:
    return (variant for variant in artifact.variants if variant.format == format and variant.precision == "fp32")


def _is_allowed(artifact: Artifact, variant: Variant, trust: str, notes: list[str]) -> bool:
    """True when the variant's files are intact and hold nothing beyond `trust`; else a note says what they hold."""
    try:
        artifact.verify(variant)
        require_allowed(scan_file(artifact.variant_path(variant), variant.format), trust)
    except ModelLoadError as error:
        notes.append(f"the variant {variant.name} is left out: {error}")
        return False
    return True


def _module(artifact: Artifact, trust: str, notes: list[str]) -> ModuleSource | None:
    for variant in (variant for format in _WITH_MODULE for variant in _fp32(artifact, format)):
        try:
            return _source(artifact, variant, trust)
        except (ModelLoadError, InferenceError, InvalidInput) as error:
            notes.append(f"the module of the variant {variant.name} is left out: {error}")
    return None


def _source(artifact: Artifact, variant: Variant, trust: str) -> ModuleSource:
    artifact.verify(variant)
    weights = artifact.variant_path(variant)
    file = ModelFile(weights, artifact.signature, variant.architecture, variant.architecture_args)
    module = module_of(variant.format, file, trust)
    source = ModuleSource(
        artifact.name, module, artifact.signature, {}, variant.architecture, variant.architecture_args
    )
    return replace(source, example=_example(artifact, source))


def _example(artifact: Artifact, source: ModuleSource) -> Arrays:
    """Golden samples where there are some, else inputs that the module was seen to run with."""
    backend = source.reference()
    try:
        return Examples(backend, source.signature, artifact.golden()).of(_ROWS)
    finally:
        backend.close()
