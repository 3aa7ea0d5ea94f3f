"""Readiness is what a process that starts now would say, whatever happened before and in which order."""

from __future__ import annotations

import asyncio
import functools
import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from linear_models import FEATURES, SIGNATURE, Publish, linear, weights

from penstock.artifacts.artifact import Golden, TaskEntry, VariantSource, write_artifact
from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.errors import PenstockError
from penstock.registry.registry import Registry

X = np.ones(FEATURES, np.float32)
NAMES, VERSIONS, ALIASES = ("a", "b"), ("1", "2"), ("live", "champion")
EXACT = [f"{name}:{version}" for name in NAMES for version in VERSIONS]
ALIASED = [f"{name}@{alias}" for name in NAMES for alias in ALIASES]
REFS = [*NAMES, *EXACT, *ALIASED]
ARGUMENTS = st.sampled_from([(), ("a",), ("a@live",), ("a:1", "b"), ("a", "b@champion")])


async def test_an_alias_that_comes_back_while_clients_keep_asking_leaves_no_problem(
    registry: Registry, publish: Publish
) -> None:
    publish("a", "1")
    registry.set_alias("a", "live", "1")
    engine = InferenceEngine(InferenceConfig(), registry=registry)
    await engine.start(["a@live"])
    registry.remove_alias("a", "live")
    await engine.reconcile()
    assert engine.ready()[0] is False
    registry.set_alias("a", "live", "1")
    assert (await engine.predict(X, ref="a@live")).version == "1"  # a client is faster than the next look
    await engine.reconcile()
    assert engine.deployment.problems == {}
    assert engine.ready() == (True, [])
    await engine.close()


