"""Artifacts of int8 variants only: published, loaded by a Predictor, and served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from live_servers import Live
from quantized_models import int8_variants, reference, samples, write_quantized

from penstock.engine.predictor.predictor import Predictor
from penstock.errors import GoldenMismatch, InvalidInput
from penstock.registry.registry import Registry
from penstock.settings import Settings

TENSOR, CHANNEL = "onnx-int8", "onnx-int8-per-channel"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, database: Callable[[Path], str]) -> Settings:
    """`mlp` 1 with both int8 variants, 2 with the one per channel only."""
    root = tmp_path_factory.mktemp("int8")
    url = database(root / "registry")
    variants = int8_variants(root)
    with Registry(root / "registry", url) as registry:
        registry.publish(write_quantized(root / "both", "1", variants).path)
        registry.publish(write_quantized(root / "one", "2", variants[1:]).path)
    return Settings(registry=root / "registry", database_url=url, threads=1)


@pytest.fixture(scope="module")
def http(place: Settings) -> Iterator[httpx.Client]:
    with Live("h1", place, ("mlp:1", "mlp:2")) as server:
        yield server.http


@pytest.fixture
def registry(place: Settings) -> Iterator[Registry]:
    with Registry(place.registry, place.database_url) as registry:
        yield registry


def test_one_of_two_int8_variants_is_selected(registry: Registry) -> None:
    artifact = registry.get("mlp:1")
    artifact.verify()
    assert [(v.name, v.format, v.precision) for v in artifact.variants] == [
        (TENSOR, "onnx", "int8"),
        (CHANNEL, "onnx", "int8"),
    ]
    predictor = Predictor("mlp:1", registry=registry)
    assert (predictor.info.precision, predictor.info.batchable) == ("int8", False)
    assert all("other rows in the run change a row's answer" in warning for warning in predictor.info.warnings)
    verdicts = {verdict.variant: verdict.taken for verdict in predictor.info.choice}
    assert sorted(verdicts) == [TENSOR, CHANNEL]
    assert verdicts[predictor.info.variant]


@pytest.mark.parametrize("variant", [TENSOR, CHANNEL])
def test_a_variant_is_requested_by_its_name(registry: Registry, variant: str) -> None:
    predictor = Predictor("mlp:1", registry=registry, variant=variant)
    assert predictor.info.variant == variant
    x = samples(rows=3, seed=9)
    assert predictor.predict(x).predictions == reference(x).argmax(axis=1).tolist()


def test_an_unknown_variant_is_refused_with_the_known_names(registry: Registry) -> None:
    with pytest.raises(InvalidInput, match=f"no variant 'onnx-fp32'; variants: {TENSOR}, {CHANNEL}"):
        Predictor("mlp:1", registry=registry, variant="onnx-fp32")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_int8_only_loads_with_any_requested_precision(registry: Registry, precision: str) -> None:
    predictor = Predictor("mlp:2", registry=registry, precision=precision)
    assert (predictor.info.variant, predictor.info.precision) == (CHANNEL, "int8")
    (warning,) = predictor.info.warnings  # the scale of a dynamically quantized activation comes from all rows
    assert "it is not batchable: other rows in the run change a row's answer" in warning


def test_int8_is_checked_against_the_fp32_reference(tmp_path: Path) -> None:
    artifact = write_quantized(tmp_path / "strict", "3", int8_variants(tmp_path)[:1], atol=1e-6)
    with Registry(tmp_path / "registry") as registry:
        with pytest.raises(GoldenMismatch, match=r"mlp:3/onnx-int8: output 'logits' differs"):
            registry.publish(artifact.path)
        registry.publish(artifact.path, prove=False)
        with pytest.raises(GoldenMismatch, match=r"mlp:3/onnx-int8: output 'logits' differs"):
            Predictor("mlp:3", registry=registry)


def test_the_header_of_a_served_prediction_names_the_variant(http: httpx.Client) -> None:
    x = samples(rows=1, seed=9)
    body = {"input_data": x[0].tolist()}
    only = http.post("/models/mlp/versions/2/predict", json=body)
    assert only.headers["x-penstock-model"] == f"mlp:2/{CHANNEL}"
    assert only.json()["predictions"] == reference(x).argmax(axis=1).tolist()
    either = http.post("/models/mlp/versions/1/predict", json=body)
    assert either.headers["x-penstock-model"] in (f"mlp:1/{TENSOR}", f"mlp:1/{CHANNEL}")
    variants = http.get("/models/mlp/versions/1").json()["variants"]
    assert [(v["name"], v["precision"]) for v in variants] == [(TENSOR, "int8"), (CHANNEL, "int8")]
