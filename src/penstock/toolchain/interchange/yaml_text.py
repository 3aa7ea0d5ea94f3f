"""A little YAML, written without a library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.artifacts.card import yaml_value


def to_yaml(values: Mapping[str, Any], indent: str = "") -> str:
    """A mapping as YAML: mappings inside it by indentation, every other value as JSON, which is valid YAML."""
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{key}:\n{to_yaml(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{key}: {yaml_value(value)}\n")
    return "".join(lines)
