"""Which files an archive will hold, by the names that they get in it."""

from __future__ import annotations

import filecmp
import glob
from collections.abc import Iterator
from pathlib import Path

from penstock.errors import InvalidInput, quoted
from penstock.scan.findings import Refused
from penstock.torchserve.archives.names import Names, checked_name

_OF_ARCHIVES = ("MAR-INF", "WAR-INF")
_UNWANTED = ("__MACOSX", "__pycache__")
_WILD = "*?["


class Members:
    """Files by their names in an archive, and remarks on what was left out."""

    def __init__(self) -> None:
        self.files: dict[str, Path] = {}
        self.remarks: list[str] = []
        self._names = Names()

    def add(self, option: str, source: Path, name: str | None = None) -> None:
        """One file, by default under its own name.

        Raises InvalidInput if there is no such file, if its name cannot be that of a member, and if another file with
        another content has the name.
        """
        member = source.name if name is None else name
        if not source.is_file():
            raise InvalidInput(f"{option}: there is no file {quoted(source)}", field=option)
        if member.partition("/")[0] in _OF_ARCHIVES:
            self.remarks.append(f"{source} is left out: the archive gets a manifest of its own")
            return
        known = self.files.get(member)
        if known is not None:
            if not filecmp.cmp(known, source, shallow=False):
                raise InvalidInput(
                    f"{option}: {known} and {source} would both be {quoted(member)} in the archive; rename one of them",
                    field=option,
                )
            return
        try:
            self._names.add(checked_name(member))
        except Refused as refused:
            raise InvalidInput(f"{option}: {source}: {refused}; rename it", field=option) from None
        self.files[member] = source

    def add_extra(self, option: str, text: str) -> None:
        """Files, directories (what is in them) and patterns, separated by commas. Raises InvalidInput as `add`."""
        for part in filter(None, (each.strip() for each in text.split(","))):
            for path in self._found(option, part):
                if path.is_dir():
                    self._add_directory(option, path)
                else:
                    self.add(option, path)

    def _found(self, option: str, part: str) -> list[Path]:
        if Path(part).exists():
            return [Path(part)]
        if not any(sign in part for sign in _WILD):
            raise InvalidInput(f"{option}: there is no file or directory {quoted(part)}", field=option)
        paths = [Path(path) for path in sorted(glob.glob(part))]  # noqa: PTH207  as upstream reads patterns
        if not paths:
            self.remarks.append(f"{option}: no file matches {quoted(part)}")
        return paths

    def _add_directory(self, option: str, directory: Path) -> None:
        for name, source in _files(directory, "", (directory.resolve(),)):
            self.add(option, source, name)


def _files(directory: Path, prefix: str, above: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    """What lies in a directory, links followed, without hidden directories and those that programs leave behind."""
    for path in sorted(directory.iterdir()):
        if not path.is_dir():
            yield prefix + path.name, path
        elif not path.name.startswith(".") and path.name not in _UNWANTED:
            real = path.resolve()
            if real in above:
                raise InvalidInput(f"extra_files: {path} is a link to a directory that it lies in", field="extra_files")
            yield from _files(path, f"{prefix}{path.name}/", (*above, real))
