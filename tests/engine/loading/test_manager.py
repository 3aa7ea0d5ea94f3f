"""Shared loads, verification, eviction of the least recently used, and unloading without failed requests."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leases import lease_of, release
from linear_models import CLASSES, FEATURES, Publish, linear, weights
from waiting import wait_until

from penstock.engine.admission import Lease
from penstock.engine.loading import load_backoff
from penstock.engine.loading import manager as manager_module
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.loading.manager import ModelManager
from penstock.errors import (
    ConfigError,
    GoldenMismatch,
    IntegrityError,
    InvalidInput,
    ModelLoadError,
    ModelNotFound,
    ModelNotReady,
    UnsupportedFormat,
)
from penstock.formats import is_model_file
from penstock.registry.registry import Registry


def wait_until_closed(model: LoadedModel) -> None:
    def is_closed() -> bool:
        try:
            model.backend.run({"x": np.zeros((1, FEATURES), np.float32)})
        except Exception:
            return True
        return False

    wait_until(is_closed)


def test_concurrent_callers_share_one_load(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    loads: list[int] = []
    real = manager_module.load_artifact

    def slow(*args: Any, **more: Any) -> LoadedModel:
        loads.append(1)
        time.sleep(0.1)
        return real(*args, **more)

    monkeypatch.setattr(manager_module, "load_artifact", slow)
    manager = ModelManager(registry)
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(lambda _: manager.load_model("m"), range(8)))
    assert len(loads) == 1
    assert len({id(model) for model in models}) == 1


def test_every_caller_of_a_shared_load_gets_its_error(registry: Registry, publish: Publish) -> None:
    publish(golden_seed=5)
    manager = ModelManager(registry)
    barrier = threading.Barrier(4)

    def ask(_: int) -> str:
        barrier.wait()
        with pytest.raises(GoldenMismatch) as error:
            manager.load_model("m")
        return str(error.value)

    with ThreadPoolExecutor(4) as pool:
        assert all("golden samples" in message for message in pool.map(ask, range(4)))
    assert manager.list_cached_models() == []


def test_a_model_that_fails_its_golden_samples_is_refused_with_the_difference(
    registry: Registry, publish: Publish
) -> None:
    publish(golden_seed=5)
    with pytest.raises(GoldenMismatch, match=r"m:1\.0\.0/onnx-fp32: output 'logits' differs .* by up to \d"):
        ModelManager(registry).load_model("m")


def test_a_model_that_failed_to_load_is_retried_only_after_the_retry_time(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish()
    path = artifact.variant_path(artifact.variants[0])
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    manager = ModelManager(registry)
    loads: list[int] = []
    real = manager_module.load_artifact
    monkeypatch.setattr(manager_module, "load_artifact", lambda *args, **more: loads.append(1) or real(*args, **more))
    for _ in range(5):
        with pytest.raises(IntegrityError):
            manager.load_model("m")
    assert len(loads) == 1
    path.write_bytes(good)
    now = time.monotonic()
    monkeypatch.setattr(load_backoff.time, "monotonic", lambda: now + load_backoff.RETRY_AFTER_S)
    assert manager.load_model("m").key == "m:1.0.0"


def test_a_model_file_altered_after_publishing_is_refused_by_name(registry: Registry, publish: Publish) -> None:
    artifact = publish()
    path = artifact.variant_path(artifact.variants[0])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=path.name):
        ModelManager(registry).load_model("m")


def test_the_facts_about_a_loaded_model(registry: Registry, publish: Publish) -> None:
    artifact = publish()
    manager = ModelManager(registry)
    manager.load_model("m")
    info = manager.get_model_info("m:1.0.0")
    assert (info.name, info.version, info.variant, info.device, info.dtype) == (
        "m",
        "1.0.0",
        "onnx-fp32",
        "cpu",
        "FP32",
    )
    assert info.num_parameters == FEATURES * CLASSES
    assert info.sha256 == artifact.variants[0].files[0].sha256
    assert info.size_bytes == artifact.variants[0].files[0].size
    assert info.input_shape == (-1, FEATURES)
    assert info.output_shape == (-1, CLASSES)
    assert set(info.batch_ms) == {1, 2, 4, 8, 16, 32}


def test_warm_up_returns_a_time_for_each_batch_size(registry: Registry, publish: Publish) -> None:
    publish()
    timings = ModelManager(registry).warmup("m", batch_size=6)
    assert list(timings) == [1, 2, 4, 6]
    assert all(seconds > 0 for seconds in timings.values())


def test_the_least_recently_used_model_is_evicted_and_its_backend_closed(registry: Registry, publish: Publish) -> None:
    for name in ("a", "b", "c"):
        publish(name)
    manager = ModelManager(registry, max_models=2)
    a, b = manager.load_model("a"), manager.load_model("b")
    manager.load_model("a")
    manager.load_model("c")
    assert [info.name for info in manager.list_cached_models()] == ["a", "c"]
    wait_until_closed(b)
    a.backend.run({"x": np.zeros((1, FEATURES), np.float32)})


def test_a_budget_in_bytes_evicts_too(registry: Registry, publish: Publish) -> None:
    publish("a")
    publish("b")
    weights_bytes = 4 * FEATURES * CLASSES
    manager = ModelManager(registry, max_bytes=2 * weights_bytes - 1)
    assert manager.load_model("a").info.memory_bytes == weights_bytes
    manager.load_model("b")
    assert [info.name for info in manager.list_cached_models()] == ["b"]


def test_an_invalid_budget_is_refused_by_name(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="max_models"):
        ModelManager(registry, max_models=0)
    with pytest.raises(ConfigError, match="max_bytes: '4XB'"):
        ModelManager(registry, max_bytes="4XB")


def test_a_device_may_be_chosen_for_one_model(registry: Registry, publish: Publish) -> None:
    publish()
    manager = ModelManager(registry)
    with pytest.raises(ConfigError, match="warp"):
        manager.load_model("m", device="warp")
    assert manager.load_model("m", device="cpu").info.device == "cpu"


def test_a_pinned_model_is_not_evicted(registry: Registry, publish: Publish) -> None:
    for name in ("a", "b", "c"):
        publish(name)
    manager = ModelManager(registry, max_models=1)
    manager.load_model("a")
    manager.pin({"a:1.0.0"})
    manager.load_model("b")
    manager.load_model("c")
    assert [info.name for info in manager.list_cached_models()] == ["a", "c"]


def test_a_model_in_use_is_closed_only_after_its_last_request(registry: Registry, publish: Publish) -> None:
    publish()
    manager = ModelManager(registry)
    model = manager.load_model("m")
    lease = lease_of(manager, model)
    manager.unload("m:1.0.0")
    assert lease_of(manager, model) is None
    model.backend.run({"x": np.zeros((1, FEATURES), np.float32)})
    release(lease)
    wait_until_closed(model)


def test_a_model_unloaded_between_two_leases_is_closed_after_the_second(registry: Registry, publish: Publish) -> None:
    publish()
    manager = ModelManager(registry)
    model = manager.load_model("m")
    first, second = lease_of(manager, model), list[Lease | None]()
    cache = manager.cache
    real = cache.lease_lock

    class Meanwhile:
        """A lock that runs the action of another thread right after each release."""

        def __enter__(self) -> None:
            real.acquire()

        def __exit__(self, *_: object) -> None:
            cache.lease_lock = real
            real.release()
            second.append(lease_of(manager, model))
            manager.unload("m:1.0.0")

    cache.lease_lock = Meanwhile()  # type: ignore[assignment]
    release(first)
    time.sleep(0.1)
    model.backend.run({"x": np.zeros((1, FEATURES), np.float32)})
    release(second[0])
    wait_until_closed(model)


def test_clear_cache_unloads_one_model_or_all(registry: Registry, publish: Publish) -> None:
    publish("a")
    publish("b")
    manager = ModelManager(registry)
    manager.load_model("a")
    manager.load_model("b")
    manager.clear_cache("a")
    assert [info.name for info in manager.list_cached_models()] == ["b"]
    manager.clear_cache()
    assert manager.list_cached_models() == []
    with pytest.raises(ModelNotReady, match=r"b:1\.0\.0 is not loaded"):
        manager.get_model("b")


def test_a_bare_file_is_a_model_under_its_file_name(registry: Registry, onnx_file: Path) -> None:
    manager = ModelManager(registry)
    model = manager.load_model(onnx_file)
    assert (model.key, model.task.kind, model.artifact) == ("linear:v1.0", "vector-classification", None)
    assert manager.get_model("linear") is model
    assert model.info.num_parameters == FEATURES * CLASSES
    with pytest.raises(ModelNotFound, match=r"version v1\.0 only"):
        manager.load_model("linear:2")


def test_two_files_of_one_name_are_not_mixed_up(registry: Registry, onnx_file: Path, tmp_path: Path) -> None:
    manager = ModelManager(registry)
    manager.load_model(onnx_file)
    (tmp_path / "other").mkdir()
    with pytest.raises(InvalidInput, match="rename one"):
        manager.load_model(linear(tmp_path / "other" / "linear.onnx", seed=1))


def test_a_file_that_failed_to_load_does_not_reserve_its_name(
    registry: Registry, publish: Publish, onnx_file: Path, tmp_path: Path
) -> None:
    publish("linear")
    manager = ModelManager(registry)
    with pytest.raises(ModelLoadError, match="no such model file"):
        manager.load_model(tmp_path / "missing" / "linear.onnx")
    assert manager.load_model("linear").key == "linear:1.0.0"
    file = manager.load_model(onnx_file)
    assert manager.get_model("linear") is file
    manager.clear_cache(onnx_file)
    assert manager.get_model("linear").key == "linear:1.0.0"


def test_a_file_whose_name_cannot_be_a_models_is_refused(registry: Registry, onnx_file: Path) -> None:
    odd = onnx_file.rename(onnx_file.with_name("a:b.onnx"))
    with pytest.raises(InvalidInput, match="rename the file"):
        ModelManager(registry).load_model(odd)


def test_a_fresh_load_replaces_changed_content_under_the_same_version(registry: Registry, publish: Publish) -> None:
    publish(seed=1)
    manager = ModelManager(registry)
    old = manager.load_model("m")
    assert manager.load_model("m", fresh=True) is old
    registry.remove("m:1.0.0")
    publish(seed=2, again=True)
    assert manager.load_model("m") is old
    new = manager.load_model("m", fresh=True)
    np.testing.assert_allclose(
        new.backend.run({"x": np.eye(FEATURES, dtype=np.float32)})["logits"], weights(2), rtol=1e-5
    )
    assert new.cache_identity != old.cache_identity
    wait_until_closed(old)


def test_a_busy_model_over_the_budget_is_evicted_when_it_is_released(registry: Registry, publish: Publish) -> None:
    publish("a")
    publish("b")
    manager = ModelManager(registry, max_models=1)
    a = manager.load_model("a")
    lease = lease_of(manager, a)
    manager.load_model("b")
    assert len(manager.models()) == 2
    release(lease)
    assert [info.name for info in manager.list_cached_models()] == ["b"]


def test_a_load_that_ends_after_the_manager_was_closed_leaves_nothing_open(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    manager = ModelManager(registry)
    real = manager_module.load_artifact
    loaded: list[LoadedModel] = []

    def late(*args: Any, **more: Any) -> LoadedModel:
        loaded.append(real(*args, **more))
        manager.close()
        return loaded[0]

    monkeypatch.setattr(manager_module, "load_artifact", late)
    with pytest.raises(ModelNotReady):
        manager.load_model("m")
    assert manager.models() == []
    wait_until_closed(loaded[0])


def test_a_model_exported_for_a_fixed_batch_is_run_with_that_batch(registry: Registry, tmp_path: Path) -> None:
    manager = ModelManager(registry, batch_size=32)
    model = manager.load_model(linear(tmp_path / "fixed.onnx", batch=1))
    assert model.batcher.limits.batch_rows == 1
    assert list(model.info.batch_ms) == [1]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("missing.onnx", None, "no such model file"),
        ("empty.onnx", b"", "empty.onnx"),
        ("text.onnx", b"this is no model", "text.onnx"),
        ("notes.txt", b"hello", "notes.txt"),
    ],
)
def test_a_file_that_is_not_a_model_is_refused_by_name(
    registry: Registry, tmp_path: Path, name: str, content: bytes | None, error: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ModelLoadError, UnsupportedFormat), match=error) as refused:
        ModelManager(registry).load_model(path)
    assert "\n" not in str(refused.value)


def test_a_half_written_model_file_is_refused_by_name(registry: Registry, onnx_file: Path) -> None:
    onnx_file.write_bytes(onnx_file.read_bytes()[:-20])
    with pytest.raises(ModelLoadError, match=r"linear\.onnx"):
        ModelManager(registry).load_model(onnx_file)


def test_an_unknown_model_is_not_found_and_the_nearest_is_named(registry: Registry, publish: Publish) -> None:
    publish("digits")
    with pytest.raises(ModelNotFound, match="digits"):
        ModelManager(registry).load_model("digts")


def test_versions_of_one_model_are_separate_models(registry: Registry, publish: Publish) -> None:
    publish(version="1.0.0", seed=1)
    publish(version="2.0.0", seed=2)
    manager = ModelManager(registry)
    x = np.eye(FEATURES, dtype=np.float32)
    for ref, seed in (("m:1.0.0", 1), ("m", 2)):
        got = manager.load_model(ref).backend.run({"x": x})["logits"]
        np.testing.assert_allclose(got, weights(seed), rtol=1e-5)


@pytest.mark.parametrize(
    ("ref", "is_file"), [("m", False), ("m:1.0", False), ("m@best", False), ("m.onnx", True), ("./m", True)]
)
def test_references_and_files_are_distinguished(ref: str, is_file: bool) -> None:
    assert is_model_file(ref) is is_file


def test_a_device_that_was_named_and_is_not_here_is_refused(registry: Registry, publish: Publish) -> None:
    publish()
    manager = ModelManager(registry)
    with pytest.raises(ModelLoadError, match=r'm:1\.0\.0.*device="cuda:7" cannot be used.*device="auto" takes'):
        manager.load_model("m", device="cuda:7")
    assert manager.load_model("m", device="auto").info.device in ("cpu", "cuda:0")


def test_a_warm_up_without_rows_is_refused(registry: Registry, publish: Publish) -> None:
    publish()
    with pytest.raises(ConfigError, match="batch_size: 0 should be a number of at least 1"):
        ModelManager(registry).warmup("m", batch_size=0)
