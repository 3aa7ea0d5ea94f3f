"""Which models should be served, which of them answers a reference, and how both follow the registry."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from penstock.artifacts.refs import name_of
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.loading.manager import ModelManager
from penstock.errors import ConfigError, ModelNotFound, PenstockError
from penstock.formats import is_model_file

log = logging.getLogger(__name__)
T = TypeVar("T")


class Served:
    """What this process should serve and what it does serve, brought together by `reconcile`."""

    def __init__(self, manager: ModelManager, *, default_ref: str | None, most_at_start: int) -> None:
        """`default_ref` answers where a caller names nothing; of a whole registry `most_at_start` models are loaded."""
        self.default_ref = default_ref
        self.wanted: list[str] = []
        self.problems: dict[str, str] = {}
        """Why a model that should be served is not, by its reference."""
        self.stuck: dict[str, str] = {}
        """Why a reference stays at an older version than the registry says."""
        self._manager = manager
        self._registry = manager.registry
        self._most_at_start = most_at_start
        self.routes: dict[str, LoadedModel] = {}
        """The model that answers each reference that was used before."""
        self._whole_registry = True
        self._revision = ""
        self._asked: list[str] = []
        self._files: dict[str, str] = {}
        self._unloaded: set[str] = set()
        self._lookups = ThreadPoolExecutor(2, thread_name_prefix="penstock-look")
        self._loaders = ThreadPoolExecutor(2, thread_name_prefix="penstock-load")
        self._loads: dict[tuple[str, bool], Future[LoadedModel]] = {}

    # Life

    async def start(self, refs: Sequence[str] = (), *, strict: bool = True) -> None:
        """Load, warm and prove the models to serve: `refs` and the default, or else the whole registry.

        With any of them named, nothing else is served. One that is not in the registry but ships in an installed
        package is published first. Of a whole registry, as many as `max_models` are loaded now and the others when
        they are asked for. `strict` raises the first error; otherwise `ready()` tells it and the others are served.
        """
        named = list(dict.fromkeys([*([self.default_ref] if self.default_ref else []), *refs]))
        self._whole_registry = not named
        await self._aside(self._publish_bundled, named)
        self._revision = await self._aside(self._registry.revision)
        self.wanted = named or await self._first_of_registry()
        if self.default_ref is None and self.wanted:
            self.default_ref = self.wanted[0]
        for ref in self.wanted:
            await self._bring_up(ref, strict=strict)

    async def _first_of_registry(self) -> list[str]:
        names = [name for name in await self._aside(self._registry.list) if name not in self._unloaded]
        return list(dict.fromkeys([*names[: self._most_at_start], *self._asked]))

    async def _bring_up(self, ref: str, *, strict: bool = False) -> None:
        """Load a model that should be served, or note why it is not."""
        try:
            await self.model(ref)
        except _Unloaded:
            self.problems.pop(ref, None)
        except PenstockError as error:
            if strict:
                raise
            if self.problems.get(ref) != str(error):
                log.error("%s cannot be served: %s", ref, error)
            self.problems[ref] = str(error)
        else:
            self.problems.pop(ref, None)
        self._pin()

    def _publish_bundled(self, refs: Sequence[str]) -> None:
        for ref in refs:
            if not is_model_file(ref):
                self._registry.ensure(ref)

    async def close(self) -> None:
        """Let go of every model and load nothing more."""
        self.routes.clear()
        if self._manager.open:
            await self._aside(self._manager.close)
        for pool in (self._loaders, self._lookups):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _aside(self, work: Callable[..., T], *args: Any) -> T:
        self._manager.check_open()  # in a forked process these threads are not there, and would be waited for
        asked = asyncio.get_running_loop().run_in_executor(self._lookups, functools.partial(work, *args))
        return await self._unless_closed(asked)

    async def _unless_closed(self, work: Awaitable[T]) -> T:
        """What `work` gives; ModelNotReady where it still waited for a thread when all was closed."""
        try:
            return await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():  # it was not the caller who gave up
                self._manager.check_open()
            raise

    async def _load(self, ref: str, *, fresh: bool = False) -> LoadedModel:
        """Load in a thread; whoever asks for the same model meanwhile waits for it without holding another."""
        wanted = (ref, fresh)  # what was asked for before may have read the content of before
        load = self._loads.get(wanted)
        if load is None:
            self._manager.check_open()
            load = self._loads[wanted] = self._loaders.submit(self._manager.load_model, ref, fresh=fresh)
            load.add_done_callback(lambda _: self._loads.pop(wanted, None))
        return await self._unless_closed(asyncio.shield(asyncio.wrap_future(load)))

    # Which model answers

    async def model(self, ref: str | None = None) -> LoadedModel:
        """The model for a reference, loaded now if it was not. Raises ModelNotFound or ModelLoadError."""
        model = self.routed(ref)
        if model is not None and not model.retired:
            return model
        ref = ref or self.default_ref
        if ref is None:
            raise ModelNotFound("there is no model to serve yet: publish one with `penstock models publish`")
        target = self._target(ref)
        model = self._at_hand(target)
        if model is None:
            key = target if is_model_file(target) else await self._aside(self._manager.key, target)
            self._refuse_unloaded(key)
            model = await self._load(key)
            self._drop_unloaded(model)
        if len(self.routes) > 10_000:  # spellings of references come from clients; the models behind them are few
            self.routes.clear()
        self.routes[ref] = model
        return model

    def _at_hand(self, target: str) -> LoadedModel | None:
        """What answers under another spelling already, and goes on doing so when the registry is ill."""
        routes = self.routes.items()
        return next((model for ref, model in routes if target in (ref, model.key) and not model.retired), None)

    def routed(self, ref: str | None) -> LoadedModel | None:
        """The model a reference led to before; None = the default."""
        return self.routes.get(ref or self.default_ref or "")

    def _target(self, ref: str) -> str:
        """What a caller's reference means in the registry; raises ModelNotFound for what is not served here.

        A model served by name answers in all its versions, one served as `name:version` or `name@alias` only as such,
        and its bare name means just that.
        """
        if self._whole_registry or ref in self.wanted:
            return ref
        name = _name_of(ref)
        served = [wanted for wanted in self.wanted if _name_of(wanted) == name]
        if name in served or any(is_model_file(wanted) for wanted in served):
            return ref
        if served and ref == name:
            return served[0]
        if any(ref == self.routes[wanted].key for wanted in served if wanted in self.routes):
            return ref
        raise ModelNotFound(f"the model {ref} is not served here; served are {', '.join(self.wanted)}")

    def _pin(self) -> None:
        """What was named stays loaded; of a whole registry only the default does."""
        named = [self.default_ref or "", *self._asked] if self._whole_registry else self.wanted
        self._manager.pin({self.routes[ref].key for ref in named if ref in self.routes})

    # What an operator adds and takes away

    async def load(self, ref: str) -> LoadedModel:
        """Serve a model from now on, even if it was unloaded before.

        Raises the PenstockError of one that cannot be served, and then changes nothing.
        """
        ref = self._file_of(ref) or ref
        key = ref if is_model_file(ref) else await self._aside(self._manager.key, ref)
        model = await self._load(key)
        self._want(ref, model.key)
        self.routes[ref] = model
        self._pin()
        return model

    async def want(self, ref: str) -> None:
        """As `load`, but what cannot be served is a problem that `ready()` tells and every `reconcile` tries again."""
        try:
            await self.load(ref)
        except PenstockError as error:
            self._want(ref, key="")
            self.problems[ref] = str(error)
            log.error("%s cannot be served: %s", ref, error)

    def _want(self, ref: str, key: str) -> None:
        self._unloaded -= {_name_of(ref), ref, key}
        self.problems.pop(ref, None)
        if not is_model_file(ref) and ref not in self._asked:
            self._asked.append(ref)
        if ref not in self.wanted:
            self.wanted.append(ref)
        if self.default_ref is None:
            self.default_ref = ref

    async def unload(self, ref: str) -> list[str]:
        """Take a model out of service until `load` brings it back: the `name:version`s that left.

        A bare name means every version. References that lead to it are told so, and requests inside are answered
        first. Raises ModelNotFound for what there is not.
        """
        name = _name_of(ref)
        loaded = [model.key for model in self._manager.models()]
        if ref == name or is_model_file(ref):
            keys = [key for key in loaded if name_of(key) == name]
            if not keys and name not in map(_name_of, self.wanted):
                await self._aside(self._manager.key, ref)
            self._unloaded.add(name)
        else:
            keys = [await self._aside(self._manager.key, ref)]
            self._unloaded.update(keys)
        gone = {ref, *keys, *(wanted for wanted in self.wanted if ref == name == _name_of(wanted))}
        self._files |= {_name_of(wanted): wanted for wanted in self.wanted if is_model_file(wanted)}
        for left in (self.wanted, self._asked):
            left[:] = [wanted for wanted in left if wanted not in gone]
        for one in gone | {route for route, model in self.routes.items() if model.key in keys}:
            self.routes.pop(one, None)
            self.problems.pop(one, None)
            self.stuck.pop(one, None)
        self._pin()
        for key in keys:
            self._manager.unload(key)
        return [key for key in keys if key in loaded]

    @property
    def unloaded(self) -> list[str]:
        """What an operator took out of service, by name or `name:version`."""
        return sorted(self._unloaded)

    def _file_of(self, ref: str) -> str | None:
        """The file that was served under a name before it was unloaded: no other file can be asked for."""
        return self._files.get(ref) or self._files.get(ref.removesuffix(":1"))

    def _is_unloaded(self, key: str) -> bool:
        return key in self._unloaded or _name_of(key) in self._unloaded

    def _refuse_unloaded(self, key: str) -> None:
        if self._unloaded and self._is_unloaded(key):
            raise _Unloaded(f"{key} was unloaded from this server; it answers again when it is loaded")

    def _drop_unloaded(self, model: LoadedModel) -> None:
        """Raise and let go of a model that an operator unloaded while it was loaded here."""
        if self._is_unloaded(model.key):
            self._manager.unload(model.key)
        self._refuse_unloaded(model.key)

    # Following the registry

    async def reconcile(self) -> None:
        """Follow the registry: load what an alias or a version means now, then let go of what it meant before.

        What cannot be loaded leaves the version before it answering and is tried again.
        """
        revision = await self._aside(self._registry.revision)
        if revision == self._revision and not self.stuck and not self.problems:
            return
        kept = any(model.artifact is not None for model in self.routes.values())
        if kept and not await self._aside(self._registry.path.is_dir):
            raise ConfigError(f"the registry {self._registry.path} is gone; the loaded models go on answering")
        before = {model.key for model in self.routes.values() if model.artifact is not None}
        self.stuck = {ref: why for ref, why in self.stuck.items() if ref in self.routes}
        for ref, model in list(self.routes.items()):
            if model.artifact is not None:
                await self._follow(ref, model)
        if self._whole_registry:
            self.wanted = await self._first_of_registry()
            taken_out = {name_of(key) for key in self._unloaded}  # its callers are told so, rather than led elsewhere
            if self.default_ref not in self.routes and _name_of(self.default_ref or "") not in taken_out:
                self.default_ref = next(iter(self.wanted), None)
            self.problems = {ref: why for ref, why in self.problems.items() if ref in self.wanted}
        for ref in list(self.wanted):  # an operator may change it meanwhile
            if ref not in self.routes:
                await self._bring_up(ref)
        self._pin()
        for key in before - {model.key for model in self.routes.values()}:
            self._manager.unload(key)
        self._revision = revision

    async def _follow(self, ref: str, model: LoadedModel) -> None:
        try:
            key = await self._aside(self._manager.key, self._target(ref))
            if key != model.key:
                self._refuse_unloaded(key)
            now = await self._load(key, fresh=True) if key != model.key else await self._refreshed(model)
            if now is not model:
                self._drop_unloaded(now)
                self.routes[ref] = now
                log.info("%s is now %s", ref, key)
            self.stuck.pop(ref, None)
        except ModelNotFound as error:
            if not isinstance(error, _Unloaded):
                self.routes.pop(ref, None)
                return
            self.stuck[ref] = str(error)
        except PenstockError as error:
            if self.stuck.get(ref) != str(error):
                log.error("%s stays at %s: %s", ref, model.key, error)
            self.stuck[ref] = str(error)

    async def _refreshed(self, model: LoadedModel) -> LoadedModel:
        """The model under the same name and version, which another content may have been published as."""
        return model if model.retired else await self._load(model.key, fresh=True)


class _Unloaded(ModelNotFound):
    """An operator has taken it out of service here."""


def _name_of(ref: str) -> str:
    return Path(ref).stem if is_model_file(ref) else name_of(ref)
