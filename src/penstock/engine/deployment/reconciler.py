"""Follows the deployment: loads what should be served, unloads the rest, and finds the model for a reference."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace

from penstock.artifacts.refs import FILE_VERSION
from penstock.engine.deployment.async_loader import AsyncLoader
from penstock.engine.deployment.golden_proof import GoldenProof
from penstock.engine.deployment.serving_plan import ModelUnloaded, ServingPlan, model_name, with_aliases
from penstock.engine.deployment.status import (
    DeploymentStatus,
    FailedAttempts,
    LoadResult,
    Revisions,
    UnloadResult,
    failing,
    load_note,
    reasons_of,
    unload_note,
)
from penstock.engine.deployment.traffic import Traffic
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.loading.manager import ModelManager
from penstock.errors import ConfigError, DatabaseUnavailable, InvalidInput, ModelLoadError, ModelNotFound, PenstockError
from penstock.formats import is_model_file
from penstock.registry.deployment import Change, Deployment, DeploymentStore, ProcessDeployment
from penstock.registry.routes import Routes

log = logging.getLogger(__name__)
MAX_ROUTES = 10_000  # references come from clients in many spellings; the models behind them are few


class Reconciler:
    """The models that this process serves; `reconcile` makes them follow the deployment."""

    def __init__(self, manager: ModelManager, *, default_ref: str | None, max_models: int) -> None:
        """`default_ref` answers callers who name no model. Of a whole registry, `max_models` are loaded at start."""
        self.default_ref = default_ref
        self._followed = Revisions()
        self._manager, self._registry = manager, manager.registry
        self._loader = AsyncLoader(manager)
        self._plan = ServingPlan(max_models=max_models)
        self._local: DeploymentStore = ProcessDeployment()
        self._stores = threading.Lock()  # what was read must not replace what was written meanwhile
        self._seen, self._changes = "", 0  # how often the stores were seen to have changed
        self.routes: dict[str, LoadedModel] = {}
        self._attempts = FailedAttempts(self.routes)
        proof = GoldenProof(manager.cache)
        self.traffic = Traffic(
            self.routes, proof, read=self._routes_after, load=self._load_routed, serves=lambda n: self._plan.serves(n)
        )

    # Start and close

    def share(self, store: DeploymentStore) -> None:
        """Keep what holds for this server only in a store that its other processes follow too. Before `start`."""
        self._local = store

    async def start(self, refs: Sequence[str] = (), *, strict: bool = True) -> None:
        """Load, warm up and verify the models to serve: `refs` and the default, or else the whole registry.

        With any of them named, only those and what operators loaded are served. A named model that ships in an
        installed package is published first. Of a whole registry, as many as `max_models` are loaded now, the others at
        their first request. `strict` raises the first error; otherwise `failed` names it and the others are served, but
        an invalid reference is raised all the same. What an operator unloaded stays unloaded, also when it is named.
        """
        named = tuple(dict.fromkeys([*([self.default_ref] if self.default_ref else []), *refs]))
        self._plan = replace(self._plan, arguments=named)
        await self._loader.run(self._publish_bundled, named)
        self._seen = await self._loader.run(self._read_stores)
        plan = self._plan
        if plan.deployment.unloads:
            unloaded = ", ".join(sorted(plan.deployment.unloads))
            log.warning("unloaded by an operator and not served: %s; POST /admin/load serves a model again", unloaded)
        self.default_ref = plan.default(None, answering=False)
        await self.traffic.start()
        first = {*plan.arguments, *plan.names}
        for ref in plan.wanted:
            await self._bring_up(ref, fatal=() if ref not in first else PenstockError if strict else InvalidInput)
        self._followed = Revisions(plan.stored.revision, plan.local.revision)

    def _publish_bundled(self, refs: Sequence[str]) -> None:
        for ref in refs:
            if not is_model_file(ref):
                self._registry.ensure(ref)

    async def _bring_up(self, ref: str, *, fatal: type[PenstockError] | tuple[()] = ()) -> None:
        """Load a model that should be served, or note why it is not. Raises what is `fatal`."""
        before = self.routes.get(ref)
        try:
            await self.model(ref)
        except ModelUnloaded:  # such as the version that its name means
            self._attempts.forget(ref)
        except fatal:
            raise
        except PenstockError as error:
            self._note(ref, before, error)
        self._pin()

    def _note(self, ref: str, before: LoadedModel | None, error: PenstockError) -> None:
        """Remember why a reference is not served as it should be; log what is new."""
        if self._attempts.note(ref, str(error), before):
            stays = "cannot be served" if before is None or before.retired else f"stays at {before.key}"
            log.error("%s %s: %s", ref, stays, error)

    async def close(self) -> None:
        """Unload every model and load nothing more."""
        await self.traffic.close()
        self.routes.clear()
        await self._loader.close()

    # Which model answers

    async def model(self, ref: str | None = None) -> LoadedModel:
        """The model for a reference, loaded now if it was not. Raises ModelNotFound or ModelLoadError."""
        model = self.routed(ref)
        if model is not None and not model.retired:
            return model
        ref = ref or self.default_ref
        if ref is None:
            raise ModelNotFound("there is no model to serve yet: publish one with `penstock models publish`")
        changes, model = self._changes, await self._found(ref)
        while changes != self._changes:  # what the reference meant when the load began may be outdated, and followed
            changes, model = self._changes, await self._found(ref)
        if len(self.routes) > MAX_ROUTES:
            self._forget_routes()
        self.routes[ref] = model
        return model

    async def _found(self, ref: str) -> LoadedModel:
        """The model that a reference means, loaded if it was not."""
        before = self.routes.get(ref)
        target = self._target(ref)
        model = self._loaded_as(target)
        if model is not None:
            return model
        try:
            key = target if is_model_file(target) else await self._loader.run(self._manager.key, target)
            self._refuse_unloaded(key)
            model = await self._loader.load(key)
        except ModelLoadError as error:
            if before is not None and ref in self._plan.wanted:  # evicted, and now it does not load
                self._note(ref, before, error)
            raise
        self._drop_unloaded(model)
        return model

    def _forget_routes(self) -> None:
        """Forget every reference but those that should be served; the models stay loaded."""
        for ref in self.routes.keys() - set(self._plan.wanted) - self.traffic.refs() - self.traffic.active.keys():
            del self.routes[ref]

    def routed(self, ref: str | None) -> LoadedModel | None:
        """The model that a reference led to before; None = the default."""
        return self.routes.get(ref or self.default_ref or "")

    def _target(self, ref: str) -> str:
        target = self._plan.target(ref, self._routed_key)
        return self.traffic.primary(target) or target

    def _routed_key(self, ref: str) -> str | None:
        model = self.routes.get(ref)
        return None if model is None else model.key

    def _loaded_as(self, target: str) -> LoadedModel | None:
        """The model that answers under another spelling already, also while the registry cannot be read."""
        return next((one for ref, one in self.routes.items() if target in (ref, one.key) and not one.retired), None)

    def _refuse_unloaded(self, key: str) -> None:
        if self._plan.is_unloaded(key):
            raise ModelUnloaded(key)

    def _drop_unloaded(self, model: LoadedModel) -> None:
        """Drop a model that was unloaded while it was being loaded here, and raise ModelUnloaded."""
        if self._plan.is_unloaded(model.key):
            self._manager.unload(model.key)
            raise ModelUnloaded(model.key)

    def _pin(self) -> None:
        pinned = (*self._plan.pinned(self.default_ref), *self.traffic.refs())
        self._manager.pin({self.routes[ref].key for ref in pinned if ref in self.routes})

    # What an operator changes

    async def load(self, ref: str) -> LoadResult:
        """Serve a model on every server of the registry, also if it was unloaded before.

        It is loaded here first. Raises the PenstockError of one that cannot be served, and then changes nothing. Where
        the registry's database cannot be written, it holds for this server only.
        """
        ref = self._plan.file_of(ref) or ref
        file, pin, changes = is_model_file(ref), ref not in self._plan.arguments, self._changes
        if file and pin:
            raise InvalidInput(f"{ref}: a model file is served by naming it when the server starts", field="model")
        model = await self._loader.load(ref if file else await self._loader.run(self._manager.key, ref))
        name = model_name(ref) if file else ref
        not_stored = await self._loader.run(self._write_stores, lambda now: now.load(name, pin=pin), file)
        self._drop_unloaded(model)
        if model.retired:  # another operator unloaded it in the meantime
            model = await self._loader.load(model.key)
        if changes == self._changes:
            self.routes[ref] = model
            self._attempts.forget(ref)
        else:  # the reference may mean another version by now
            model = await self.model(ref)
        self._pin()
        return LoadResult(model, not not_stored, load_note(name, pin, not_stored))

    async def unload(self, ref: str) -> UnloadResult:
        """Stop serving a model until `load`, on every server of the registry, also after a restart.

        A bare name means every version, an alias its current version. Requests in flight are answered first. Raises
        ModelNotFound for an unknown model. If the registry's database cannot be written, the unload holds for this
        server only.
        """
        name = model_name(ref)
        file = ref in (name, f"{name}:{FILE_VERSION}", self._plan.files.get(name)) and name in self._plan.files
        loaded = [model.key for model in self._manager.models() if model.name == name]
        if not (file or self._is_known(ref) or (ref == name and loaded)):
            await self._loader.run(self._manager.key, ref)
        self._refuse_routed(ref)
        asked = name if file else ref
        not_stored = await self._loader.run(self._write_stores, lambda now: now.unload(asked), file)
        self._withdraw()
        keys = [key for key in loaded if self._plan.is_unloaded(key)]
        return UnloadResult(keys, not not_stored, unload_note(asked, not_stored))

    def _refuse_routed(self, ref: str) -> None:
        key = self._plan.deployment.key(ref)
        route = None if key is None else self.traffic.naming(key)
        if route is not None:
            raise InvalidInput(f"{key} is part of the route {route}; take it out of the route first", field="model")

    def file_of(self, ref: str) -> str | None:
        """The bare model file that a name stands for here, loaded or not. File names may hold what names may not."""
        return self._plan.file_of(ref)

    def _is_known(self, ref: str) -> bool:
        """True for a reference that an operator named before, also if its artifact or alias was removed since."""
        return ref in (*self._plan.deployment.loads, *self._plan.deployment.unloads, *self._plan.wanted)

    def _write_stores(self, change: Change, file: bool) -> str:
        """Change the stored deployment, or else the local one. Why it is not stored; empty when it is."""
        with self._stores:
            not_stored = "a bare model file belongs to no registry" if file else ""
            try:
                if not file:
                    self._plan = replace(self._plan, stored=self._registry.change_deployment(change))
            except ConfigError as error:
                not_stored = str(error)
            self._take_local(self._local.deployment())
            local = self._plan.local
            if not_stored or local.loads or local.unloads:  # a local change from before would prevail
                aliased = functools.partial(with_aliases, change, self._plan.stored)
                self._take_local(self._local.change_deployment(aliased))
        return not_stored

    def _take_local(self, local: Deployment) -> None:
        """Take over a newer local deployment. A shared store that is gone, as when the server ends, changes nothing."""
        if local.revision > self._plan.local.revision:
            self._plan = replace(self._plan, local=local)

    def _withdraw(self) -> None:
        """Drop every model that an operator unloaded."""
        plan = self._plan
        for ref in [ref for ref, model in self.routes.items() if plan.is_unloaded(model.key)]:
            del self.routes[ref]
        self._pin()
        for key in [model.key for model in self._manager.models() if plan.is_unloaded(model.key)]:
            log.info("%s is unloaded; it is not served until it is loaded again", key)
            self._manager.unload(key)

    # What is and what should be

    @property
    def wanted(self) -> tuple[str, ...]:
        """The references that should be loaded."""
        return self._plan.wanted

    @property
    def failed(self) -> dict[str, str]:
        """Why a reference that should be served is not."""
        return self._attempts.failed(self._plan.wanted)

    @property
    def outdated(self) -> dict[str, str]:
        """Why a reference stays at an older version than the registry says."""
        return self._attempts.outdated()

    @property
    def problems(self) -> dict[str, str]:
        """Why a reference is not served, or stays at an older version than the registry says."""
        return {**self.outdated, **self.failed}

    @property
    def stored(self) -> Deployment:
        """What the registry says, as far as this process knows."""
        return self._plan.stored

    @property
    def revisions(self) -> Revisions:
        """Of what this process should follow, as far as it knows."""
        return Revisions(self._plan.stored.revision, self._plan.local.revision, max(0, self.traffic.stored.revision))

    @property
    def followed(self) -> Revisions:
        """What this process has followed completely."""
        return self._followed._replace(routes=self.traffic.followed)

    def status(self) -> DeploymentStatus:
        """What this process should serve, and the problems with it."""
        why = self.problems | self.traffic.problems | failing(self.routes, self.wanted)
        return DeploymentStatus(self.default_ref, self.wanted, tuple(sorted(self._plan.deployment.unloads)), why)

    def reasons(self) -> list[str]:
        """Why this process is not ready. An unload by an operator is a reason only if no other model is left."""
        return reasons_of(self.failed | failing(self.routes, self.wanted), self.wanted, self._plan.deployment.unloads)

    # Following

    async def reconcile(self) -> None:
        """Follow the deployment and the registry: drop unloaded models, load those that should be served.

        A version that cannot be loaded leaves the one before it answering and is tried again at every call. Raises
        ConfigError where the registry cannot be read; the loaded models go on answering.
        """
        expected = any(model.artifact is not None for model in self.routes.values())
        try:
            seen = await self._loader.run(self._read_stores, expected)
        except ConfigError:
            self._withdraw()
            self._followed = self._followed._replace(local=self._plan.local.revision)
            raise
        revisions, changed = self.revisions, seen != self._seen
        if not (changed or self.problems):
            return
        self._withdraw()
        before = {model.key for model in self.routes.values() if model.artifact is not None}
        await self._follow_routes()
        self.default_ref = self._plan.default(self.default_ref, answering=self.default_ref in self.routes)
        for ref in self._plan.wanted:
            if ref not in self.routes or ref in self.failed:
                await self._bring_up(ref)
        self._attempts.prune()
        self._pin()
        for key in before - {model.key for model in self.routes.values()}:
            self._manager.unload(key)
        self._seen, self._followed = seen, revisions

    def _read_stores(self, expected: bool = False) -> str:
        """Take over what the stores hold; a text that changes with it. A registry that was `expected` must be there."""
        with self._stores:
            self._take_local(self._local.deployment())
            # a name whose route was removed means another version
            seen = f"{self._plan.local.revision} {self._registry.revision()} {' '.join(self.traffic.active)}"
            if seen != self._seen:
                self._changes += 1
                where, stored = self._registry.path, self._registry.deployment()
                gone = expected and not where.is_dir()
                if not gone or stored.revision > self._plan.stored.revision:  # its database may be elsewhere
                    self._plan = replace(self._plan, stored=stored)
                if gone:
                    raise DatabaseUnavailable(f"the registry {where} is gone; the loaded models go on answering")
                self._plan = replace(self._plan, names=() if self._plan.arguments else tuple(self._registry.list()))
        return seen

    async def _routes_after(self, revision: int) -> Routes | None:
        return await self._loader.run(self._read_routes, revision)

    def _read_routes(self, revision: int) -> Routes | None:
        book = self._registry.routes
        return None if book.revision() == revision else book.all()

    async def _load_routed(self, ref: str) -> None:
        await self.model(ref)
        self._pin()

    async def _follow_routes(self) -> None:
        """Lead every reference in use to the version that it means now, also those that clients add meanwhile."""
        followed: dict[str, LoadedModel] = {}
        while behind := [(ref, model) for ref, model in self.routes.items() if followed.get(ref) is not model]:
            for ref, model in behind:
                followed[ref] = model if model.artifact is None else await self._follow(ref, model)

    async def _follow(self, ref: str, model: LoadedModel) -> LoadedModel:
        """The model that answers for a reference from now on."""
        try:
            key = await self._loader.run(self._manager.key, self._target(ref))
            if key != model.key:
                self._refuse_unloaded(key)
            now = await self._loader.load(key, fresh=True) if key != model.key else await self._refreshed(model)
            if now is not model:
                self._drop_unloaded(now)
                self.routes[ref] = now
                log.info("%s is now %s", ref, key)
            if not now.retired:
                self._attempts.forget(ref)
            return now
        except ModelUnloaded as error:
            if not self._plan.is_unloaded(model.key):
                self._attempts.note(ref, str(error), model)
        except ModelNotFound:
            self.routes.pop(ref, None)
        except PenstockError as error:
            self._note(ref, model, error)
        return model

    async def _refreshed(self, model: LoadedModel) -> LoadedModel:
        """The model under the same name and version, which another content may have been published as.

        One that was evicted for lack of room is loaded again by its next request, unless its content is another.
        """
        if model.retired and not await self._loader.run(self._manager.outdated, model):
            return model
        return await self._loader.load(model.key, fresh=True)
