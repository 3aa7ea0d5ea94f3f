"""`penstock.toml` with some of its settings changed: everything else in it, comments included, stays as it was."""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.errors import ConfigError, disk_problem

MARK = "# penstock tune: "
"""Begins the comments that are replaced."""
_TABLE = re.compile(r"\s*\[")


def read(path: Path) -> str:
    """The text of a settings file, empty if there is none. Raises ConfigError for what is no TOML."""
    try:
        text = path.read_text(encoding="utf-8")
        tomllib.loads(text)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(f"{path}: the configuration cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    return text


def check(path: Path) -> None:
    """Raises ConfigError for a file that could not be changed: no TOML, or in a directory that is not writable."""
    read(path)
    if not os.access(path.parent, os.W_OK):
        why = "the directory is not writable" if path.parent.is_dir() else "there is no such directory"
        raise ConfigError(f"{path}: the settings cannot be written: {why}")


def changed(text: str, settings: Mapping[str, Any], comments: tuple[str, ...] = (), model: str | None = None) -> str:
    """`text` with these settings; None removes one. `model`: batch size and wait also in its own table.

    Raises ConfigError when they are written in a way that cannot be changed line by line.
    """
    wanted = _wanted(tomllib.loads(text), settings, model)
    lines = [line for line in text.splitlines() if not line.startswith(MARK)]
    end = next((place for place, line in enumerate(lines) if _TABLE.match(line)), len(lines))
    head, tables = _set(lines[:end], settings), lines[end:]
    if model is not None:
        tables = _set_in_table(tables, model, {key: settings[key] for key in _OF_MODELS})
    whole = "\n".join([*(f"{MARK}{comment}" for comment in comments), *head, *tables]) + "\n"
    if _parsed(whole) != wanted:
        raise ConfigError(
            f"the settings file sets one of {', '.join(settings)} in a way that cannot be changed in place; "
            "write another file, out=…"
        )
    return whole


_OF_MODELS = ("batch_size", "max_wait_ms")
"""What a table of a model may set, and then takes precedence."""


def sets_model(text: str, model: str) -> bool:
    """True if the table of a model sets its batch size or its wait."""
    tables = tomllib.loads(text).get("models")
    table = tables.get(model) if isinstance(tables, dict) else None
    return isinstance(table, dict) and any(key in table for key in _OF_MODELS)


def write(path: Path, text: str) -> None:
    """Write a file as a whole or not at all. Raises ConfigError naming it."""
    try:
        descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(aside).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
            Path(aside).replace(path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(
            disk_problem(error, path) or f"{path}: the settings cannot be written: {error.strerror}"
        ) from None


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except ValueError:
        return None


def _wanted(document: dict[str, Any], settings: Mapping[str, Any], model: str | None) -> dict[str, Any]:
    """What the changed text must mean."""
    wanted = _merged(document, settings)
    if model is not None:
        tables = wanted.get("models", {})
        own = _merged(tables.get(model, {}), {key: settings[key] for key in _OF_MODELS})
        wanted["models"] = {**tables, model: own}
    return wanted


def _merged(document: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    whole = {**document, **settings}
    return {key: value for key, value in whole.items() if value is not None}


def _set(lines: list[str], settings: Mapping[str, Any]) -> list[str]:
    """The lines of one table with these settings: changed in place, and new ones first."""
    missing = {key: value for key, value in settings.items() if value is not None}
    made: list[str | None] = []
    for line in lines:
        key = _key(line)
        missing.pop(key or "", None)
        made.append(_assigned(line, settings[key]) if key is not None and key in settings else line)
    kept = [line for line in made if line is not None]
    return [*(f"{key} = {_toml(value)}" for key, value in missing.items()), *kept]


def _key(line: str) -> str | None:
    match = re.match(r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*=""", line)
    return next((part for part in match.groups() if part is not None), None) if match else None


def _assigned(line: str, value: Any) -> str | None:
    """The line with another value, its comment kept; None to leave it out."""
    if value is None:
        return None
    comment = re.search(r"\s+#.*$", line)
    before = line[: line.index("=") + 1]
    return f"{before} {_toml(value)}{comment[0] if comment else ''}"


def _set_in_table(lines: list[str], model: str, settings: Mapping[str, Any]) -> list[str]:
    """The lines of all tables, with these settings in that of a model, which is added where it is missing."""
    name = re.escape(model)
    header = re.compile(rf"""\s*\[\s*["']?models["']?\s*\.\s*["']?{name}["']?\s*\]""")
    start = next((place for place, line in enumerate(lines) if header.match(line)), None)
    if start is None:
        return [*lines, "", f'[models."{model}"]', *_set([], settings)]
    end = next((place for place in range(start + 1, len(lines)) if _TABLE.match(lines[place])), len(lines))
    return [*lines[: start + 1], *_set(lines[start + 1 : end], settings), *lines[end:]]


def _toml(value: Any) -> str:
    """A number as TOML."""
    return f"{value:g}" if isinstance(value, float) and value == int(value) else str(value)
