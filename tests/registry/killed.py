"""Runs one action again and again, each time in a new process that kills itself one step later than the last.

    python killed.py ACTION SOURCE BASE RUNS [DATABASE]

A step is one call that changes or reads files, half of a write, or one SQL statement. With PostgreSQL, where a copy
costs more, only renames and what goes to the server are steps. For the k-th run, the registry BASE is copied to RUNS/k,
and its PostgreSQL database to one of the same name with `_k` at the end.
Prints the number of runs; the last one got to its end.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

import penstock.registry.database.postgres  # imported before the forks, as everything the actions need
import penstock.registry.database.sqlite
import penstock.registry.database.store  # noqa: F401
from penstock.artifacts.artifact import Artifact, TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry


def publish(registry: Registry, source: Path) -> None:
    registry.publish(source, prove=False)


def set_alias(registry: Registry, source: Path) -> None:
    registry.set_alias("m", "champion", "v1", force=True)


def remove(registry: Registry, source: Path) -> None:
    registry.remove("m:v1")


def write(registry: Registry, source: Path) -> None:
    model = Artifact.open(source)
    write_artifact(
        registry.path / "written",
        name="m",
        version="v1",
        task=TaskEntry(kind="tensor"),
        signature=model.signature,
        variants=[VariantSource("onnx", "fp32", model.variant_path(model.variants[0]))],
        golden=model.golden(),
        card="# A model\n",
    )


ACTIONS = {"publish": publish, "set_alias": set_alias, "remove": remove, "write": write}
CALLS = ("open", "close", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "scandir", "read")


class Fuse:
    """Kills the process at its n-th step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def step(self, *_: object) -> None:
        self.steps -= 1
        if self.steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **kwargs: Any) -> Any:
            self.step()
            return call(*args, **kwargs)

        return stepped

    def install(self, server: bool) -> None:
        if server:
            self._count_messages()
        else:
            self._count_calls()

    def _count_messages(self) -> None:
        os.rename = self.wrapped(os.rename)
        psycopg.Cursor.execute = self.wrapped(psycopg.Cursor.execute)  # type: ignore[method-assign]
        for name in ("connect", "commit", "close"):
            setattr(psycopg.Connection, name, self.wrapped(getattr(psycopg.Connection, name)))

    def _count_calls(self) -> None:
        real_write, real_connect = os.write, sqlite3.connect

        def torn_write(fd: int, data: Any) -> int:
            self.step()
            half = len(data) // 2
            written = real_write(fd, data[:half])
            self.step()
            return written + real_write(fd, data[half:])

        def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            self.step()
            connection = real_connect(*args, **kwargs)
            connection.set_trace_callback(self.step)
            return connection

        for name in CALLS:
            setattr(os, name, self.wrapped(getattr(os, name)))
        os.write = torn_write  # type: ignore[assignment]
        sqlite3.connect = connect  # type: ignore[assignment]


def _killed_at(step: int, action: Callable[[Registry, Path], None], registry: Registry, source: Path) -> bool:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            Fuse(step).install(registry.database_url.startswith("postgresql"))
            with registry:
                action(registry, source)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"step {step}: exit {status}")
    return False


def _copied(address: str, step: int) -> str:
    base, _, name = address.rpartition("/")
    with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}_{step} TEMPLATE {name}".encode())
    return f"{address}_{step}"


def main() -> None:
    action, source, base, runs = ACTIONS[sys.argv[1]], *map(Path, sys.argv[2:5])
    database = sys.argv[5] if len(sys.argv) > 5 else None
    step, killed = 0, True
    while killed:
        step += 1
        root = runs / str(step)
        if base.exists():
            shutil.copytree(base, root)
        elif sys.argv[1] == "write":
            root.mkdir(parents=True)
        killed = _killed_at(step, action, Registry(root, database and _copied(database, step)), source)
    print(step)


if __name__ == "__main__":
    main()
