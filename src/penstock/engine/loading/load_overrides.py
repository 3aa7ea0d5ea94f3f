"""Overrides of one `load_model` call: options in place of the manager's, and a description of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from penstock.backends.base import ModelFile
from penstock.backends.catalog import signature_from_example
from penstock.errors import InvalidInput
from penstock.options import BackendKeywords, BackendOptions, check_names, given
from penstock.tensors import Signature


class LoadKeywords(BackendKeywords, total=False):
    """The keywords of `ModelManager.load_model`."""

    variant: str | None
    architecture: str | type | None
    architecture_args: Mapping[str, Any] | None
    signature: Signature | None
    example_input: Any


@dataclass(frozen=True, slots=True, eq=False)
class WeightsDescription:
    """The class and the signature of a file of weights, which does not record them."""

    architecture: str | type | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)
    signature: Signature | None = None
    example_input: Any = None

    @property
    def empty(self) -> bool:
        """True when nothing is described."""
        values = (self.architecture, self.signature, self.example_input)
        return not self.architecture_args and all(value is None for value in values)

    def model_file(self, path: Path, format: str, trust: str) -> ModelFile:
        """The file with its description; without a signature, that of a run on `example_input`."""
        file = ModelFile(path, self.signature, self.architecture, self.architecture_args)
        if self.example_input is None or self.signature is not None:
            return file
        return replace(file, signature=signature_from_example(format, file, self.example_input, trust))


@dataclass(frozen=True, slots=True, eq=False)
class LoadOverrides:
    """Options in place of the manager's, one variant by name, and the description of a file of weights."""

    options: Mapping[str, Any] = field(default_factory=dict)
    variant: str | None = None
    weights: WeightsDescription = field(default_factory=WeightsDescription)

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> Self:
        """From the keywords of `load_model`; None counts as not given. Raises TypeError for an unknown name."""
        check_names("load_model", keywords, {*BackendOptions.model_fields, *LoadKeywords.__annotations__})
        values = given(keywords)
        options = {name: values.pop(name) for name in BackendOptions.model_fields if name in values}
        return cls(options, values.pop("variant", None), WeightsDescription(**values))

    @property
    def empty(self) -> bool:
        """True for a plain `load_model(ref)`."""
        return not self.options and self.variant is None and self.weights.empty

    def check(self, key: str, path: Path | None) -> None:
        """Raises InvalidInput for an override that does not fit a registry reference or a file."""
        if path is None and not self.weights.empty:
            raise InvalidInput(
                f"{key}: architecture, signature and example_input describe files; the manifest of {key} records them"
            )
        if path is not None and self.variant is not None:
            raise InvalidInput(
                f"{path}: a file is a single variant; leave out variant={self.variant!r}", field="variant"
            )
