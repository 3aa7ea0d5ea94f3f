"""The key of the admin routes: set by the operator, or generated and kept beside the registry's database."""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from penstock.errors import ConfigError, disk_problem
from penstock.settings import MIN_ADMIN_KEY, Settings, is_admin_key

log = logging.getLogger(__name__)

FILE = "admin.key"
_LARGEST = 4096
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PATIENCE_S = 2.0
"""How long another process may take between creating the file and writing the key into it."""


def key_file(registry: Path, database_url: str | None) -> Path:
    """Where the generated key is kept: beside the SQLite database, with any other database in the registry."""
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", database_url or "")
    if match is not None and match[1] != ":memory:":
        return Path(match[1]).absolute().with_name(FILE)
    return registry.absolute() / FILE


class AdminKey:
    """The key in force. A file that was changed or removed counts at the next request. Thread-safe."""

    def __init__(self, configured: str | None, file: Path) -> None:
        """`configured` is the key of the settings, and `file` the place of the generated one. Nothing is read yet."""
        self.file = file
        self._configured = configured
        self._lock = threading.Lock()
        self._read: tuple[object, str | None] = (None, None)
        """What told the file from its earlier contents, and the key in it."""

    @classmethod
    def of(cls, settings: Settings) -> AdminKey:
        """The key that servers with these settings ask for."""
        return cls(settings.admin_key, key_file(settings.registry, settings.database_url))

    def prepare(self) -> str:
        """Generate the key unless there is one; where it is, or why there is none, as a part of a sentence."""
        if self._configured is not None:
            return "the admin key is the setting admin_key"
        try:
            if not os.path.lexists(self.file):
                create_secret(self.file)
        except OSError as error:
            why = disk_problem(error, self.file) or f"{self.file} cannot be written ({error.strerror})"
            return f"the admin routes are closed: {why}; {_SET_IT}"
        if self.current() is None:
            return f"the admin routes are closed: there is no usable key in {self.file}; {_SET_IT}"
        return f"the admin key is in {self.file}"

    def current(self) -> str | None:
        """The key; None without one, and then no admin request is admitted."""
        if self._configured is not None:
            return self._configured
        with self._lock:
            mark = _mark(self.file)
            if mark is None:
                return None
            if mark != self._read[0]:
                key = self._load()
                self._read = (_mark(self.file), key)
            return self._read[1]

    def _load(self) -> str | None:
        try:
            return read_key(self.file)
        except ConfigError as error:
            log.warning("%s", error)
            return None


_SET_IT = "set PENSTOCK_ADMIN_KEY"


def read_key(file: Path, what: str = "admin key", set_it: str = _SET_IT) -> str:
    """The secret in a file. One that others may read is closed to them, with a warning.

    Raises ConfigError for a file that cannot be read, is a link or open to others, and for one without a proper key.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        why = "it is a symbolic link" if file.is_symlink() else error.strerror
        raise ConfigError(f"the {what} cannot be read from {file}: {why}; {set_it}") from None
    try:
        _keep_private(descriptor, file, what, set_it)
        text = os.read(descriptor, _LARGEST).decode("ascii", "replace").strip()
    except OSError as error:
        raise ConfigError(f"the {what} cannot be read from {file}: {error.strerror}; {set_it}") from None
    finally:
        os.close(descriptor)
    if not is_admin_key(text):
        raise ConfigError(
            f"{file} holds no {what} of {MIN_ADMIN_KEY} or more printable ASCII characters; remove it for another "
            f"one, or {set_it}"
        )
    return text


def _keep_private(descriptor: int, file: Path, what: str, set_it: str) -> None:
    """Take the file from everybody but its owner. Raises ConfigError where that is not possible."""
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{file} is not a file, so it cannot hold the {what}; {set_it}")
    if not mode & _OTHERS:
        return
    with suppress(OSError):
        os.fchmod(descriptor, 0o600)
    if os.fstat(descriptor).st_mode & _OTHERS:
        raise ConfigError(f"{file} is open to other users (mode {mode & 0o777:o}) and is not used; make it 600")
    log.warning(
        "%s was open to other users (mode %o) and is 600 now; to replace the key, remove the file and restart a server",
        file,
        mode & 0o777,
    )


def _mark(file: Path) -> tuple[int, ...] | None:
    """What changes with the content or the mode of a file; None if there is no file."""
    try:
        status = os.lstat(file)
    except OSError:
        return None
    return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns


def create_secret(file: Path) -> None:
    """Write a new secret, unless another process was faster: all find the same complete one. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)  # only its owner may read it
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(f"{secrets.token_urlsafe(32)}\n")
            stream.flush()
            os.fsync(descriptor)
        try:
            os.link(temporary, file)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            _create_in_place(file, Path(temporary).read_bytes())
    finally:
        Path(temporary).unlink(missing_ok=True)


def _create_in_place(file: Path, content: bytes) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        until = time.monotonic() + _PATIENCE_S
        while not file.stat().st_size and time.monotonic() < until:
            time.sleep(0.01)
        return
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
