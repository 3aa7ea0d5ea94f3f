"""The installed packages that serve a model, and what they depend on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata

from penstock.artifacts.manifest import Manifest
from penstock.formats import FORMATS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST_LICENSE = 120
"""Characters; some packages put the whole text of their license into the field."""


@dataclass(frozen=True)
class Package:
    """An installed package: its normalized name, its version, its license as declared, and the names it depends on."""

    name: str
    version: str
    license: str = ""
    requires: tuple[str, ...] = ()

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{self.name}@{self.version.replace('+', '%2B')}"


def serving_packages(manifest: Manifest) -> list[Package]:
    """Penstock, the runtimes of the variants, the packages of the tasks, and all that they require, by name.

    Only what is installed here counts.
    """
    found: dict[str, Package] = {}
    waiting = ["penstock", *_runtimes(manifest), *_task_packages(manifest)]
    while waiting:
        name = normalized(waiting.pop())
        if name in found:
            continue
        package = _installed(name)
        if package is not None:
            found[name] = package
            waiting += package.requires
    return [
        Package(each.name, each.version, each.license, tuple(name for name in each.requires if name in found))
        for _, each in sorted(found.items())
    ]


def normalized(name: str) -> str:
    """The name of a package as indexes and package URLs spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _runtimes(manifest: Manifest) -> Iterator[str]:
    for variant in manifest.variants:
        if variant.format in FORMATS:
            yield FORMATS[variant.format].runtime.package


def _task_packages(manifest: Manifest) -> Iterator[str]:
    kinds = {entry.kind for entry in manifest.tasks()}
    for point in metadata.entry_points(group="penstock.tasks"):
        if point.name in kinds and point.dist is not None:
            yield point.dist.name


def _installed(name: str) -> Package | None:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    about = found.metadata.json
    license = str(about.get("license_expression") or about.get("license") or "")
    short = license if len(license) <= _LONGEST_LICENSE and license.isprintable() else ""
    return Package(name, found.version, "" if short.upper() == "UNKNOWN" else short, tuple(_required(found.requires)))


def _required(requirements: Iterable[str] | None) -> Iterator[str]:
    """The names of requirements that need no extra; those for other systems are not installed, and so do not count."""
    for text in requirements or ():
        requirement, _, marker = text.partition(";")
        match = _NAME.match(requirement.strip())
        if match is not None and "extra" not in marker:
            yield normalized(match[0])
