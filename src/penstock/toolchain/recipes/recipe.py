"""Recipes: which techniques make a variant, as data that can be stored, shared and run again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from penstock.errors import InvalidInput, first_line, in_json_words, quoted
from penstock.libraries import import_attribute
from penstock.toolchain.recipes.subject import Materials, Subject

_ROOM = "penstock.toolchain.recipes"

TECHNIQUES: dict[str, str] = {
    "quantize-dynamic": f"{_ROOM}.int8.dynamic:QuantizeDynamic",
    "quantize-static": f"{_ROOM}.int8.static:QuantizeStatic",
    "quantize-nncf": f"{_ROOM}.int8.nncf:QuantizeNncf",
    "weight-only": f"{_ROOM}.int8.weight_only:WeightOnly",
    "cast": f"{_ROOM}.casting:Cast",
    "mixed-precision": f"{_ROOM}.casting:MixedPrecision",
    "channels-last": f"{_ROOM}.layout:ChannelsLast",
    "optimize-graph": f"{_ROOM}.graph:OptimizeGraph",
    "prune": f"{_ROOM}.training.prune:Prune",
    "distill": f"{_ROOM}.training.distill:Distill",
    "quantize-aware": f"{_ROOM}.training.quantize_aware:QuantizeAware",
}
"""The `module:Class` of every technique by its kind."""

FORMATS = ("onnx", "openvino", "torchscript", "pt2", "aoti")
"""The formats that a recipe can end in."""


class Technique(ABC):
    """One step of a recipe: a frozen dataclass whose fields are its settings, and whose type says what is done.

    `lossy`: it changes outputs beyond rounding, so that accuracy or agreement decides and not a tolerance.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)
    kind: ClassVar[str]
    lossy: ClassVar[bool] = True

    @abstractmethod
    def apply(self, subject: Subject, materials: Materials) -> Subject:
        """The changed model. Raises InvalidInput where it does not fit the model or its data, naming the reason."""


@dataclass(frozen=True)
class Recipe:
    """Techniques in their order, and the format of the result."""

    techniques: tuple[Technique, ...] = ()
    format: str = "onnx"

    @property
    def lossy(self) -> bool:
        """True when some technique changes outputs beyond rounding."""
        return any(technique.lossy for technique in self.techniques)

    def to_json(self) -> dict[str, Any]:
        """The recipe as a document: what `recipe.json` holds and `from_json` reads."""
        steps = [{"kind": one.kind, **dataclasses.asdict(one)} for one in self.techniques]  # type: ignore[call-overload]
        return {"format": self.format, "techniques": steps}

    @property
    def digest(self) -> str:
        """The sha256 of the document."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def checked(self) -> Recipe:
        """The same recipe. Raises InvalidInput as `from_json` does; techniques made in Python are not checked there."""
        return self.from_json(self.to_json())

    @classmethod
    def from_json(cls, document: Any) -> Recipe:
        """The inverse of `to_json`. Raises InvalidInput naming the faulty field, or the known techniques."""
        if not isinstance(document, Mapping):
            raise InvalidInput("recipe: it is no object with `format` and `techniques`", field="recipe")
        unknown = sorted(set(document) - {"format", "techniques"})
        if unknown:
            raise InvalidInput(
                f"recipe: there is no field {unknown[0]!r}; a recipe has `format` and `techniques`", field="recipe"
            )
        format, steps = document.get("format", "onnx"), document.get("techniques", [])
        if format not in FORMATS:
            raise InvalidInput(f"recipe: format: {format!r} is not one of {', '.join(FORMATS)}", field="recipe")
        if not isinstance(steps, list | tuple):
            raise InvalidInput("recipe: techniques: it is no list", field="recipe")
        return cls(tuple(_technique(place, step) for place, step in enumerate(steps)), format)

    @classmethod
    def from_file(cls, path: Path) -> Recipe:
        """A recipe from a TOML or JSON file. Raises InvalidInput naming the file and the fault."""
        try:
            text = path.read_text(encoding="utf-8")
            document = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or first_line(error)
            raise InvalidInput(f"recipe: {path} cannot be read: {why}", field="recipe") from None
        try:
            return cls.from_json(document)
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error}", field="recipe") from None


def _technique(place: int, step: Any) -> Technique:
    where = f"recipe: techniques.{place}"
    if not isinstance(step, Mapping):
        raise InvalidInput(f"{where}: it is no object with a `kind`", field="recipe")
    kind = step.get("kind")
    if not isinstance(kind, str) or kind not in TECHNIQUES:
        known = ", ".join(TECHNIQUES)
        raise InvalidInput(f"{where}: kind: {quoted(kind)} is no technique; known are {known}", field="recipe")
    settings = {name: value for name, value in step.items() if name != "kind"}
    try:  # by way of JSON, in which a list is a tuple, and numbers and texts are not mistaken for each other
        content = json.dumps(settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{where} ({kind}): {first_line(error)}", field="recipe") from None
    try:
        technique: Technique = TypeAdapter(import_attribute(TECHNIQUES[kind])).validate_json(content, strict=True)
    except ValidationError as error:
        raise InvalidInput(f"{where} ({kind}): {_fault(kind, error)}", field="recipe") from None
    return technique


def _fault(kind: str, error: ValidationError) -> str:
    """The first fault: the setting and what is wrong with it."""
    fault = error.errors()[0]
    if fault["type"] == "unexpected_keyword_argument":
        owner = import_attribute(TECHNIQUES[kind])
        for name in fault["loc"][:-1]:  # a setting of a setting
            owner = get_type_hints(owner)[str(name)]
        known = ", ".join(field.name for field in dataclasses.fields(owner))
        has = f"its settings are {known}" if known else "it has no settings"
        return f"{'.'.join(map(str, fault['loc']))}: there is no such setting; {has}"
    place = ".".join(map(str, fault["loc"]))
    said = in_json_words(fault["msg"])
    return f"{place}: {said[:1].lower()}{said[1:]}" if place else said
