"""A `penstock.toml`, with a comment on where each setting comes from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from penstock.artifacts.files import replacing
from penstock.errors import ConfigError, disk_problem, printable
from penstock.settings import CONFIG_FILE, load_settings


def to_toml(settings: Iterable[tuple[str, Any, str]], models: Mapping[str, Mapping[str, Any]], head: str) -> str:
    """`settings` are names, values and the comments on them."""
    lines = [f"# {printable(head)}", ""]
    for name, value, comment in settings:
        lines.append(f"{name} = {_value(value)}  # {printable(comment)}")
    for model, table in models.items():
        lines += ["", f"[models.{_quoted(model)}]", *(f"{name} = {_value(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    """A basic string; characters that are not printable are escaped. Raises ConfigError for half of a pair."""
    made = []
    for sign in text:
        if 0xD800 <= ord(sign) < 0xE000:
            raise ConfigError(f"{text!r} holds half of a character; write it as two \\uXXXX")
        plain = sign.isprintable() and sign not in '"\\'
        made.append(sign if plain else f"\\u{ord(sign):04X}" if ord(sign) < 0x10000 else f"\\U{ord(sign):08X}")
    return f'"{"".join(made)}"'


def check(text: str) -> None:
    """Raises ConfigError for settings that a server would refuse together."""
    with tempfile.TemporaryDirectory(prefix="penstock-") as directory:
        (Path(directory) / CONFIG_FILE).write_text(text, encoding="utf-8")
        load_settings(environ={}, directory=Path(directory))


def write(path: Path, text: str) -> None:
    """Write a file completely or not at all. Raises ConfigError naming it."""
    try:
        with replacing(path) as new:
            new.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            disk_problem(error, path) or f"{path}: the settings cannot be written: {error.strerror}"
        ) from None
