"""Runs one command in several processes at the same time: python racing.py COUNT REGISTRY DATABASE ACTION SOURCE…

The i-th process takes the i-th source, starting over if there are fewer. Prints a line for each process: the digest or
nothing on success, otherwise the kind of error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import penstock.registry.database.postgres
import penstock.registry.database.sqlite
import penstock.registry.database.store  # noqa: F401
from penstock.errors import PenstockError
from penstock.registry.registry import Registry


def publish(registry: Registry, source: str) -> str:
    return registry.publish(Path(source), prove=False).digest


def read(registry: Registry, source: str) -> str:
    """Adopt and read everything, many times."""
    for _ in range(20):
        for artifact in registry.artifacts():
            registry.get(artifact.ref).verify()
    return ""


def alias(registry: Registry, source: str) -> str:
    for number in range(20):
        registry.set_alias("m", f"alias-{number % 3}", source, force=True)
        registry.get(f"m@alias-{number % 3}")
        registry.revision()
    return ""


def unload(registry: Registry, source: str) -> str:
    for number in range(5):
        registry.change_deployment(lambda now, ref=f"{source}:{number}": now.unload(ref))  # type: ignore[misc]
        registry.deployment()
    return ""


ACTIONS: dict[str, Callable[[Registry, str], str]] = {
    "publish": publish,
    "read": read,
    "alias": alias,
    "unload": unload,
}


def race(count: int, registry: Registry, action: str, sources: Sequence[Path | str]) -> list[str]:
    """The output of each process; an error that is not Penstock's fails the test."""
    command = [sys.executable, __file__, count, registry.path, registry.database_url, action, *sources]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == count
    assert [answer for answer in answers if answer.startswith("!")] == []
    return answers


def _run(root: Path, database: str, action: str, source: str, gate: int) -> str:
    os.read(gate, 1)
    try:
        with Registry(root, database) as registry:
            return ACTIONS[action](registry, source)
    except PenstockError as error:
        return f"{type(error).__name__}: {error}"
    except BaseException as error:
        return f"!{type(error).__name__}: {error}"


def main() -> None:
    count, root, database, action, *sources = int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    gate, opener = os.pipe()
    children = []
    for number in range(count):
        out, into = os.pipe()
        if os.fork() == 0:
            os.close(opener)
            os.write(into, _run(root, database, action, sources[number % len(sources)], gate).encode() + b"\n")
            os._exit(0)
        os.close(into)
        children.append(out)
    os.close(opener)
    for out in children:
        with os.fdopen(out) as answer:
            print(answer.read(), end="")


if __name__ == "__main__":
    main()
