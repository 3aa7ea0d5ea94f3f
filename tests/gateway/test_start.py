"""The start of a server with several models, of which some cannot be served."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import FEATURES, SIGNATURE, linear, weights

from penstock.artifacts.artifact import Golden, TaskEntry, VariantSource, write_artifact
from penstock.errors import InvalidInput, ModelLoadError, ModelNotFound
from penstock.gateway.service import Service
from penstock.registry.registry import Registry
from penstock.settings import Settings

X = np.ones(FEATURES, np.float32)
Make = Callable[..., Service]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Services of a registry with `good`, and with `bad` and `worse`, which disagree with their golden samples."""
    with Registry(tmp_path / "registry") as registry:
        for name, healthy in (("bad", False), ("good", True), ("worse", False)):
            x = np.ones((2, FEATURES), np.float32)
            artifact = write_artifact(
                tmp_path / name,
                name=name,
                version="1",
                task=TaskEntry(kind="vector-classification", config={"output": "logits"}),
                signature=SIGNATURE,
                variants=[VariantSource("onnx", "fp32", linear(tmp_path / f"{name}.onnx"))],
                golden=Golden({"x": x}, {"logits": x @ weights(0 if healthy else 9)}, 1e-5, 1e-5),
                card="",
            )
            registry.publish(artifact.path, prove=False)
    made: list[Service] = []

    def make(**settings: Any) -> Service:
        made.append(Service(Settings(registry=tmp_path / "registry", **settings)))
        return made[-1]

    yield make
    for service in made:
        await service.close()


@pytest.mark.parametrize(
    "refs", [(), ("good", "bad"), ("bad", "good", "worse"), ("good", "nothing"), ("good:7", "good")]
)
async def test_a_broken_model_does_not_keep_the_healthy_ones_from_starting(make: Make, refs: tuple[str, ...]) -> None:
    service = make()
    await service.start(refs)
    assert (await service.engine.predict(X, ref="good")).version == "1"
    ready, reasons = service.engine.ready()
    assert not ready
    assert not service.engine.complete
    assert all(not reason.startswith("good:1") for reason in reasons)
    if "bad" in refs or not refs:
        assert any(reason.startswith("bad:1/onnx-fp32: output 'logits' differs") for reason in reasons) or any(
            "bad: bad:1/onnx-fp32" in reason for reason in reasons
        )


@pytest.mark.parametrize(("refs", "error"), [(("bad",), ModelLoadError), (("nothing",), ModelNotFound)])
async def test_the_only_model_that_is_named_stops_the_start(make: Make, refs: tuple[str, ...], error: Any) -> None:
    with pytest.raises(error, match=refs[0]):
        await make().start(refs)


async def test_several_models_of_which_none_can_be_served_stop_the_start(make: Make) -> None:
    with pytest.raises(ModelLoadError, match=r"bad:1/onnx-fp32: .*worse:1/onnx-fp32: "):
        await make().start(("bad", "worse"))


@pytest.mark.parametrize("refs", [(), ("good", "bad")])
async def test_a_strict_server_starts_with_all_models_or_not_at_all(make: Make, refs: tuple[str, ...]) -> None:
    with pytest.raises(ModelLoadError, match=r"bad:1/onnx-fp32: output 'logits' differs"):
        await make(strict=True).start(refs)


async def test_an_invalid_reference_stops_the_start(make: Make) -> None:
    with pytest.raises(InvalidInput, match="is not a name"):
        await make().start(("good", "b ad"))
