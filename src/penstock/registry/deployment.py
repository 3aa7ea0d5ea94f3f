"""What the servers of a registry should serve: one immutable value, changed by operators and followed by servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

from penstock.artifacts.refs import name_of
from penstock.errors import ConfigError

TABLE = "penstock_deployment"
"""Of the database, where it has one row."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """Aliases, and the loads and unloads of operators, as of one revision of the store.

    `load` and `unload` return the changed value; `Registry.change_deployment` stores it. A bare name stands for every
    version of its model. While a name is in `unloads`, the `loads` of single versions or aliases are the exceptions.
    """

    revision: int = 0
    """Of the store when this was read: every change of aliases, versions or the deployment counts it up."""
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Version by alias, by name."""
    loads: tuple[str, ...] = ()
    """References that every server of the registry loads, besides what it was started with."""
    unloads: tuple[str, ...] = ()
    """Names and `name:version`s that no server of the registry serves."""

    def load(self, ref: str, *, pin: bool = True) -> Deployment:
        """Serve `ref` again: lift what unloads it. With `pin`, every server loads it from now on."""
        name = name_of(ref)
        if ref == name:
            unloads = tuple(each for each in self.unloads if name_of(each) != name)
        else:
            unloads = tuple(each for each in self.unloads if each != self.key(ref))
        # Without the entry, a version of an unloaded name would stay unloaded
        if not pin and name not in unloads:
            return replace(self, unloads=unloads)
        return replace(self, loads=_with(self.loads, ref), unloads=unloads)

    def unload(self, ref: str) -> Deployment:
        """Serve `ref` no longer: all versions of a bare name, or the one version that an alias means now."""
        name = name_of(ref)
        if ref == name:
            loads = tuple(each for each in self.loads if name_of(each) != name)
            unloads = tuple(each for each in self.unloads if name_of(each) != name)
            return replace(self, loads=loads, unloads=(*unloads, name))
        key = self.key(ref)
        loads = tuple(each for each in self.loads if each not in (ref, key))
        return replace(self, loads=loads, unloads=self.unloads if key is None else _with(self.unloads, key))

    def key(self, ref: str) -> str | None:
        """The `name:version` that a reference with a version or an alias means; None for others."""
        name, _, alias = ref.partition("@")
        if not alias:
            return ref if ":" in ref else None
        version = self.aliases.get(name, {}).get(alias)
        return None if version is None else f"{name}:{version}"

    def is_unloaded(self, key: str) -> bool:
        """True when an operator unloaded this `name:version`, or its name without loading the version again."""
        if key in self.unloads:
            return True
        name = name_of(key)
        return name in self.unloads and not any(self.key(ref) == key for ref in self.loads if name_of(ref) == name)

    def is_withdrawn(self, ref: str) -> bool:
        """True for a reference that is not to be loaded. Single versions of a bare name may be unloaded without it."""
        key = self.key(ref)
        if key is None:
            return name_of(ref) in self.unloads and ref not in self.loads
        return self.is_unloaded(key)

    def overlaid(self, local: Deployment) -> Deployment:
        """The value with the loads and unloads of another one applied to it: names first, then single versions."""
        value = self
        names = [ref for ref in (*local.unloads, *local.loads) if name_of(ref) == ref]
        for ref in names:
            value = value.unload(ref) if ref in local.unloads else value.load(ref)
        for ref in (ref for ref in local.loads if ref not in names):
            value = value.load(ref)
        for ref in (ref for ref in local.unloads if ref not in names):
            value = value.unload(ref)
        return value

    def to_document(self) -> dict[str, Any]:
        """The requests of operators as JSON: the part that is stored in one row."""
        return {"loads": list(self.loads), "unloads": list(self.unloads)}


Change: TypeAlias = Callable[[Deployment], Deployment]
"""A pure function: it may be called twice, on the value that was read and on the one that is current."""


class DeploymentStore(Protocol):
    """Where a Deployment is kept: the database of a registry, that of a worker group, or the memory of one process."""

    def deployment(self) -> Deployment:
        """The current value. Raises ConfigError where it cannot be read."""

    def change_deployment(self, change: Change) -> Deployment:
        """Change the value, one writer at a time, and return it. Raises ConfigError where it cannot be written."""


class ProcessDeployment:
    """The DeploymentStore of one process: it ends with the process."""

    def __init__(self) -> None:
        self._value = Deployment()

    def deployment(self) -> Deployment:
        """The current value."""
        return self._value

    def change_deployment(self, change: Change) -> Deployment:
        """Change the value and return it."""
        changed = change(self._value)
        if changed != self._value:
            self._value = replace(changed, revision=self._value.revision + 1)
        return self._value


def stored_deployment(revision: int, aliases: Mapping[str, Mapping[str, str]], document: str) -> Deployment:
    """The value as it is stored. Raises ConfigError for a document that no release has written."""
    fields = stored_fields(document)
    return Deployment(revision, aliases, _refs(fields, "loads"), _refs(fields, "unloads"))


def stored_fields(document: str) -> dict[str, Any]:
    """The fields of the stored document. Raises ConfigError if it is no JSON object."""
    try:
        fields = json.loads(document)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise ConfigError(f"the table {TABLE} holds no JSON object; delete its row, then load and unload again")
    return fields


def _refs(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    refs = fields.get(name, [])
    if not isinstance(refs, list) or not all(isinstance(ref, str) for ref in refs):
        raise ConfigError(f"{name} in the table {TABLE} is not a list of references; delete the row")
    return tuple(refs)


def _with(refs: tuple[str, ...], ref: str) -> tuple[str, ...]:
    return (*(each for each in refs if each != ref), ref)
