"""Answers are remembered by model, inputs and nothing less."""

from __future__ import annotations

import numpy as np

from penstock.engine.cache import PredictionCache


def test_keys_differ_by_model_name_dtype_shape_order_and_content() -> None:
    x = np.arange(4, dtype=np.float32)
    keys = {
        PredictionCache.key("m:1/onnx-fp32", {"x": x}),
        PredictionCache.key("m:2/onnx-fp32", {"x": x}),
        PredictionCache.key("m:1/onnx-fp32", {"y": x}),
        PredictionCache.key("m:1/onnx-fp32", {"x": x.astype(np.float64)}),
        PredictionCache.key("m:1/onnx-fp32", {"x": x.view(np.int32)}),
        PredictionCache.key("m:1/onnx-fp32", {"x": x.reshape(2, 2)}),
        PredictionCache.key("m:1/onnx-fp32", {"x": x + 1}),
        PredictionCache.key("m:1/onnx-fp32", {"a": x[:2], "b": x[2:]}),
        PredictionCache.key("m:1/onnx-fp32", {"a": x[:1], "b": x[1:]}),
    }
    assert len(keys) == 9
    assert PredictionCache.key("m", {"x": x}) == PredictionCache.key("m", {"x": x.copy()})


def test_text_inputs_are_told_apart() -> None:
    one = np.array(["ab", "c"], dtype=object)
    other = np.array(["a", "bc"], dtype=object)
    assert PredictionCache.key("m", {"x": one}) != PredictionCache.key("m", {"x": other})


def test_the_oldest_use_is_forgotten_first() -> None:
    cache = PredictionCache(2)
    for name in (b"a", b"b"):
        cache.put(name, {"y": np.zeros(1)})
    assert cache.get(b"a") is not None
    cache.put(b"c", {"y": np.zeros(1)})
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None
    cache.clear()
    assert cache.get(b"a") is None


def test_what_is_remembered_does_not_keep_or_follow_the_batch() -> None:
    batch = np.zeros((32, 2))
    cache = PredictionCache(2)
    cache.put(b"a", {"y": batch[:1]})
    batch += 1
    found = cache.get(b"a")
    assert found is not None
    assert found["y"].base is None
    assert found["y"].sum() == 0


def test_what_a_caller_does_to_an_answer_does_not_change_the_next_one() -> None:
    cache = PredictionCache(2)
    cache.put(b"a", {"y": np.zeros(2)})
    first = cache.get(b"a")
    assert first is not None
    first["y"] += 100
    again = cache.get(b"a")
    assert again is not None
    assert again["y"].sum() == 0
