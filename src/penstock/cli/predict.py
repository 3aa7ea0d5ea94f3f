"""`penstock predict`: one prediction in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import completion
from penstock.cli.file_options import (
    BatchAxisOption,
    ExampleOption,
    LabelsOption,
    NoBatchOption,
    PreprocessOption,
    as_settings,
    check_one_file,
    file_options,
)
from penstock.cli.options import ConfigOption, DeviceOption, RegistryOption, TrustOption, open_registry, read_settings
from penstock.errors import InvalidInput

if TYPE_CHECKING:
    from penstock.engine.predictor.predictor import Predictor


def predict(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="name[:version|@alias], or a model file.",
            autocompletion=completion.refs_and_files,
        ),
    ],
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="A .json, .npy, .npz or image file; - reads standard input.")
    ],
    task: Annotated[
        str | None,
        typer.Option(help="The task that reads INPUT: of a published model one of its own, of a file any kind."),
    ] = None,
    labels: LabelsOption = None,
    preprocess: PreprocessOption = None,
    example: ExampleOption = None,
    batch_axis: BatchAxisOption = None,
    no_batch: NoBatchOption = None,
    device: DeviceOption = None,
    trust: TrustOption = None,
    config: ConfigOption = None,
    registry: RegistryOption = None,
) -> None:
    """Answer one request in this process, without a server, and print the response as JSON.

    JSON holds the request's fields as over HTTP, or the array of numbers alone.
    """
    about = file_options({name: value for name, value in locals().items() if name != "task"})
    check_one_file([ref], about)
    settings = read_settings(config, **as_settings(about), device=device, trust=trust, registry=registry)
    value = read_input(source)
    task = _choose_task(value, task)
    from penstock.engine.predictor.predictor import Predictor

    with (
        open_registry(settings) as models,
        Predictor(ref, registry=models, config=settings, task=task) as predictor,
    ):
        print(predictor.predict(_only_input(value, predictor)).model_dump_json())


def _choose_task(value: Any, option: str | None) -> str | None:
    """The task of the option, or the one that a JSON document names in its field `task`, which is removed.

    A field that names no kind of task belongs to the request. Raises InvalidInput when option and field differ.
    """
    named = value.get("task") if isinstance(value, dict) else None
    if not isinstance(named, str):
        return option
    from penstock.tasks.catalog import kinds

    if named not in kinds():
        return option
    if option not in (None, named):
        raise InvalidInput(f"task: the option names {option!r}, the input {named!r}", field="task")
    del value["task"]
    return named


def _only_input(value: Any, predictor: Predictor) -> Any:
    """An archive that names the only input of a model holds that array."""
    names = [spec.name for spec in predictor.task.signature.inputs]
    named = isinstance(value, dict) and len(names) == 1 and list(value) == names
    return value[names[0]] if named and predictor.task.array_field not in names else value


def read_input(source: str) -> Any:
    """The content of a file or of standard input (`-`): fields of a request, an array, arrays by name, or bytes.

    Raises InvalidInput naming the file.
    """
    shown = "standard input" if source == "-" else source
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{shown} cannot be read: {error.strerror}") from None
    read = _BY_SUFFIX.get(Path(source).suffix.lower()) or _by_content(data)
    try:
        return read(data)
    except (ValueError, EOFError, OSError, RecursionError) as error:
        raise InvalidInput(f"{shown} is not valid {read.__name__.removeprefix('_')}: {error}") from None


def _json(data: bytes) -> Any:
    return json.loads(data)


def _npy(data: bytes) -> Any:
    import numpy as np

    return np.load(io.BytesIO(data), allow_pickle=False)


def _npz(data: bytes) -> Any:
    """A single unnamed array itself, several arrays by name."""
    import zipfile

    import numpy as np

    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None
    return arrays["arr_0"] if list(arrays) == ["arr_0"] else arrays


def _image(data: bytes) -> bytes:
    """The bytes themselves: the image task decodes them and reports errors."""
    return data


Reader = Callable[[bytes], Any]
_BY_SUFFIX: dict[str, Reader] = {".json": _json, ".npy": _npy, ".npz": _npz}
_BY_START: dict[bytes, Reader] = {b"\x93NUMPY": _npy, b"PK\x03\x04": _npz, b"{": _json, b"[": _json}


def _by_content(data: bytes) -> Reader:
    start = data[:64].lstrip()
    return next((read for magic, read in _BY_START.items() if start.startswith(magic)), _image)
