"""The example of a third-party package, installed with pip into a separate directory and found by its entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from linear_models import linear

from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.errors import ModelLoadError
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec

PACKAGE = Path(__file__).parents[2] / "examples" / "third_party"
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("logits", "FP32", (-1, 3)),))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package was installed, without the network."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(target), str(PACKAGE)], check=True, timeout=120)
    return target


def run(site: Path | None, place: Path, code: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **({"PYTHONPATH": str(site)} if site else {})}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=environ, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a registry that holds a model of the package's kind."""
    publish(tmp_path, {"scale": 1000})
    return tmp_path


def publish(place: Path, config: dict[str, Any], prove: bool = False) -> None:
    """Publish a model of the package's kind; without the proof, since this process does not have the package."""
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 1)),))
    house_model(place / "house.onnx")
    artifact = write_artifact(
        place / "source",
        name="house",
        version="1",
        task=TaskEntry(kind="house-price", config=config),
        signature=signature,
        variants=[VariantSource("onnx", "fp32", place / "house.onnx")],
        golden=None,
        card="",
    )
    with Registry(place / "registry") as registry:
        registry.publish(artifact.path, prove=prove)


def house_model(path: Path) -> None:
    """y = 3 · area + 10 · rooms"""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "house",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array([[3], [10]], np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


ASK = """
import json
from penstock import Predictor
with Predictor("house") as predictor:
    print(json.dumps([predictor.predict({"area_m2": 100, "rooms": 4}).price_eur, type(predictor.task).__module__]))
"""


def test_an_installed_package_provides_its_task(site: Path, place: Path) -> None:
    done = run(site, place, ASK)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [340_000, "houses.task"]


def test_its_task_runs_in_a_thread_when_called_over_http(site: Path, place: Path) -> None:
    code = """
import asyncio, json, httpx
from penstock.gateway.process.asgi import create_app
from penstock.settings import Settings

async def main():
    app = create_app(Settings(), ["house"])
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
            good = await http.post("/predict", json={"area_m2": 100, "rooms": 4})
            bad = await http.post("/predict", json={"area_m2": -1, "rooms": 4})
        inline = app.state.gateway.service.engine.loaded()[0].runner.inline
    print(json.dumps([good.json()["price_eur"], bad.status_code, bad.json()["errors"][0]["field"], inline]))

asyncio.run(main())
"""
    done = run(site, place, code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [340_000, 422, "area_m2", False]


def test_without_the_package_the_model_is_refused_in_one_sentence(place: Path) -> None:
    done = run(None, place, ASK)
    assert "there is no task of the kind 'house-price'; this installation has hydraulic-diagnostics" in done.stderr


def test_a_package_that_fails_to_import_is_reported_and_the_server_keeps_serving_the_rest(
    place: Path, tmp_path: Path
) -> None:
    site = tmp_path / "broken"
    (site / "houses_broken-1.dist-info").mkdir(parents=True)
    (site / "houses_broken-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: houses-broken\nVersion: 1\n"
    )
    (site / "houses_broken-1.dist-info" / "entry_points.txt").write_text(
        "[penstock.tasks]\nhouse-price = broken:Task\n"
    )
    (site / "broken.py").write_text("import sys\nraise SystemError('half installed')\n")
    with Registry(place / "registry") as registry:
        artifact = write_artifact(
            place / "source-other",
            name="other",
            version="1",
            task=TaskEntry(kind="vector-classification"),
            signature=SIGNATURE,
            variants=[VariantSource("onnx", "fp32", linear(place / "other.onnx"))],
            golden=None,
            card="",
        )
        registry.publish(artifact.path)
    code = """
import asyncio
from pathlib import Path
from penstock import InferenceConfig, InferenceEngine

async def main():
    engine = InferenceEngine(InferenceConfig(registry=Path("registry")))
    await engine.start(strict=False)
    print(engine.ready()[1][0])
    print((await engine.predict([1.0, 2.0, 3.0, 4.0], ref="other")).model)
    await engine.close()

asyncio.run(main())
"""
    done = run(site, place, code)
    assert done.returncode == 0, done.stderr
    reason, model = done.stdout.splitlines()
    assert "house:1: the task 'house-price' could not be loaded from broken:Task: SystemError: half installed" in reason
    assert model == "other"


def test_an_invalid_constant_in_the_manifest_is_reported_in_one_sentence(site: Path, tmp_path: Path) -> None:
    publish(tmp_path, {"scale": "wide"})
    assert "house-price: scale is 'wide'; it should be a number" in run(site, tmp_path, ASK).stderr


def test_without_the_package_its_model_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="house:1: there is no task of the kind 'house-price'"):
        publish(tmp_path, {"scale": 1000}, prove=True)
    with Registry(tmp_path / "registry") as registry:
        assert registry.list() == []


def test_its_routes_are_served_and_guarded(site: Path, place: Path) -> None:
    code = """
import asyncio, json, httpx
from penstock.gateway.process.asgi import create_app
from penstock.settings import Settings

async def main():
    app = create_app(Settings(admin_key="the key of the houses"), ["house"])
    key = {"X-Penstock-Admin-Key": "the key of the houses"}
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
            refused = (await http.put("/houses/market", json={"factor": 2})).status_code
            market = (await http.put("/houses/market", json={"factor": 2}, headers=key)).json()
            await http.post("/predict", json={"area_m2": 100, "rooms": 4})
            prices = (await http.get("/houses/prices?limit=5")).json()
            wrong = (await http.get("/houses/prices?limit=many")).json()["errors"][0]["field"]
            document = (await http.get("/openapi.json")).json()
    example = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    print(json.dumps([refused, market, prices, wrong, example, "/houses/prices" in document["paths"]]))

asyncio.run(main())
"""
    done = run(site, place, code)
    assert done.returncode == 0, done.stderr
    example = {"area_m2": 90, "rooms": 4}
    assert json.loads(done.stdout) == [401, {"factor": 2.0}, {"prices_eur": [680_000]}, "limit", example, True]
