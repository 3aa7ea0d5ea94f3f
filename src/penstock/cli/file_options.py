"""The options that describe a bare model file, shared by the commands that open one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import completion

if TYPE_CHECKING:
    from penstock.file_description import FileDescription

TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="For a file: the kind of its task, such as vector-classification or tensor.",
        show_default="what the file shows",
    ),
]
LabelsOption = Annotated[
    Path | None, typer.Option("--labels", help="For a file: a text file with the name of one class per line.")
]
PreprocessOption = Annotated[
    Path | None,
    typer.Option("--preprocess", help="For a file: a JSON file with its task's configuration, or its list of steps."),
]
ExampleOption = Annotated[
    Path | None,
    typer.Option("--example", help="For a file: a .npz, .npy or .json file with an input that the model runs with."),
]
BatchAxisOption = Annotated[
    str | None,
    typer.Option(
        "--batch-axis",
        metavar="NAME:AXIS,…",
        help="For a file: the axis of the batch, by input and output, such as x:0,h:1.",
        show_default="what the file shows",
    ),
]
NoBatchOption = Annotated[
    bool | None,
    typer.Option("--no-batch", help="For a file: the model has no batch axis; each request is one run."),
]


RefsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="REF",
        autocompletion=completion.refs_and_files,
        help="Models to load at the start: of the registry (name[:version|@alias]), files, or classes "
        "(module:Class).",
    ),
]
PythonPathOption = Annotated[
    str | None,
    typer.Option(
        "--python-path", metavar="DIR,…", help="For a class: directories that it is imported from, before this one."
    ),
]
PythonWorkersOption = Annotated[
    int | None,
    typer.Option("--python-workers", min=1, help="For a class: its worker processes.", show_default="1"),
]

_CLASS = re.compile(r"(?:[^\W\d]\w*\.)*[^\W\d]\w*:[A-Z]\w*")


def with_classes(refs: Iterable[str], registry: Path) -> list[str]:
    """The references, `module:Class` as `python:module:Class`.

    It is a class if its name begins with a capital letter, unless the registry has a model of the module's name.
    """

    def named(ref: str) -> str:
        known = (registry / ref.partition(":")[0]).is_dir()
        return f"python:{ref}" if _CLASS.fullmatch(ref) and not known else ref

    return [named(ref) for ref in refs]


FILE_OPTIONS = ("task", "labels", "preprocess", "example", "batch_axis", "no_batch")
"""The parameters of commands that are among them."""


def file_options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's parameters that describe a file."""
    return {name: parameters[name] for name in FILE_OPTIONS if name in parameters}


def describe(options: Mapping[str, Any]) -> FileDescription:
    """The description by the options, under the names of their parameters.

    Raises BadParameter for a malformed one, ConfigError for a file that cannot be read.
    """
    from penstock.file_description import described, parse_batch_axes

    given = {name: value for name, value in options.items() if value not in (None, False)}
    if "example" in given:
        given["example_input"] = given.pop("example")
    if "batch_axis" in given:
        try:
            given["batch_axes"] = parse_batch_axes(given.pop("batch_axis"))
        except ValueError as error:
            raise typer.BadParameter(f"--batch-axis: {error}") from None
    return described(given)


def as_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same options as settings."""
    return {f"model_{name}": value for name, value in options.items() if value not in (None, False)}


def check_one_file(refs: Iterable[str | Path | None], options: Mapping[str, Any]) -> None:
    """Raises BadParameter for an option that describes a file, unless `refs` hold exactly one model file."""
    from penstock.formats import is_model_file

    given = next((name for name, value in options.items() if value not in (None, False)), None)
    files = {str(ref) for ref in refs if isinstance(ref, Path) or (ref is not None and is_model_file(ref))}
    if given is None or len(files) == 1:
        return
    flag = f"--{given.replace('_', '-')}"
    found = f"{len(files)} are named" if files else "none is named"
    raise typer.BadParameter(
        f"{flag} describes one model file, {found}; publish a model with it: penstock models publish FILE {flag} …"
    )
