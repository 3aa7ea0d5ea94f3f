"""What an operator has asked of this server (load, unload, drain), obeyed by all of its processes.

Aliases are no orders: they are in the registry's store and concern every server. Orders are gone when the server ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import orjson

from penstock.engine.engine import InferenceEngine
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.errors import ConfigError, PenstockError
from penstock.gateway.process.worker_group import WorkerGroup
from penstock.registry.locking import locked

log = logging.getLogger(__name__)

WATCH_EVERY_S = 0.1
"""How often a process looks whether another one was given an order."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The orders in force, as references; `revision` counts up with every change."""

    revision: int = 0
    load: tuple[str, ...] = ()
    unload: tuple[str, ...] = ()
    draining: bool = False


class CommandedService(Protocol):
    """What a command acts on; `Service` is one."""

    engine: InferenceEngine
    following: asyncio.Lock
    workers: WorkerGroup | None

    def begin_drain(self) -> None:
        """Refuse new predictions."""

    def end_drain(self) -> None:
        """Take predictions again."""

    async def models_changed(self) -> None:
        """Called after models were loaded or unloaded."""

    def figures(self) -> dict[str, Any]:
        """What this process shares with the others."""


class Orders:
    """The orders of one server. Several processes share them as a file beside their figures."""

    def __init__(self, service: CommandedService) -> None:
        self._service = service
        self._standing = Standing()

    @property
    def revision(self) -> int:
        """Of the orders that this process has obeyed."""
        return self._standing.revision

    # Giving

    async def load(self, ref: str) -> LoadedModel:
        """Have a model served; raises its PenstockError when it cannot be, and then no process is told."""
        async with self._service.following:
            model = await self._service.engine.served.load(ref)
            await self._give(lambda now: replace(now, load=_with(now.load, ref), unload=_without(now.unload, ref)))
        return model

    async def unload(self, ref: str) -> list[str]:
        """Have a model served no more; the versions that left. Raises ModelNotFound."""
        async with self._service.following:
            left = await self._service.engine.served.unload(ref)
            await self._give(lambda now: replace(now, load=_without(now.load, ref), unload=_with(now.unload, ref)))
        return left

    async def drain(self, draining: bool) -> None:
        """Refuse predictions from now on, or take them again."""
        async with self._service.following:
            self._set_draining(draining)
            await self._give(lambda now: replace(now, draining=draining))

    async def _give(self, change: Callable[[Standing], Standing]) -> None:
        """Write down what this process has done already; what others were told meanwhile is done as well."""
        path = self._path
        await self._service.models_changed()
        self._standing = change(self._standing)
        if path is None:
            self._standing = replace(self._standing, revision=self._standing.revision + 1)
            return
        await self._catch_up(await asyncio.to_thread(_write, path, change))
        await self._tell()

    # Obeying

    async def obey(self) -> None:
        """Do what another process was told since this one looked last."""
        path = self._path
        if path is None:
            return
        standing = await asyncio.to_thread(_read, path)
        if standing.revision > self._standing.revision:
            async with self._service.following:
                await self._catch_up(standing)
            await self._tell()

    async def watch(self) -> None:
        """Obey again and again; ends when cancelled."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            try:
                await self.obey()
            except Exception:
                log.exception("the orders of another process cannot be followed")

    async def obeyed_by_all(self, timeout_s: float) -> int:
        """Wait until every process has done the same; how many have not within the time."""
        peers = self._service.workers
        if peers is None:
            return 0
        until = asyncio.get_running_loop().time() + timeout_s
        while True:
            late = await asyncio.to_thread(peers.behind, self.revision)
            if not late or asyncio.get_running_loop().time() >= until:
                return len(late)
            await asyncio.sleep(WATCH_EVERY_S / 2)

    async def _catch_up(self, standing: Standing) -> None:
        done, served = self._standing, self._service.engine.served
        for ref in (ref for ref in standing.unload if ref not in done.unload):
            try:
                await served.unload(ref)
            except PenstockError as error:
                log.warning("%s cannot be unloaded: %s", ref, error)
        for ref in (ref for ref in standing.load if ref not in done.load):
            await served.want(ref)
        await self._service.models_changed()
        self._set_draining(standing.draining)
        self._standing = standing

    def _set_draining(self, draining: bool) -> None:
        if draining:
            self._service.begin_drain()
        else:
            self._service.end_drain()

    async def _tell(self) -> None:
        if self._service.workers is not None:
            await asyncio.to_thread(self._service.workers.publish, self._service.figures)

    @property
    def _path(self) -> Path | None:
        peers = self._service.workers
        return None if peers is None else peers.directory / "orders"


def _read(path: Path) -> Standing:
    """What is in force; nothing where no order was given yet, or the processes are about to end.

    Any other OSError is raised: an order that cannot be read for a moment is still in force.
    """
    try:
        found = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return Standing()
    return Standing(found["revision"], tuple(found["load"]), tuple(found["unload"]), found["draining"])


def _write(path: Path, change: Callable[[Standing], Standing]) -> Standing:
    """Change what is in force, aside and then renamed, one process at a time; what it is now."""
    aside = path.with_suffix(".new")
    try:
        with locked(path.with_suffix(".lock")):
            before = _read(path)
            after = replace(change(before), revision=before.revision + 1)
            aside.write_bytes(orjson.dumps(asdict(after)))
            aside.rename(path)
    except OSError as error:
        raise ConfigError(f"the other processes of this server cannot be told: {error.strerror or error}") from None
    return after


def _with(refs: Iterable[str], ref: str) -> tuple[str, ...]:
    return (*_without(refs, ref), ref)


def _without(refs: Iterable[str], ref: str) -> tuple[str, ...]:
    return tuple(one for one in refs if one != ref)