async def test_a_load_that_takes_longer_than_a_change_of_its_alias_does_not_bring_the_old_version_back(
    registry: Registry, publish: Publish, monkeypatch: Any
) -> None:
    publish("a", "1")
    publish("a", "2")
    registry.set_alias("a", "live", "1")
    engine = InferenceEngine(InferenceConfig(), registry=registry)
    await engine.start(["a:2"])
    await engine.load("a")  # serves the name, and so all of its aliases
    begun, go_on, real = asyncio.Event(), asyncio.Event(), engine.deployment._loader.load

    async def slow(ref: str, **more: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await real(ref, **more)

    monkeypatch.setattr(engine.deployment._loader, "load", slow)
    asking = asyncio.create_task(engine.predict(X, ref="a@live"))
    await begun.wait()
    monkeypatch.undo()
    registry.set_alias("a", "live", "2")
    await engine.reconcile()
    go_on.set()
    assert (await asking).version == "2"
    await engine.close()


async def test_a_model_that_is_mended_under_its_version_answers_at_the_next_look(
    registry: Registry, publish: Publish
) -> None:
    """The wait after a failed load is for the content that failed, not for its name."""
    publish("a", "1", golden_seed=5)
    publish("b", "1")
    engine = InferenceEngine(InferenceConfig(), registry=registry)
    await engine.start(strict=False)
    assert list(engine.deployment.failed) == ["a"]
    registry.remove("a:1")
    publish("a", "1", again=True)
    await engine.reconcile()
    assert engine.ready() == (True, [])
    await engine.close()


@functools.cache
def sources() -> Path:
    return Path(tempfile.mkdtemp(prefix="penstock-readiness-"))


@functools.cache
def source(name: str, version: str, healthy: bool, content: int) -> Path:
    """An artifact; one that is not healthy disagrees with its golden samples."""
    home, label = sources(), f"{name}-{version}-{healthy}-{content}"
    x = np.random.default_rng(1).standard_normal((4, FEATURES)).astype(np.float32)
    return write_artifact(
        home / label,
        name=name,
        version=version,
        task=TaskEntry(kind="vector-classification", config={"output": "logits"}),
        signature=SIGNATURE,
        variants=[VariantSource("onnx", "fp32", linear(home / f"{label}.onnx", content))],
        golden=Golden({"x": x}, {"logits": x @ weights(content if healthy else 99)}, 1e-5, 1e-5),
        card="",
    ).path


class Following(RuleBasedStateMachine):
    """One process follows a registry that others change while clients ask."""

    numbers = itertools.count()

    @initialize(arguments=ARGUMENTS, max_models=st.sampled_from([1, 8]))
    def start(self, arguments: tuple[str, ...], max_models: int) -> None:
        self.runner = asyncio.Runner()
        self.arguments, self.max_models = arguments, max_models
        self.registry = Registry(sources() / f"registry-{next(self.numbers)}")
        self.registry.path.mkdir()  # else an unload would hold for this process only
        self.engine = self._made()
        self.runner.run(self.engine.start(self.arguments, strict=False))

    def _made(self) -> InferenceEngine:
        config = InferenceConfig(threads=1, batch_size=1, choosing="first", max_models=self.max_models)
        return InferenceEngine(config, registry=Registry(self.registry.path))

    def _changed(self, change: Any, *args: Any, **more: Any) -> None:
        try:
            change(*args, **more)
        except PenstockError:
            return

    @rule(ref=st.sampled_from(EXACT), healthy=st.booleans(), content=st.integers(0, 1))
    def publish(self, ref: str, healthy: bool, content: int) -> None:
        name, version = ref.split(":")
        self._changed(self.registry.publish, source(name, version, healthy, content), prove=False)

    @rule(ref=st.sampled_from(EXACT))
    def remove(self, ref: str) -> None:
        self._changed(self.registry.remove, ref)

    @rule(ref=st.sampled_from(ALIASED), version=st.sampled_from(VERSIONS))
    def set_alias(self, ref: str, version: str) -> None:
        self._changed(self.registry.set_alias, *ref.split("@"), version, force=True)

    @rule(ref=st.sampled_from(ALIASED))
    def remove_alias(self, ref: str) -> None:
        self._changed(self.registry.remove_alias, *ref.split("@"))

    @rule(ref=st.sampled_from(REFS), verb=st.sampled_from(["load", "unload"]))
    def operate(self, ref: str, verb: str) -> None:
        self.runner.run(self._quietly(getattr(self.engine, verb)(ref)))

    @rule(refs=st.lists(st.sampled_from(REFS), min_size=1, max_size=4), looking=st.booleans())
    def ask(self, refs: list[str], looking: bool) -> None:
        """Requests, some of them while the process looks at the registry."""

        async def asked() -> None:
            requests = [self._quietly(self.engine.predict(X, ref=ref)) for ref in refs]
            looks = [self.engine.reconcile()] if looking else []
            await asyncio.gather(*requests, *looks)

        self.runner.run(asked())

    async def _quietly(self, work: Any) -> None:
        try:
            await work
        except PenstockError:
            return

    @rule()
    def compare(self) -> None:
        """After a look, this process has the problems that a process would have that starts now."""
        self.runner.run(self._compare())

    async def _compare(self) -> None:
        await self.engine.reconcile()
        fresh = self._made()
        await fresh.start(self.arguments, strict=False)
        try:
            ours, theirs = self.engine.deployment, fresh.deployment
            assert ours.wanted == theirs.wanted
            behind = ours.outdated.keys() & set(ours.wanted)  # an older version goes on answering
            assert ours.failed.keys() | behind == theirs.failed.keys()
            assert self.engine.ready()[0] == (fresh.ready()[0] or (not ours.failed and bool(behind)))
            for ref in set(ours.wanted) - behind:
                assert await self._answers(self.engine, ref) == await self._answers(fresh, ref)
        finally:
            await fresh.close()

    async def _answers(self, engine: InferenceEngine, ref: str) -> str:
        """The version that answers and what it says, or the kind of error."""
        try:
            answer = await engine.predict(X, ref=ref)
        except PenstockError as error:
            return type(error).__name__
        return f"{answer.version} {answer.response.predictions}"

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.engine.close())
            self.runner.close()


def test_readiness_is_what_a_fresh_process_would_say() -> None:
    run_state_machine_as_test(Following, settings=settings(max_examples=6, stateful_step_count=25, deadline=None))
