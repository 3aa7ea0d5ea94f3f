"""Engines that follow one deployment: two processes, a restart, and a registry that cannot be written."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import FEATURES, Publish

from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.errors import ConfigError, InvalidInput, ModelNotFound
from penstock.registry.database.store import Store
from penstock.registry.registry import Registry

MakeEngine = Callable[..., InferenceEngine]
X = np.ones(FEATURES, np.float32)
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
async def make(registry: Registry) -> AsyncIterator[MakeEngine]:
    """Make engines, each with a separate registry object, as in separate processes."""
    made: list[tuple[InferenceEngine, Registry]] = []

    def make(**config: Any) -> InferenceEngine:
        own = Registry(registry.path, registry.database_url)
        made.append((InferenceEngine(InferenceConfig(**config), registry=own), own))
        return made[-1][0]

    yield make
    for engine, own in made:
        await engine.close()
        own.close()


def loaded(engine: InferenceEngine) -> list[str]:
    return sorted(model.key for model in engine.loaded())


async def refused(engine: InferenceEngine, ref: str | None = None) -> str:
    with pytest.raises(ModelNotFound) as error:
        await engine.predict(X, ref=ref)
    return str(error.value)


@pytest.fixture
def unwritable(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Callable[[], sqlite3.Connection]:
    """Hold the lock of the registry's database until the connection is closed: it can be read and not written."""
    monkeypatch.setattr("penstock.registry.database.sqlite_file.BUSY_TIMEOUT_S", 0.05)

    def hold() -> sqlite3.Connection:
        holder = sqlite3.connect(registry.path / "registry.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        return holder

    return hold


# Several processes


async def test_a_load_and_an_unload_in_one_process_are_followed_by_another(make: MakeEngine, publish: Publish) -> None:
    for name in ("a", "b", "c"):
        publish(name)
    one, other = make(), make()
    await one.start(["a"])
    await other.start(["b"])
    result = await one.load("c")
    assert (result.model.key, result.persisted) == ("c:1.0.0", True)
    assert "every server of this registry loads c" in result.note
    await other.reconcile()
    assert loaded(other) == ["b:1.0.0", "c:1.0.0"]
    assert other.deployment.followed == one.deployment.revisions
    assert (await other.unload("c")).keys == ["c:1.0.0"]
    await one.reconcile()
    assert loaded(one) == ["a:1.0.0"]
    assert "c was unloaded by an operator" in await refused(one, "c")


async def test_a_registry_object_writes_what_an_engine_follows(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish("a")
    publish("b")
    engine = make()
    await engine.start(["a"])
    registry.change_deployment(lambda now: now.load("b"))
    await engine.reconcile()
    assert loaded(engine) == ["a:1.0.0", "b:1.0.0"]
    registry.change_deployment(lambda now: now.unload("b"))
    await engine.reconcile()
    assert loaded(engine) == ["a:1.0.0"]


async def test_unloading_and_loading_a_named_model_leaves_servers_of_other_models_alone(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish("a")
    publish("b")
    one, other = make(), make()
    await one.start(["a"])
    await other.start(["b"])
    await one.unload("a")
    await one.load("a")
    await other.reconcile()
    assert (loaded(one), loaded(other)) == (["a:1.0.0"], ["b:1.0.0"])
    assert registry.deployment().loads == registry.deployment().unloads == ()


# A restart


async def test_an_unload_survives_a_restart_with_the_same_arguments_and_the_log_lists_it(
    make: MakeEngine, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish("a")
    publish("b")
    before = make()
    await before.start(["a", "b"])
    result = await before.unload("a")
    assert result.persisted
    assert "also after a restart, until it is loaded again" in result.note
    await before.close()
    after = make()
    with caplog.at_level(logging.WARNING):
        await after.start(["a", "b"])
    assert "unloaded by an operator and not served: a; POST /admin/load" in caplog.text
    assert loaded(after) == ["b:1.0.0"]
    assert after.ready() == (True, [])
    assert after.default_ref == "a", "callers who name no model are refused, not answered by another model"
    assert "until it is loaded again" in await refused(after)
    await after.load("a")
    assert (await after.predict(X)).model == "a"


async def test_a_server_whose_only_model_is_unloaded_starts_and_is_not_ready(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish("a")
    registry.change_deployment(lambda now: now.unload("a"))
    engine = make()
    await engine.start(["a"])
    ready, reasons = engine.ready()
    assert not ready
    assert reasons == ["every model to serve was unloaded by an operator (a): POST /admin/load serves one"]


async def test_models_loaded_by_an_operator_are_loaded_after_a_restart_beyond_the_budget(
    make: MakeEngine, publish: Publish
) -> None:
    for name in ("a", "b", "c"):
        publish(name)
    before = make(max_models=1)
    await before.start()
    await before.load("c")
    await before.close()
    after = make(max_models=1)
    await after.start()
    assert loaded(after) == ["a:1.0.0", "c:1.0.0"]


async def test_a_load_of_a_removed_version_keeps_the_server_not_ready_until_it_is_unloaded(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish("a")
    publish("b", "1")
    publish("b", "2")
    registry.change_deployment(lambda now: now.load("b:1"))
    registry.remove("b:1")
    engine = make()
    await engine.start(["a"])
    ready, reasons = engine.ready()
    assert not ready
    assert "b has no version '1'" in reasons[0]
    assert (await engine.unload("b:1")).keys == []
    assert engine.ready() == (True, [])


# One version, and aliases


async def test_an_alias_that_moves_to_an_unloaded_version_leaves_the_older_one_answering(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish("a", "1")
    publish("a", "2")
    registry.set_alias("a", "live", "1")
    engine = make()
    await engine.start(["a@live"])
    await engine.unload("a:2")
    registry.set_alias("a", "live", "2")
    await engine.reconcile()
    assert (await engine.predict(X)).version == "1"
    assert "a:2 was unloaded" in engine.deployment.problems["a@live"]
    await engine.load("a:2")
    await engine.reconcile()
    assert (await engine.predict(X)).version == "2"
    assert engine.deployment.problems == {}


async def test_unloading_an_alias_unloads_its_version_and_the_next_one_is_served(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish("a", "1")
    publish("a", "2")
    registry.set_alias("a", "live", "1")
    engine = make()
    await engine.start(["a@live"])
    assert (await engine.unload("a@live")).keys == ["a:1"]
    assert "a:1 was unloaded" in await refused(engine, "a@live")
    registry.set_alias("a", "live", "2")
    await engine.reconcile()
    assert (await engine.predict(X)).version == "2"


async def test_a_model_that_cannot_be_loaded_leaves_the_deployment_as_it_was(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish("a")
    engine = make()
    await engine.start(["a"])
    before = registry.deployment()
    for change in (engine.load, engine.unload):
        with pytest.raises(ModelNotFound):
            await change("missing")
    with pytest.raises(InvalidInput, match="naming it when the server starts"):
        await engine.load("other.onnx")
    assert registry.deployment() == before


async def test_an_unload_does_not_wait_for_a_load_in_progress(
    make: MakeEngine, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("a")
    publish("b")
    engine, begun, go_on = make(), threading.Event(), threading.Event()
    await engine.start(["a"])
    real = engine.manager.load_model

    def slow(ref: str, **more: Any) -> Any:
        begun.set()
        go_on.wait(10)
        return real(ref, **more)

    monkeypatch.setattr(engine.manager, "load_model", slow)
    loading = asyncio.create_task(engine.load("b"))
    await asyncio.to_thread(begun.wait, 5)
    assert (await engine.unload("a")).keys == ["a:1.0.0"]
    go_on.set()
    assert (await loading).model.key == "b:1.0.0"
    assert loaded(engine) == ["b:1.0.0"]


# Where the registry cannot be written


@SQLITE
async def test_without_a_writable_database_an_unload_holds_for_the_server_with_a_note(
    make: MakeEngine, publish: Publish, unwritable: Callable[[], sqlite3.Connection], tmp_path: Path
) -> None:
    """Two processes of one server share a store; another server does not follow."""
    publish("a")
    publish("b")
    one, other, stranger = make(), make(), make()
    for engine in (one, other):
        engine.deployment.share(Store(f"sqlite:///{tmp_path}/group.db"))
    for engine in (one, other, stranger):
        await engine.start(["a", "b"])
    holder = unwritable()
    try:
        result = await one.unload("a")
        assert not result.persisted
        assert "on this server only" in result.note
        assert "another process holds the lock" in result.note
        for engine in (other, stranger):
            await engine.reconcile()
        assert other.deployment.followed.includes(one.deployment.revisions)
        assert [loaded(engine) for engine in (one, other, stranger)] == [
            ["b:1.0.0"],
            ["b:1.0.0"],
            ["a:1.0.0", "b:1.0.0"],
        ]
    finally:
        holder.close()
    assert (await other.load("a")).persisted, "also a change that is stored must prevail over the local one"
    await one.reconcile()
    assert loaded(one) == loaded(other) == ["a:1.0.0", "b:1.0.0"]


@SQLITE
async def test_a_stored_unload_can_be_lifted_for_one_server(
    make: MakeEngine, publish: Publish, registry: Registry, unwritable: Callable[[], sqlite3.Connection]
) -> None:
    publish("a")
    registry.change_deployment(lambda now: now.unload("a:1.0.0"))
    engine = make()
    await engine.start(["a"])
    holder = unwritable()
    result = await engine.load("a:1.0.0")
    holder.close()
    assert not result.persisted
    assert "served by this server only" in result.note
    assert (await engine.predict(X, ref="a")).model == "a"
    assert registry.deployment().unloads == ("a:1.0.0",)


async def test_a_server_whose_registry_is_gone_can_unload(
    make: MakeEngine, publish: Publish, registry: Registry, tmp_path: Path
) -> None:
    publish("a")
    publish("b")
    one, other = make(), make()
    for engine in (one, other):
        engine.deployment.share(Store(f"sqlite:///{tmp_path}/group.db"))
        await engine.start(["a", "b"])
    shutil.move(registry.path, tmp_path / "moved")
    await one.unload("a")
    for engine in (one, other):
        with pytest.raises(ConfigError, match="is gone"):
            await engine.reconcile()
        assert loaded(engine) == ["b:1.0.0"]


async def test_a_bare_file_is_unloaded_without_a_registry(
    make: MakeEngine, onnx_file: Path, registry: Registry
) -> None:
    engine = make()
    await engine.start([str(onnx_file)])
    result = await engine.unload("linear")
    assert (result.keys, result.persisted) == (["linear:v1.0"], False)
    assert "until it is loaded again or the server ends: a bare model file belongs to no registry" in result.note
    await engine.reconcile()
    assert "was unloaded" in await refused(engine, "linear")
    assert not registry.path.exists()
    await engine.load("linear:v1.0")
    assert (await engine.predict(X, ref="linear")).version == "v1.0"


@SQLITE
async def test_a_shared_store_that_is_gone_changes_nothing(
    make: MakeEngine, publish: Publish, unwritable: Callable[[], sqlite3.Connection], tmp_path: Path
) -> None:
    """As in the moment between the end of a supervisor and that of its processes."""
    publish("a")
    publish("b")
    engine = make()
    (tmp_path / "group").mkdir()
    engine.deployment.share(Store(f"sqlite:///{tmp_path}/group/deployment.db"))
    await engine.start(["a", "b"])
    holder = unwritable()
    await engine.unload("a")
    shutil.rmtree(tmp_path / "group")
    await engine.reconcile()
    holder.close()
    assert loaded(engine) == ["b:1.0.0"]
