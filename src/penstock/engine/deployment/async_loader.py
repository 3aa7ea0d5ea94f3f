"""Looks models up and loads them in threads, for callers on event loops."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.loading.manager import ModelManager
from penstock.engine.single_flight import SingleFlight, contained

T = TypeVar("T")

THREADS = 2
"""For each of look-ups and loads: a slow load holds up neither the look-ups nor every other load. Look-ups have
one more, since the deployment and the routes are read at the same time, which may both wait for a database.
"""


class AsyncLoader:
    """The threads between event loops and a ModelManager."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager
        self._lookups = ThreadPoolExecutor(THREADS + 1, thread_name_prefix="penstock-look")
        self._loaders = ThreadPoolExecutor(THREADS, thread_name_prefix="penstock-load")
        self._loads: SingleFlight[tuple[str, bool], LoadedModel] = SingleFlight()

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """The result of short blocking work, such as a query. Raises ModelNotReady after `close` or in a fork."""
        self._manager.check_open()  # a forked process has none of these threads and would wait for ever
        context = contextvars.copy_context()  # which says who makes a change, for the audit log
        call = functools.partial(contained, functools.partial(context.run, work, *args))
        future = asyncio.get_running_loop().run_in_executor(self._lookups, call)
        return await self._unless_closed(future)

    async def load(self, ref: str, *, fresh: bool = False) -> LoadedModel:
        """As `ModelManager.load_model`. Callers of the same load share it and occupy no further thread.

        A load that began without `fresh` may have read the content of before, and is not shared with one that wants it.
        """
        self._manager.check_open()
        call = functools.partial(contained, functools.partial(self._manager.load_model, ref, fresh=fresh))
        load = self._loads.share((ref, fresh), functools.partial(self._loaders.submit, call))
        return await self._unless_closed(asyncio.shield(asyncio.wrap_future(load)))

    async def close(self) -> None:
        """Close the manager and start no further work."""
        if self._manager.open:
            await self.run(self._manager.close)
        for pool in (self._loaders, self._lookups):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _unless_closed(self, work: Awaitable[T]) -> T:
        """The result of `work`; ModelNotReady when it still waited for a thread at `close`."""
        try:
            return await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():  # the caller did not cancel
                self._manager.check_open()
            raise
