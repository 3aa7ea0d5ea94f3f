"""Admin commands to a running server: load, unload and drain, followed by all its processes.

Loads and unloads are part of the registry's Deployment and concern every server of the registry. Draining concerns one
server: its processes share it in their common directory.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from penstock.engine.deployment.status import LoadResult, UnloadResult
from penstock.engine.engine import InferenceEngine
from penstock.gateway.worker_group import WorkerGroup

POLL_S = 0.05


class CommandedService(Protocol):
    """What a command acts on; `Service` is one."""

    engine: InferenceEngine
    workers: WorkerGroup | None

    def set_draining(self, draining: bool) -> None:
        """Begin or end a drain of this process."""

    async def models_changed(self) -> None:
        """Called after models were loaded or unloaded."""


class AdminCommands:
    """The commands of an operator to one server."""

    def __init__(self, service: CommandedService) -> None:
        self._service = service

    async def load(self, ref: str) -> LoadResult:
        """Serve a model. Raises the PenstockError of one that cannot be served, and then changes nothing."""
        result = await self._service.engine.load(ref)
        await self._service.models_changed()
        return result

    async def unload(self, ref: str) -> UnloadResult:
        """Stop serving a model. Raises ModelNotFound."""
        result = await self._service.engine.unload(ref)
        await self._service.models_changed()
        return result

    async def drain(self, draining: bool) -> None:
        """Refuse predictions in every process of this server, or accept them again. Raises ConfigError."""
        if self._service.workers is not None:
            await asyncio.to_thread(self._service.workers.set_draining, draining)
        self._service.set_draining(draining)

    async def processes_behind(self, timeout_s: float) -> int:
        """Wait until every process of this server has followed; return how many have not within the time."""
        workers = self._service.workers
        if workers is None:
            return 0
        until = asyncio.get_running_loop().time() + timeout_s
        while True:
            behind = await asyncio.to_thread(workers.behind, self._service.engine.deployment.revisions)
            if not behind or asyncio.get_running_loop().time() >= until:
                return len(behind)
            await asyncio.sleep(POLL_S)
