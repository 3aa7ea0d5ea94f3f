"""An installation of TorchServe: its configuration as it is in force, and the models that it starts with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from penstock.errors import ConfigError, first_line
from penstock.torchserve.migration.keys import KEYS
from penstock.torchserve.migration.properties import parse_properties

CONFIG_FILE: Final = "config.properties"
_MAX_BYTES = 4 << 20
_VARIABLE = re.compile(r"\$\$(\w+[^$])\$\$")
_SUFFIXES = (".mar", ".model", ".tar.gz")


@dataclass(frozen=True, slots=True)
class Setting:
    """A value in force: where it comes from, and what is wrong with it."""

    key: str
    value: str
    source: str
    line: int | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class StartedModel:
    """A model that the installation loads when it starts."""

    name: str | None
    """None: the name is in its archive."""
    version: str | None
    archive: str
    """As it is named: a file of the model store, a path or an address."""
    options: Mapping[str, Any]
    is_default: bool = True


@dataclass(frozen=True, slots=True)
class Installation:
    """What `config.properties` and the environment say."""

    path: Path
    settings: Mapping[str, Setting]
    """Those in force, by key, in the order of the file."""
    overridden: tuple[Setting, ...]
    """Values that do not count, since another one does."""
    store: Path | None

    def get(self, key: str) -> str | None:
        """A value in force; None for one that is not set."""
        found = self.settings.get(key)
        return None if found is None or not found.value.strip() else found.value.strip()


def read_installation(path: Path, variables: Mapping[str, str], store: Path | None = None) -> Installation:
    """Read a `config.properties`, a snapshot, or a directory; `store` is the option `--model-store` of upstream.

    Raises ConfigError naming the file and the line.
    """
    file = path / CONFIG_FILE if path.is_dir() else path
    settings: dict[str, Setting] = {}
    overridden: list[Setting] = []
    for each in _of_file(file, variables):
        if each.key in settings:
            overridden.append(settings[each.key])
        settings[each.key] = each
    if settings.get("enable_envvars_config", Setting("", "", "")).value.strip().lower() == "true":
        for each in _of_environment(variables, settings):
            if each.key in settings:
                overridden.append(settings[each.key])
            settings[each.key] = each
    if store is None and "model_store" in settings:
        store = Path(settings["model_store"].value.strip())
        store = store if store.is_absolute() or store.is_dir() else file.parent / store
    return Installation(file, settings, tuple(overridden), store)


def _of_file(file: Path, variables: Mapping[str, str]) -> Iterator[Setting]:
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: it cannot be read: {error.strerror}; name the config.properties to move") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{file} has more than {_MAX_BYTES:,} bytes; name a config.properties")
    for key, value, line in parse_properties(data, str(file)):
        missing = next((name for name in _VARIABLE.findall(value) if name not in variables), None)
        problem = f"the variable {missing} is not set here; set it, and migrate again" if missing else None
        filled = _VARIABLE.sub(lambda match: variables.get(match[1], match[0]), value)
        yield Setting(key, filled, f"{file.name}, line {line}", line, problem)


def _of_environment(variables: Mapping[str, str], settings: Mapping[str, Setting]) -> Iterator[Setting]:
    """`TS_<KEY>` takes precedence over the file, if the file allows it."""
    for key in KEYS:
        name = f"TS_{key.upper()}"
        allowed = key != "allowed_urls" or "use_env_allowed_urls" in settings
        if name in variables and allowed and key != "enable_envvars_config":
            yield Setting(key, variables[name], f"environment {name}")


def started_models(installation: Installation) -> list[StartedModel]:
    """The models of `model_snapshot`, else those of `load_models`, with the options of `models`.

    Raises ConfigError for JSON that cannot be read.
    """
    snapshot = _json(installation, "model_snapshot")
    if snapshot is not None:
        return list(_of_json(installation, "model_snapshot", snapshot.get("models", {})))
    options = _json(installation, "models") or {}
    known = list(_of_json(installation, "models", options))
    wanted = installation.get("load_models")
    if wanted is None or wanted.lower() == "none":
        return known
    listed = _in_store(installation.store) if wanted.lower() == "all" else [part.strip() for part in wanted.split(",")]
    return [_with_options(part, known) for part in listed if part]


def _with_options(part: str, known: list[StartedModel]) -> StartedModel:
    """`name=file` or `file`."""
    name, equals, archive = part.partition("=")
    archive = archive.strip() if equals else part
    given = name.strip() if equals else None
    same = next((each for each in known if each.archive == archive and given in (None, each.name)), None)
    if same is None:
        return StartedModel(given, None, archive, {})
    return StartedModel(given or same.name, same.version, archive, same.options, same.is_default)


def _in_store(store: Path | None) -> list[str]:
    """The archives and directories of a store, as `load_models=all` takes them."""
    if store is None or not store.is_dir():
        return []
    return sorted(path.name for path in store.iterdir() if path.is_dir() or path.name.endswith(_SUFFIXES))


def _json(installation: Installation, key: str) -> dict[str, Any] | None:
    text = installation.get(key)
    if text is None:
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{_where(installation, key)} is not JSON: {first_line(error)}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{_where(installation, key)} should be a JSON object")
    return document


def _where(installation: Installation, key: str) -> str:
    return f"{key} in {installation.settings[key].source}"


def _of_json(installation: Installation, key: str, models: Any) -> Iterator[StartedModel]:
    """`{"m": {"1.0": {"marName": "m.mar", …}}}`."""
    where = _where(installation, key) if key in installation.settings else key
    if not isinstance(models, dict):
        raise ConfigError(f"{where}: models should be a JSON object")
    for name, versions in models.items():
        if not isinstance(versions, dict) or not all(isinstance(each, dict) for each in versions.values()):
            raise ConfigError(f"{where}: {name} should be an object of versions")
        for version, options in versions.items():
            archive = options.get("marName")
            default = options.get("defaultVersion", len(versions) == 1) is True
            yield StartedModel(name, version, archive if isinstance(archive, str) else f"{name}.mar", options, default)
