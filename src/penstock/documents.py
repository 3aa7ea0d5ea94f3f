"""Small text files that describe a model: YAML and JSON, within budgets of size and time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from penstock.errors import UnsupportedFormat, first_line

MAX_BYTES = 4 << 20
"""Of a YAML or JSON file that describes a model; a larger one is something else."""
_MOST_NODES = 20_000
"""Values in a YAML file, those of an alias counted wherever it stands. PyYAML reads some 10,000 in a second."""
_MOST_LEVELS = 64
_LONGEST_NUMBER = 100


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; only plain values, no objects. Raises UnsupportedFormat naming the file."""
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; `name` is its file in errors. Raises UnsupportedFormat, also for tags."""
    try:
        import yaml
    except ImportError:
        raise UnsupportedFormat(
            f"{name}: reading it needs PyYAML, which is not installed; pip install pyyaml"
        ) from None
    try:
        content = _loaded(yaml, text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UnsupportedFormat(f"{name}: it is not YAML: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise UnsupportedFormat(f"{name}: it is not a YAML mapping")
    return content


def _loaded(yaml: Any, text: str) -> Any:
    """As `yaml.safe_load`, within budgets: aliases multiply what they name, and merges and numbers take long."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # of a library without types
        nodes = levels = 0
        sizes: dict[int, int]

        def compose_node(self, parent: Any, index: Any) -> Any:
            before, is_alias = self.nodes, self.check_event(yaml.AliasEvent)
            self.levels += 1
            if self.levels > _MOST_LEVELS:
                raise ValueError(f"its values are nested in more than {_MOST_LEVELS} levels")
            node = super().compose_node(parent, index)
            self.levels -= 1
            if is_alias and id(node) not in self.sizes:
                raise ValueError("a value holds itself")
            self.nodes += self.sizes[id(node)] if is_alias else 1
            self.sizes.setdefault(id(node), self.nodes - before)
            if self.nodes > _MOST_NODES:
                raise ValueError(f"it holds more than {_MOST_NODES} values")
            return node

        def flatten_mapping(self, node: Any) -> None:
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                raise ValueError("it merges mappings (<<)")

        def construct_scalar(self, node: Any) -> Any:
            text = super().construct_scalar(node)
            if node.tag.endswith((":int", ":float", ":timestamp")) and len(text) > _LONGEST_NUMBER:
                raise ValueError(f"a number has more than {_LONGEST_NUMBER} characters")
            return text

    loader = Loader(text)
    loader.sizes = {}
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UnsupportedFormat naming the file."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UnsupportedFormat(f"{path}: it is not JSON: {first_line(error)}") from None


def read_text(path: Path) -> str:
    """The text of a small file. Raises UnsupportedFormat naming the file."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UnsupportedFormat(f"{path}: it has {size:,} bytes, at most {MAX_BYTES:,} are read")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UnsupportedFormat(f"{path}: there is no such file") from None
    except OSError as error:
        raise UnsupportedFormat(f"{path}: it cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UnsupportedFormat(f"{path}: it is not UTF-8 text") from None
