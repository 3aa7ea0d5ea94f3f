"""Moving an installation of TorchServe: what becomes of each line, and the settings that are equivalent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from penstock.errors import ConfigError
from penstock.torchserve.migration import toml
from penstock.torchserve.migration.installation import Setting, read_installation, started_models
from penstock.torchserve.migration.keys import SECRET
from penstock.torchserve.migration.models import ModelOutcome, outcome_of_model
from penstock.torchserve.migration.rules import Outcome, implied, outcome_of

DOCKERFILE: Final = (
    "`FROM pytorch/torchserve` → `FROM python:3.12-slim`, `RUN pip install penstock` and `COPY penstock.toml .`; "
    '`CMD ["torchserve", …]` → `CMD ["penstock", "serve"]`'
)
"""What changes in the Dockerfile of most users."""


@dataclass(frozen=True, slots=True)
class Line:
    """A setting of TorchServe, and what becomes of it."""

    setting: Setting
    outcome: Outcome

    def to_json(self) -> dict[str, Any]:
        """The line as JSON."""
        return {
            "key": self.setting.key,
            "value": shown(self.setting),
            "source": self.setting.source,
            "line": self.setting.line,
            "state": self.outcome.state,
            "settings": dict(self.outcome.settings),
            "why": self.outcome.why,
        }


@dataclass(frozen=True, slots=True)
class Migration:
    """The report on an installation, and its `penstock.toml`."""

    path: Path
    lines: tuple[Line, ...]
    models: tuple[ModelOutcome, ...]
    toml: str

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        models = [
            {
                "name": model.name,
                "version": model.version,
                "archive": model.archive,
                "state": model.state,
                "why": model.why,
                "settings": dict(model.settings),
                "notes": list(model.notes),
            }
            for model in self.models
        ]
        lines = [line.to_json() for line in self.lines]
        return {"config": str(self.path), "lines": lines, "models": models, "dockerfile": DOCKERFILE, "toml": self.toml}


def shown(setting: Setting) -> str:
    """The value for people: a password is masked."""
    return "***" if setting.key in SECRET else setting.value


def migrate(path: Path, variables: Mapping[str, str], model_store: Path | None = None) -> Migration:
    """Read an installation; nothing is written. The same installation gives the same report.

    `path` is a `config.properties`, a snapshot, or a directory with one. Raises ConfigError for what cannot be read.
    """
    installation = read_installation(path, variables, model_store)
    lines = [Line(setting, outcome_of(setting, installation)) for setting in installation.settings.values()]
    for setting in installation.overridden:
        winner = installation.settings[setting.key].source
        lines.append(Line(setting, Outcome("not needed", f"{winner} takes precedence")))
    lines.sort(key=lambda line: (line.setting.line is None, line.setting.line or 0))
    lines += [Line(*each) for each in implied(installation)]
    started = started_models(installation)
    models = [outcome_of_model(model, installation) for model in started]
    default_first = sorted(zip(started, models, strict=True), key=lambda each: not each[0].is_default)
    tables = _tables([model for _, model in default_first])
    models = [_with_note(model, tables.get(model.name)) for model in models]
    written = {name: model.settings for name, model in tables.items()}
    text = toml.to_toml(_settings(lines), written, f"from {installation.path.name} of TorchServe")
    toml.check(text)
    return Migration(installation.path, tuple(lines), tuple(models), text)


def write_settings(migration: Migration, out: Path, *, force: bool = False) -> None:
    """Write the `penstock.toml` completely or not at all. Raises ConfigError if it is there already, unless `force`."""
    if out.exists() and not force:
        raise ConfigError(f"{out} already exists; force=True overwrites it, out=… names another file")
    toml.write(out, migration.toml)


def _settings(lines: list[Line]) -> list[tuple[str, Any, str]]:
    """Each setting once, with where it comes from."""
    found = {}
    for line in lines:
        for name, value in line.outcome.settings.items():
            found[name] = (name, value, f"{line.setting.key}, {line.setting.source}")
    return list(found.values())


def _tables(models: list[ModelOutcome]) -> dict[str, ModelOutcome]:
    """The version of each model whose options count for all: the first one that has some."""
    tables: dict[str, ModelOutcome] = {}
    for model in models:
        if model.settings:
            tables.setdefault(model.name, model)
    return tables


def _with_note(model: ModelOutcome, chosen: ModelOutcome | None) -> ModelOutcome:
    if chosen is None or not model.settings or model.settings == chosen.settings:
        return model
    note = f"its own options are left out: those of version {chosen.version} are for all versions"
    return replace(model, notes=(*model.notes, note))
