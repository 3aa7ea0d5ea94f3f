"""The directories of a registry: `<root>/<name>/<version>/`."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from penstock.artifacts.refs import check_name, check_version
from penstock.errors import ConfigError, IntegrityError, InvalidInput


class Layout:
    """Which models and versions have a directory. Only real directories with valid names count.

    Reading raises ConfigError if a directory cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """The names that have at least one version, sorted."""
        return sorted(name for name in self._homes() if _is_name(name) and self.versions(name))

    def versions(self, name: str) -> list[str]:
        """The versions of a model, in no order; empty for a model that does not exist."""
        with suppress(NotADirectoryError):
            return [version for version in _directories(self.root / name) if _is_version(version)]
        return []

    def find(self, name: str, version: str) -> Path | None:
        """The directory of a version, None without one; raises IntegrityError for a link or a file in its place."""
        place = self.root / name / version
        for directory in (place.parent, place):
            kind = _kind(directory)
            if kind == 0:
                return None
            if kind == stat.S_IFLNK:
                raise IntegrityError(f"{directory} is a symbolic link; a registry contains plain directories only")
            if kind != stat.S_IFDIR:
                raise IntegrityError(f"{directory} is not a directory")
        return place

    def fingerprint(self) -> str:
        """A text that changes when a version is added or removed; cheap enough to read every second."""
        digest = hashlib.blake2b(digest_size=8)
        for name in sorted(self._homes()):
            with suppress(OSError):
                status = (self.root / name).stat()
                digest.update(f"{name}/{status.st_ino}/{status.st_nlink}/{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _homes(self) -> list[str]:
        """The directories in the root; a file in the place of the root is an error, in that of a model it is not."""
        try:
            return _directories(self.root)
        except NotADirectoryError:
            raise ConfigError(
                f"the registry cannot be at {self.root}: that is, or is below, a file and not a directory"
            ) from None


def _directories(path: Path) -> list[str]:
    """The real directories in `path`, none if it does not exist; raises NotADirectoryError and ConfigError."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from None


def _kind(path: Path) -> int:
    """The type of a file as in `stat.S_IFMT`, links not followed; 0 if it does not exist."""
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be read ({error.strerror}); give this user read access to the registry")


def _is_name(name: str) -> bool:
    with suppress(InvalidInput):
        return bool(check_name(name))
    return False


def _is_version(version: str) -> bool:
    with suppress(InvalidInput):
        return bool(check_version(version))
    return False
