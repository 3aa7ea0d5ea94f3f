"""A model whose rows influence each other, over HTTP: right answers to concurrent clients, and facts that say so."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import quantized_models
from dependent_models import DependentModel, centred, dynamically_quantized
from linear_models import linear
from live_servers import Live

from penstock.cli.models.import_file import publish_file
from penstock.registry.registry import Registry
from penstock.settings import Settings

ROWS = [
    (np.random.default_rng(n).standard_normal((n % 3 + 1, quantized_models.FEATURES)) * 10.0 ** (n % 4 - 1)).astype(
        np.float32
    )
    for n in range(40)
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dependent")


@pytest.fixture(scope="module")
def model(root: Path) -> DependentModel:
    return dynamically_quantized(root)


@pytest.fixture(scope="module")
def live(root: Path, model: DependentModel) -> Iterator[Live]:
    with Registry(root / "registry") as registry:
        publish_file(registry, model.path)
        publish_file(registry, centred(root).path)
        publish_file(registry, linear(root / "linear.onnx"))
    settings = Settings(registry=root / "registry", batch_size=16, max_wait_ms=5)
    with Live("h1", settings, refs=("int8", "centred", "linear")) as server:
        yield server


@pytest.fixture
def http(live: Live) -> httpx.Client:
    return live.http


def test_concurrent_clients_get_the_answers_of_the_runtime(http: httpx.Client, model: DependentModel) -> None:
    def ask(x: np.ndarray) -> list[list[float]]:
        body = {"inputs": {"x": x.tolist()}}
        reply = http.post("/models/int8/predict", params={"task": "tensor"}, json=body)
        return list(reply.raise_for_status().json()["outputs"]["logits"])

    with ThreadPoolExecutor(8) as pool:
        for x, got in zip(ROWS, pool.map(ask, ROWS), strict=True):
            np.testing.assert_allclose(got, model.answer(x), rtol=1e-5, atol=1e-5)


def test_the_items_of_a_batch_do_not_share_a_run(http: httpx.Client, model: DependentModel) -> None:
    items = [{"inputs": {"x": x.tolist()}} for x in ROWS]
    reply = http.post("/predict/batch", json={"model": "int8", "task": "tensor", "requests": items})
    for x, item in zip(ROWS, reply.raise_for_status().json()["predictions"], strict=True):
        np.testing.assert_allclose(item["outputs"]["logits"], model.answer(x), rtol=1e-5, atol=1e-5)


def test_the_facts_of_the_model_have_the_measured_difference(http: httpx.Client) -> None:
    info = http.get("/model/info").json()
    assert info["batchable"] is False
    assert info["batch_difference"] > 0.01
    assert info["batch_noise"] < 0.01
    assert "other rows" in info["batch_reason"]
    assert any(f"{info['batch_difference']:.2g}" in warning for warning in info["warnings"])


def test_each_loaded_version_shows_what_was_measured(http: httpx.Client) -> None:
    dependent, independent = (http.get(f"/models/{name}").json()["rows"] for name in ("int8", "linear"))
    assert [(row["version"], row["batchable"]) for row in (*dependent, *independent)] == [
        ("v1.0", False),
        ("v1.0", True),
    ]
    assert dependent[0]["batch_difference"] > 0.01
    assert independent[0]["batch_difference"] == 0
    versions = [http.get(f"/models/{name}/versions/v1.0").json() for name in ("int8", "linear")]
    assert [version["batchable"] for version in versions] == [False, True]


def test_the_card_says_it_with_the_measured_difference(http: httpx.Client) -> None:
    dependent, independent = (http.get(f"/models/{name}/card").text for name in ("centred", "linear"))
    assert "Not batchable here: other rows in the run change a row's answer (by " in dependent
    assert "atchable" not in independent
