"""Overrides of one `load_model` call, and what is known of a model file from its description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from penstock.backends.base import ModelFile
from penstock.backends.catalog import outputs_from_runs, signature_from_example
from penstock.errors import InvalidInput
from penstock.file_description import FileDescription, Labels, Preprocess, described
from penstock.formats import FORMATS
from penstock.options import BackendKeywords, BackendOptions, check_names, given
from penstock.tensors import Signature


@runtime_checkable
class LiveModule(Protocol):
    """A `torch.nn.Module`; PyTorch is not imported to say so."""

    def eval(self) -> Any:
        """Switch to evaluation mode."""

    def state_dict(self) -> Any:
        """The weights by name."""


class FileKeywords(BackendKeywords, total=False):
    """The keywords that describe a model file."""

    labels: Labels | None
    preprocess: Preprocess | None
    example_input: Any
    batch_axes: Mapping[str, int] | None
    no_batch: bool | None
    signature: Signature | None
    architecture: str | type | None
    architecture_args: Mapping[str, Any] | None


class LoadKeywords(FileKeywords, total=False):
    """The keywords of `ModelManager.load_model`."""

    variant: str | None
    task: str | None


@dataclass(frozen=True, slots=True, eq=False)
class LoadOverrides:
    """Options in place of the manager's, one variant by name, and the description of a file."""

    options: Mapping[str, Any] = field(default_factory=dict)
    variant: str | None = None
    description: FileDescription = field(default_factory=FileDescription)

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> Self:
        """From the keywords of `load_model`; None counts as not given. Raises TypeError for an unknown name."""
        check_names("load_model", keywords, {*BackendOptions.model_fields, *LoadKeywords.__annotations__})
        values = given(keywords)
        options = {name: values.pop(name) for name in BackendOptions.model_fields if name in values}
        return cls(options, values.pop("variant", None), described(values))

    @property
    def empty(self) -> bool:
        """True for a plain `load_model(ref)`."""
        return not (self.options or self.variant or self.description.stated)

    def on(self, options: BackendOptions, variant: str) -> Self:
        """What a model was loaded with: all its options, and the variant that was selected."""
        return replace(
            self, options={name: getattr(options, name) for name in BackendOptions.model_fields}, variant=variant
        )

    def met_by(self, loaded: LoadOverrides, device: str, options: BackendOptions) -> bool:
        """True if a model that was loaded with other overrides, and runs on `device`, is what these ask for.

        `options` are all options, with these in their places.

        An example only shows a way to run the model, so a model that was loaded with another one is the same.
        """
        asked = {name: getattr(options, name) for name in self.options}
        if asked.get("device") == device:
            del asked["device"]
        stated = [name for name in self.description.stated if name != "example"]
        return (
            all(loaded.options.get(name) == value for name, value in asked.items())
            and self.variant in (None, loaded.variant)
            and all(getattr(self.description, name) == getattr(loaded.description, name) for name in stated)
        )

    def check(self, key: str, path: Path | None) -> None:
        """Raises InvalidInput for an override that does not fit a registry reference or a file."""
        stated = [{"example": "example_input"}.get(name, name) for name in self.description.stated]
        if path is None and stated:
            raise InvalidInput(
                f"{stated[0]}: it describes a model file; {key} is of the registry, and its manifest records that",
                field=stated[0],
            )
        if path is not None and self.variant is not None:
            raise InvalidInput(
                f"{path}: a file is a single variant; leave out variant={self.variant!r}", field="variant"
            )


def described_file(
    path: Path, format: str, about: FileDescription, trust: str, module: LiveModule | None = None
) -> ModelFile:
    """A file with its signature: as described, with outputs from runs, or from a run on an example; else its own.

    The same for a live `module`, whose `path` is only its name.
    """
    file = ModelFile(
        path,
        about.signature,
        about.architecture,
        about.architecture_args,
        example=about.example,
        batch_axes=about.batch_axes,
        no_batch=about.no_batch,
        module=module,
    )
    if about.signature is None:
        if about.example is None or format not in FORMATS or FORMATS[format].records_signature != "never":
            return file
        return replace(file, signature=signature_from_example(format, file, about.example, trust))
    if about.signature.outputs:
        return file
    outputs = outputs_from_runs(format, file, about.signature.inputs, trust)
    return replace(file, signature=replace(about.signature, outputs=outputs))
