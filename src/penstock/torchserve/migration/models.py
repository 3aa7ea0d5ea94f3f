"""What becomes of each model of an installation: how it is published, and its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from pydantic import ValidationError

from penstock.errors import PenstockError, quoted
from penstock.options import ModelOptions
from penstock.torchserve.archives.archive import ModelArchive, open_archive
from penstock.torchserve.archives.manifest import PLAIN_HANDLERS, Manifest
from penstock.torchserve.migration.installation import Installation, StartedModel
from penstock.torchserve.migration.rules import State
from penstock.torchserve.model_config import model_config_of

_OPTIONS: Final = {
    "batchSize": ("batch_size", 1),
    "maxBatchDelay": ("max_wait_ms", 1),
    "jobQueueSize": ("max_queue_size", 1),
    "responseTimeout": ("request_timeout_ms", 1000),
    "clientTimeoutInMills": ("request_timeout_ms", 1),
}
"""Options of a model: the setting in its table, and the factor of its value. The last one that is given counts."""
Way = Literal["archive", "archive program", "import", "import program", "export"]
_PROGRAMS: Final = (".pt", ".pth", ".pt2")


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """What becomes of one model."""

    name: str
    version: str
    archive: str
    state: State
    why: str
    way: Way | None = None
    """How it is published."""
    path: str = ""
    file: str = ""
    """The member with the model."""
    module: str = ""
    """The module with its class, for weights."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its table `[models.NAME]`."""
    notes: tuple[str, ...] = ()


def outcome_of_model(model: StartedModel, installation: Installation) -> ModelOutcome:
    """Opens its archive; what is wrong with it is the outcome, and no error."""
    name, version = model.name or _stem(model.archive), model.version or "1.0"
    if "://" in model.archive:
        why = "it is fetched from an address: download it into the model store, and migrate again"
        return ModelOutcome(name, version, model.archive, "attention", why)
    path = _path(model.archive, installation.store)
    if path is None or not path.exists():
        where = "no model store is known: pass model_store=…" if path is None else f"there is no {path}: copy it there"
        return ModelOutcome(name, version, model.archive, "attention", where)
    try:
        archive = open_archive(path)
        config = model_config_of(archive)
    except PenstockError as error:
        return ModelOutcome(name, version, model.archive, "attention", str(error))
    manifest = archive.manifest
    if not isinstance(manifest, Manifest):
        return ModelOutcome(name, version, model.archive, "attention", "it is a workflow; workflows do not run yet")
    name = model.name or archive.default_name
    version = model.version or manifest.model_version
    settings, refused = _settings({**model.options, **config.values})
    state, why, way, module = _published(archive, manifest)
    return ModelOutcome(
        name,
        version,
        model.archive,
        state,
        why,
        way,
        path=str(path),
        file=manifest.serialized_file or "",
        module=module,
        settings=settings,
        notes=(*archive.warnings, *config.warnings, *refused),
    )


def _stem(archive: str) -> str:
    return archive.rstrip("/").rpartition("/")[2].removesuffix(".tar.gz").removesuffix(".mar").removesuffix(".model")


def _path(archive: str, store: Path | None) -> Path | None:
    if Path(archive).is_absolute():
        return Path(archive)
    return None if store is None else store / archive


def _settings(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The table of a model, and notes on options that have no valid equivalent."""
    found: dict[str, Any] = {}
    notes = []
    for key, (name, factor) in _OPTIONS.items():
        value = options.get(key)
        if value is None or (key == "clientTimeoutInMills" and value == 0):
            continue
        valid = isinstance(value, int) and not isinstance(value, bool) and _takes(name, value * factor)
        if valid:
            found[name] = value * factor
        else:
            notes.append(f"{key} is {quoted(value)}, which {name} does not take; it is left out")
    workers = [key for key in ("minWorkers", "maxWorkers") if options.get(key) not in (None, 1)]
    if workers:
        notes.append(f"{' and '.join(workers)}: one process answers many requests at once; workers are whole servers")
    return found, notes


def _takes(name: str, value: int) -> bool:
    try:
        ModelOptions.model_validate({name: value})
    except ValidationError:
        return False
    return True


class _Published(NamedTuple):
    state: State
    why: str
    way: Way | None = None
    module: str = ""


def _published(archive: ModelArchive, manifest: Manifest) -> _Published:
    """How the model can be published, by what its archive holds."""
    handler, file = manifest.handler, manifest.serialized_file
    if handler is not None and manifest.handler_file is not None:
        return _Published("attention", f"its handler {quoted(handler)} is Python, and handlers do not run yet")
    if file is None or file not in archive.members:
        return _Published("attention", "it holds no model file: its handler fetches one, or none is named")
    if manifest.model_file is not None:
        why = f"it is weights and a class: export it with its class in {manifest.model_file}"
        return _Published("attention", why, "export", manifest.model_file.removesuffix(".py"))
    plain = handler in PLAIN_HANDLERS
    around = f"what {handler} does around the model is described with preprocess={{…}} and labels=[…]"
    if file.endswith(".onnx"):
        moves = _Published("moves", "it is served as it is", "archive")
        return moves if plain else _Published("attention", around, "import")
    if file.endswith(_PROGRAMS):
        why = "it is a program: trust it, and describe its inputs"
        runs = _Published("attention", why, "archive program")
        return runs if plain else _Published("attention", f"{why}; {around}", "import program")
    return _Published("attention", f"{quoted(file)} is of a kind that is not served; export the model to ONNX")
