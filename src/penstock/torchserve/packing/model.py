"""Archives of models, as `torch-model-archiver` writes them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from penstock.errors import InvalidInput, quoted
from penstock.torchserve.archives.manifest import BUILT_IN_HANDLERS, BUILT_IN_OF_LSP, RUNTIMES
from penstock.torchserve.archives.names import MANIFEST
from penstock.torchserve.packing.members import Members
from penstock.torchserve.packing.writing import (
    SUFFIXES,
    check_name,
    target_in,
    write_directory,
    write_tar,
    write_zip,
)


class Packed(NamedTuple):
    """An archive that was written, and remarks on what was left out."""

    path: Path
    remarks: list[str]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What goes into an archive, by the names of upstream's options."""

    model_name: str
    version: str
    handler: str
    """A built-in handler, a file, or `module:function`."""
    serialized_file: Path | None = None
    model_file: Path | None = None
    extra_files: str | None = None
    """Files, directories and patterns, separated by commas."""
    runtime: str = "python"
    requirements_file: Path | None = None
    config_file: Path | None = None


def pack_model(
    model: ModelFiles, export_path: Path | None = None, archive_format: str = "default", *, force: bool = False
) -> Packed:
    """Write `<model_name>.mar` (or `.tar.gz`, or a directory) below `export_path`, by default the current directory.

    Raises InvalidInput naming the option or the file that is wrong; nothing is written then.
    """
    check_name("model_name", model.model_name)
    _one_of("runtime", model.runtime, RUNTIMES)
    _one_of("archive_format", archive_format, tuple(SUFFIXES))
    if not model.version.strip():
        raise InvalidInput("version: it should not be empty", field="version")
    target = target_in(export_path or Path.cwd(), model.model_name, SUFFIXES[archive_format], force=force)
    members = _members(model)
    manifest = (MANIFEST, json.dumps(_manifest(model), indent=2))
    if archive_format == "tgz":
        write_tar(target, model.model_name, members.files, manifest)
    elif archive_format == "no-archive":
        write_directory(target, members.files, manifest)
    else:
        write_zip(target, members.files, manifest, stored=archive_format == "zip-store")
    return Packed(target, members.remarks)


def created_on() -> str:
    """Now, as manifests write it."""
    return datetime.now().strftime("%d/%m/%Y %H:%M:%S")


def archiver_version() -> str:
    """What wrote an archive."""
    return f"penstock {metadata.version('penstock')}"


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidInput(f"{option}: {quoted(value)} should be one of {', '.join(known)}", field=option)


def _members(model: ModelFiles) -> Members:
    members = Members()
    for option in ("model_file", "serialized_file"):
        if (path := getattr(model, option)) is not None:
            members.add(option, path)
    handler = _handler_file(model.handler, model.runtime)
    if handler is not None:
        if not handler.is_file():
            built_in = BUILT_IN_OF_LSP if model.runtime == "LSP" else BUILT_IN_HANDLERS
            raise InvalidInput(
                f"handler: there is no file {quoted(handler)}, and {quoted(model.handler)} is none of "
                f"{', '.join(built_in)}",
                field="handler",
            )
        members.add("handler", handler)
    if model.extra_files is not None:
        members.add_extra("extra_files", model.extra_files)
    for option in ("requirements_file", "config_file"):
        if (path := getattr(model, option)) is not None:
            members.add(option, path)
    return members


def _handler_file(handler: str, runtime: str) -> Path | None:
    """The file of a handler as upstream finds it; None for a built-in one."""
    if runtime == "LSP":
        suffix = ".dylib" if sys.platform == "darwin" else ".so"
        return None if handler in BUILT_IN_OF_LSP else Path(handler.partition(":")[0] + suffix)
    if handler in BUILT_IN_HANDLERS:
        return None
    module, found, _ = handler.partition(".py")
    return Path(module + found) if found else Path(handler.partition(":")[0] + ".py")


def _manifest(model: ModelFiles) -> dict[str, Any]:
    """With the fields of upstream, in its order."""
    fields = {
        "modelName": model.model_name,
        "serializedFile": _name(model.serialized_file),
        "handler": model.handler.rpartition("/")[2],
        "modelFile": _name(model.model_file),
        "modelVersion": model.version,
        "requirementsFile": _name(model.requirements_file),
        "configFile": _name(model.config_file),
    }
    return {
        "createdOn": created_on(),
        "runtime": model.runtime,
        "model": {field: value for field, value in fields.items() if value is not None},
        "archiverVersion": archiver_version(),
    }


def _name(path: Path | None) -> str | None:
    return None if path is None else path.name
