"""Loads in threads for callers on event loops: whatever a model raises reaches them, and no one waits for ever."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from endless_models import counted_loop
from linear_models import FEATURES, SIGNATURE, Publish, linear
from onnx import TensorProto, helper, numpy_helper
from plugin_packages import install
from waiting import LONG_S

from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.engine.deployment.async_loader import AsyncLoader
from penstock.engine.engine import InferenceEngine
from penstock.engine.loading import load
from penstock.engine.loading.manager import ModelManager
from penstock.errors import DeadlineExceeded, ModelLoadError
from penstock.options import EngineOptions
from penstock.registry.registry import Registry

WILD = """
import asyncio
import builtins

from pydantic import BaseModel

from penstock import Task


class Nothing(BaseModel):
    pass


class Wild(Task):
    kind = "wild"
    Request = Response = Nothing

    def preprocess(self, request):
        return {}

    def postprocess(self, outputs, request):
        return Nothing()

    def attach(self, registry, model):
        name = self.config["raises"]
        raise (getattr(builtins, name, None) or getattr(asyncio, name))("by the task")
"""

RAISED = (
    "StopIteration",
    "SystemExit",
    "KeyboardInterrupt",
    "GeneratorExit",
    "CancelledError",
    "KeyError",
    "MemoryError",
)

PublishWild = Callable[[str], None]


@pytest.fixture
def wild(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> PublishWild:
    """Publish a model that raises an error of this name when it is loaded, under the name in lower case."""
    site = tmp_path / "site"
    site.mkdir()
    install(site, "wild", WILD, tasks="wild = wild:Wild")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "wild", raising=False)

    def publish(raises: str) -> None:
        artifact = write_artifact(
            tmp_path / f"source-{raises}",
            name=raises.lower(),
            version="1",
            task=TaskEntry(kind="wild", config={"raises": raises}),
            signature=SIGNATURE,
            variants=[VariantSource("onnx", "fp32", linear(tmp_path / "wild.onnx"))],
            golden=None,
            card="",
        )
        registry.publish(artifact.path)

    return publish


async def test_whatever_a_model_raises_while_it_loads_reaches_caller_and_log_and_others_are_served(
    wild: PublishWild, publish: Publish, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    for raised in RAISED:
        wild(raised)
    publish("z")
    engine = InferenceEngine(EngineOptions(max_models=20), registry=registry)
    async with asyncio.timeout(LONG_S):
        await engine.start(strict=False)
        assert [model.name for model in engine.loaded()] == ["z"]
        assert (await engine.predict([0.0] * FEATURES, ref="z")).model == "z"
        problems = engine.deployment.problems
        for raised in RAISED:
            assert f"{raised}: " in problems[raised.lower()]
            with pytest.raises(ModelLoadError, match=f"{raised}: '?by the task"):
                await engine.model(raised.lower())
        await engine.close()
    assert "Traceback" in caplog.text
    assert "by the task" in caplog.text


async def test_callers_who_share_a_load_all_get_its_error(wild: PublishWild, registry: Registry) -> None:
    wild("StopIteration")
    loader = AsyncLoader(ModelManager(registry, attach=True))
    async with asyncio.timeout(LONG_S):
        answers = await asyncio.gather(*(loader.load("stopiteration") for _ in range(4)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [ModelLoadError] * 4
        await loader.close()


@pytest.mark.parametrize("raised", [StopIteration, SystemExit, asyncio.CancelledError, GeneratorExit])
async def test_work_that_raises_what_no_future_holds_raises_a_runtime_error(
    raised: type[BaseException], registry: Registry
) -> None:
    def work() -> None:
        raise raised("in a thread")

    loader = AsyncLoader(ModelManager(registry))
    async with asyncio.timeout(LONG_S):
        with pytest.raises(RuntimeError, match=f"{raised.__name__}: in a thread"):
            await loader.run(work)
        assert await loader.run(lambda: 7) == 7
        await loader.close()


def without_inputs(path: Path) -> Path:
    value = numpy_helper.from_array(np.zeros((1, 3), np.float32))
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["y"], value=value)],
        "constant",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


async def test_a_graph_without_inputs_is_refused_and_others_are_served(
    registry: Registry, tmp_path: Path, onnx_file: Path
) -> None:
    path = without_inputs(tmp_path / "constant.onnx")
    engine = InferenceEngine(registry=registry)
    async with asyncio.timeout(LONG_S):
        await engine.start([str(onnx_file), str(path)], strict=False)
        assert "the model has no inputs" in engine.deployment.problems[str(path)]
        assert (await engine.predict([0.0] * FEATURES, ref="linear")).model == "linear"
        await engine.close()


async def test_a_model_that_never_ends_its_trial_runs_ends_its_load_all_the_same_and_others_are_served(
    registry: Registry, tmp_path: Path, onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "RUN_LIMIT_S", 0.3)
    path = counted_loop(tmp_path / "endless.onnx", endless=True)
    engine = InferenceEngine(registry=registry)
    async with asyncio.timeout(LONG_S):
        await engine.start([str(path), str(onnx_file)], strict=False)
        with pytest.raises(DeadlineExceeded):
            await engine.infer("endless", {"x": [[1]]}, deadline=time.monotonic() + 0.1)
        assert (await engine.predict([0.0] * FEATURES, ref="linear")).model == "linear"
        await engine.close()
