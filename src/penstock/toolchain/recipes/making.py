"""Carries out recipes: applies the techniques in their order and writes the model in the format of the result."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from penstock.artifacts.files import sha256_of
from penstock.artifacts.variant import default_variant_name
from penstock.formats import FORMATS as ROWS
from penstock.toolchain.export.exported import Exported, ExportFailed
from penstock.toolchain.export.forms import FORMS, export_form
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.recipes.forms import companions_of, directory, in_module_order, need_module, need_onnx
from penstock.toolchain.recipes.openvino_form import write_openvino
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.recipes.subject import Materials, Subject


@dataclass(frozen=True)
class Made:
    """The file that a recipe wrote, and the subject that it was written from, with the notes of every technique."""

    exported: Exported
    subject: Subject

    @property
    def digest(self) -> str:
        """The sha256 over the contents of the files: the same for the same recipe, model, data and libraries."""
        companions = self.exported.companions
        files = [self.exported.path, *(companions[name] for name in sorted(companions))]
        return sha256_of("".join(sha256_of(file.read_bytes()) for file in files).encode())


def make(recipe: Recipe, subject: Subject, materials: Materials) -> Made:
    """Carry out a recipe; every file is below `materials.scratch`, and those of the subject stay as they are.

    Raises InvalidInput when the recipe does not fit the model or the data, ExportFailed when the result cannot be
    written in the recipe's format, UnsupportedFormat when a package that a technique needs is not installed.
    """
    recipe = recipe.checked()
    steps = len(recipe.techniques) + 1
    with _seeded(materials.seed):
        for number, technique in enumerate(recipe.techniques):
            materials.progress(technique.kind, number / steps)
            subject = technique.apply(subject, _part(materials, number, steps))
        materials.progress(recipe.format, (steps - 1) / steps)
        exported, subject = _WRITERS[recipe.format](subject, materials)
    materials.progress(recipe.format, 1.0)
    written: dict[str, Any] = {"exporter": "; then ".join(subject.writers) or exported.exporter, "notes": subject.notes}
    return Made(replace(exported, name=_name(recipe, subject), **written), subject)


def _part(materials: Materials, number: int, steps: int) -> Materials:
    """The materials of one step: the share that it reports is its own, the share that is passed on is that of all."""
    whole = materials.progress
    return replace(materials, progress=lambda step, share: whole(step, (number + share) / steps))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed what libraries draw from, and restore the state at the end: a recipe gives the same file each time."""
    python, state = random.getstate(), np.random.get_state()  # noqa: NPY002  libraries draw from it
    torch = sys.modules.get("torch")
    drawn = None if torch is None else torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if torch is not None:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(state)  # noqa: NPY002
        if torch is not None:
            torch.set_rng_state(drawn)


def _name(recipe: Recipe, subject: Subject) -> str:
    """Such as onnx-int8-static: format, precision, and the techniques as far as the precision does not say them."""
    words = [one.kind.removeprefix("quantize-") for one in recipe.techniques if one.kind != "cast"]
    return "-".join([default_variant_name(recipe.format, subject.precision), *words])


def _onnx(subject: Subject, materials: Materials) -> tuple[Exported, Subject]:
    subject, source = need_onnx(subject, "the format onnx", materials)
    path = directory(materials, "onnx") / "model.onnx"
    shutil.copyfile(source, path)
    companions = companions_of(source)
    for name, file in companions.items():
        shutil.copyfile(file, path.parent / name)
    beside = {name: path.parent / name for name in companions}
    return Exported("", "onnx", subject.precision, path, "the ONNX variant", beside), subject


def _openvino(subject: Subject, materials: Materials) -> tuple[Exported, Subject]:
    path = directory(materials, "openvino") / "model.xml"
    subject = write_openvino(subject, path, materials)
    weights = path.with_suffix(ROWS["openvino"].weights_suffix)
    return Exported("", "openvino", subject.precision, path, "", {weights.name: weights}), subject


def _module(forms: Sequence[str], subject: Subject, materials: Materials) -> tuple[Exported, Subject]:
    """The module in the first of the forms that it can be exported to; its exporter compares it with the module."""
    source = need_module(subject, f"the format {FORMS[forms[0]].format}")
    *others, last = forms
    for form in others:
        try:
            return _exported(form, source, subject, materials)
        except ExportFailed as error:
            subject = subject.noted(f"{form} was not possible: {error}")
    return _exported(last, source, subject, materials)


def _exported(form: str, source: ModuleSource, subject: Subject, materials: Materials) -> tuple[Exported, Subject]:
    exported = export_form(form, in_module_order(source), directory(materials, form))
    notes, writers = (*subject.notes, *exported.notes), (*subject.writers, exported.exporter)
    return replace(exported, precision=subject.precision), replace(subject, notes=notes, writers=writers)


_Writer = Callable[[Subject, Materials], tuple[Exported, Subject]]
_WRITERS: dict[str, _Writer] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "torchscript": partial(_module, ("torchscript-trace", "torchscript-script")),
    "pt2": partial(_module, ("pt2",)),
    "aoti": partial(_module, ("aoti",)),
}
