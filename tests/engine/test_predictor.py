"""One model in this process, as a notebook uses it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import FEATURES, Publish, weights

from penstock.engine.predictor import Predictor
from penstock.errors import ConfigError, InvalidInput, ModelNotFound
from penstock.registry.registry import Registry

X = np.random.default_rng(3).standard_normal((50, FEATURES)).astype(np.float32)
TRUTH = [int(c) for c in (X @ weights(0)).argmax(axis=1)]


@pytest.fixture
def predictor(registry: Registry, publish: Publish) -> Iterator[Predictor]:
    publish()
    with Predictor("m", registry=registry, batch_size=8) as predictor:
        yield predictor


def test_one_prediction(predictor: Predictor) -> None:
    assert predictor.predict(X[0]).predictions == TRUTH[:1]
    assert predictor.predict({"input_data": X[0].tolist()}).predictions == TRUTH[:1]
    assert predictor.info.name == "m"


def test_several_rows_in_one_request_may_exceed_a_batch(predictor: Predictor) -> None:
    assert predictor.predict(X).predictions == TRUTH


@pytest.mark.parametrize("workers", [0, 4])
@pytest.mark.parametrize("batch_size", [None, 1, 7, 64])
def test_a_data_set_is_answered_in_order(predictor: Predictor, workers: int, batch_size: int | None) -> None:
    for values in (X, list(X), iter(X)):
        answers = predictor.predict_batch(values, batch_size=batch_size, num_workers=workers)
        assert [answer.predictions[0] for answer in answers] == TRUTH


def test_batches_really_are_batches(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = predictor._model.backend
    sizes: list[int] = []
    run = backend.run
    monkeypatch.setattr(backend, "run", lambda inputs: sizes.append(len(inputs["x"])) or run(inputs))
    predictor.predict_batch(X[:20], batch_size=8)
    predictor.predict_batch(X[:20], batch_size=16)
    assert sizes == [8, 8, 4, 16, 4]


def test_threads_share_a_predictor(predictor: Predictor) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(predictor.predict, X))
    assert [answer.predictions[0] for answer in answers] == TRUTH


def test_a_bad_request_is_named(predictor: Predictor) -> None:
    with pytest.raises(InvalidInput, match="input_data"):
        predictor.predict(np.zeros(3))


def test_a_subclass_overrides_either_end(registry: Registry, publish: Publish) -> None:
    publish()

    class Named(Predictor):
        def preprocess(self, request: Any) -> dict[str, np.ndarray]:
            return {"x": -super().preprocess(request)["x"]}

        def postprocess(self, outputs: dict[str, np.ndarray], request: Any) -> str:
            return "abc"[super().postprocess(outputs, request).predictions[0]]

    with Named("m", registry=registry) as named:
        assert named.predict(-X[0]) == "abc"[TRUTH[0]]
        assert named.predict_batch(-X) == ["abc"[c] for c in TRUTH]


def test_a_bare_file_needs_no_registry(onnx_file: Path, tmp_path: Path) -> None:
    with Predictor(onnx_file, registry=Registry(tmp_path / "none")) as predictor:
        assert predictor.predict(X[0]).predictions == TRUTH[:1]
    assert not (tmp_path / "none").exists()


def test_the_cache_answers_equal_inputs_without_a_run(registry: Registry, publish: Publish) -> None:
    publish()
    with Predictor("m", registry=registry, cache_size=10) as predictor:
        first = predictor.predict(X[0])
        predictor._model.backend.close()
        assert predictor.predict(X[0]).confidence_scores == first.confidence_scores


def test_a_wish_that_cannot_be_met_is_said_at_once(registry: Registry, publish: Publish) -> None:
    publish()
    with pytest.raises(ConfigError, match="no int8 variant"):
        Predictor("m", registry=registry, optimizations=["quantization"])
    with pytest.raises(ConfigError, match="'magic' is unknown"):
        Predictor("m", registry=registry, optimizations=["magic"])


def test_sizes_that_cannot_work_are_refused_by_name(registry: Registry, predictor: Predictor) -> None:
    for options in ({"batch_size": 0}, {"cache_size": -1}, {"precision": "fp99"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Predictor("m", registry=registry, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_size"):
        predictor.predict_batch(X, batch_size=0)


def test_an_unknown_model_is_not_found(registry: Registry) -> None:
    with pytest.raises(ModelNotFound):
        Predictor("nobody", registry=registry)
