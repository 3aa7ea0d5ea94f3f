"""One model in this process, as a notebook uses it."""

from __future__ import annotations

import gc
import itertools
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear_models import FEATURES, Publish, linear, weights

from penstock.engine.predictor.predictor import Predictor
from penstock.errors import ConfigError, InferenceError, InvalidInput, ModelNotFound, OutOfMemory
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


def test_a_name_with_a_route_is_its_version_with_the_greatest_weight(registry: Registry, publish: Publish) -> None:
    publish()
    publish(version="2.0.0", seed=1)
    arms = [{"version": "1.0.0", "weight": 90}, {"version": "2.0.0", "weight": 10}]
    with Predictor("m", registry=registry) as predictor:
        assert predictor.info.version == "2.0.0"
    registry.routes.set("m", {"arms": arms}, force=True)
    for ref, version in (("m", "1.0.0"), ("m:2.0.0", "2.0.0")):
        with Predictor(ref, registry=registry) as predictor:
            assert predictor.info.version == version


def test_several_rows_in_one_request_may_exceed_a_batch(predictor: Predictor) -> None:
    assert predictor.predict(X).predictions == TRUTH


@pytest.mark.parametrize("workers", [0, 4])
@pytest.mark.parametrize("batch_size", [None, 1, 7, 64])
def test_a_data_set_is_answered_in_order(predictor: Predictor, workers: int, batch_size: int | None) -> None:
    for values in (X, list(X), iter(X)):
        answers = predictor.predict_batch(values, batch_size=batch_size, num_workers=workers)
        assert [answer.predictions[0] for answer in answers] == TRUTH


def test_batches_really_are_batches(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    run = predictor._runs._run
    monkeypatch.setattr(predictor._runs, "_run", lambda inputs: sizes.append(len(inputs["x"])) or run(inputs))
    predictor.predict_batch(X[:20], batch_size=8)
    predictor.predict_batch(X[:20], batch_size=16)
    assert sizes == [8, 8, 4, 16, 4]


def test_threads_share_a_predictor(predictor: Predictor) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(predictor.predict, X))
    assert [answer.predictions[0] for answer in answers] == TRUTH


def test_an_invalid_request_is_named(predictor: Predictor) -> None:
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


def test_an_unknown_optimization_is_refused(registry: Registry, publish: Publish) -> None:
    publish()
    with Predictor("m", registry=registry, optimizations=["quantization"]) as predictor:
        assert "int8 was requested, m:1.0.0 has no int8 variant that runs here" in predictor.info.warnings[-1]
    with pytest.raises(ConfigError, match="'magic' is unknown"):
        Predictor("m", registry=registry, optimizations=["magic"])


def test_invalid_sizes_are_refused_by_name(registry: Registry, predictor: Predictor) -> None:
    for options in ({"batch_size": 0}, {"cache_size": -1}, {"threads": 0}, {"precision": "fp99"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Predictor("m", registry=registry, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_size"):
        predictor.predict_batch(X, batch_size=0)


def test_an_unknown_model_is_not_found(registry: Registry) -> None:
    with pytest.raises(ModelNotFound):
        Predictor("unknown", registry=registry)


# Long batches


class Source:
    """Rows one by one, counting how many were taken."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.taken = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for index in range(self.rows):
            self.taken += 1
            yield X[index % len(X)]


@pytest.mark.parametrize("workers", [0, 3])
def test_results_are_yielded_while_the_source_is_read(predictor: Predictor, workers: int) -> None:
    source = Source(10_000)
    answers = predictor.predict_iter(source, batch_size=16, num_workers=workers)
    assert source.taken == 0
    for index, answer in enumerate(answers):
        assert answer.predictions == TRUTH[index % 50 : index % 50 + 1]
        assert source.taken <= index + 1 + 3 * 16
        if index == 100:
            break


def test_a_source_may_be_endless(predictor: Predictor) -> None:
    endless = itertools.cycle(X)
    first = list(itertools.islice(predictor.predict_iter(endless, batch_size=8, num_workers=2), 60))
    assert [answer.predictions[0] for answer in first] == (TRUTH * 2)[:60]


def test_requests_are_prepared_while_the_model_runs(registry: Registry, publish: Publish) -> None:
    """The threads prepare the second batch during the first one's run."""
    publish()
    running, overlapped = threading.Event(), threading.Event()

    class Watched(Predictor):
        def preprocess(self, request: Any) -> dict[str, np.ndarray]:
            if running.wait(0.0005):
                overlapped.set()
            return super().preprocess(request)

    with Watched("m", registry=registry, batch_size=8) as predictor:
        run = predictor._runs._run

        def slow(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            running.set()
            time.sleep(0.02)
            running.clear()
            return run(inputs)

        predictor._runs._run = slow
        assert len(predictor.predict_batch(X[:32], num_workers=2)) == 32
    assert overlapped.is_set()


def test_no_thread_is_left_when_the_iterator_is_closed(predictor: Predictor) -> None:
    answers = predictor.predict_iter(itertools.cycle(X), batch_size=4, num_workers=2)
    next(answers)
    del answers
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("penstock-prepare")]


def test_progress_reports_the_total_if_it_is_known(predictor: Predictor) -> None:
    reported: list[tuple[int, int | None]] = []
    predictor.predict_batch(X[:20], batch_size=8, progress=lambda done, total: reported.append((done, total)))
    predictor.predict_batch(iter(X[:10]), batch_size=8, progress=lambda done, total: reported.append((done, total)))
    assert reported == [(8, 20), (16, 20), (20, 20), (8, None), (10, None)]


def test_progress_can_be_a_bar(predictor: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    predictor.predict_batch(X[:20], progress=True)
    shown = capsys.readouterr()
    assert "predicting" in shown.err
    assert shown.out == ""


def test_errors_can_be_returned_in_place_of_results(predictor: Predictor) -> None:
    values = [X[0], np.zeros(3), X[1]]
    good, bad, fine = predictor.predict_batch(values, on_error="return", num_workers=2)
    assert (good.predictions, fine.predictions) == (TRUTH[:1], TRUTH[1:2])
    assert isinstance(bad, InvalidInput)
    with pytest.raises(InvalidInput):
        predictor.predict_batch(values)
    with pytest.raises(ConfigError, match="on_error: 'ignore'"):
        predictor.predict_batch(values, on_error="ignore")  # type: ignore[arg-type]


def test_a_batch_that_fails_is_halved_until_only_the_requests_at_fault_fail(predictor: Predictor) -> None:
    run = predictor._runs._run

    def picky(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if (inputs["x"] > 50).any():
            raise InferenceError("too much")
        return run(inputs)

    predictor._runs._run = picky
    values = [*X[:5], np.full(FEATURES, 99, np.float32), *X[5:7]]
    answers = predictor.predict_batch(values, on_error="return")
    assert [type(answer) for answer in answers].count(InferenceError) == 1
    assert isinstance(answers[5], InferenceError)
    assert [answer.predictions[0] for answer in answers[:5]] == TRUTH[:5]


@pytest.mark.parametrize("most", [1, 3])
def test_a_batch_that_does_not_fit_into_memory_is_halved(predictor: Predictor, most: int) -> None:
    run = predictor._runs._run
    sizes: list[int] = []

    def small(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append(len(inputs["x"]))
        if len(inputs["x"]) > most:
            raise OutOfMemory("the batch does not fit into memory")
        return run(inputs)

    predictor._runs._run = small
    assert [answer.predictions[0] for answer in predictor.predict_batch(X[:20])] == TRUTH[:20]
    assert predictor.predict(X).predictions == TRUTH
    assert max(sizes) == 8


def test_a_single_row_that_does_not_fit_into_memory_is_an_error(predictor: Predictor) -> None:
    def full(_inputs: Any) -> Any:
        raise OutOfMemory("the batch does not fit into memory")

    predictor._runs._run = full
    with pytest.raises(OutOfMemory, match="does not fit"):
        predictor.predict(X)


def test_equal_requests_of_a_batch_have_separate_outputs(registry: Registry, publish: Publish) -> None:
    publish()

    class Doubling(Predictor):
        def postprocess(self, outputs: dict[str, np.ndarray], request: Any) -> float:
            outputs["logits"] *= 2
            return float(outputs["logits"][0, 0])

    with Doubling("m", registry=registry, cache_size=8) as predictor:
        row = np.ones(FEATURES, np.float32)
        assert len(set(predictor.predict_batch([row, row, row]))) == 1


def test_the_cache_finds_single_requests_of_a_batch(registry: Registry, publish: Publish) -> None:
    publish()
    with Predictor("m", registry=registry, cache_size=100) as predictor:
        run, sizes = predictor._runs._run, []
        predictor._runs._run = lambda inputs: sizes.append(len(inputs["x"])) or run(inputs)
        predictor.predict_batch(X[:10])
        predictor.predict(X[3])
        answers = predictor.predict_batch([X[9], X[20], X[20], X[0]])
    assert sizes == [10, 1]
    assert [answer.predictions[0] for answer in answers] == [TRUTH[9], TRUTH[20], TRUTH[20], TRUTH[0]]


def test_a_bug_in_a_task_is_an_error_that_names_it(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("oops")

    monkeypatch.setattr(predictor.task, "preprocess", broken)
    with pytest.raises(InferenceError, match=r"vector-classification failed to prepare .* KeyError: 'oops'"):
        predictor.predict(X[0])


def test_a_model_with_a_fixed_batch_gets_that_batch(tmp_path: Path) -> None:
    with Predictor(linear(tmp_path / "fixed.onnx", batch=4), registry=Registry(tmp_path / "none")) as predictor:
        logits = np.reshape(predictor.predict(X[:4]).outputs["logits"], (4, -1))
        assert logits.argmax(axis=1).tolist() == TRUTH[:4]
        with pytest.raises(InvalidInput):
            predictor.predict(X[:3])


class Labelled(Predictor):
    """Has its own attribute, which must be pickled."""

    labels = "???"

    def postprocess(self, outputs: dict[str, np.ndarray], request: Any) -> str:
        return self.labels[super().postprocess(outputs, request).predictions[0]]


def test_attributes_of_a_subclass_are_pickled(registry: Registry, publish: Publish) -> None:
    publish()
    with Labelled("m", registry=registry) as predictor:
        predictor.labels = "abc"
        copy = pickle.loads(pickle.dumps(predictor))
        with copy:
            assert type(copy) is Labelled
            assert copy.predict(X[0]) == predictor.predict(X[0]) == "abc"[TRUTH[0]]


class Careless(Predictor):
    """Its preprocess fails if the first number is zero, its postprocess if the second one is."""

    def preprocess(self, request: Any) -> Any:
        1 / float(request.input_data[0])
        return super().preprocess(request) if request.input_data[2] else None

    def postprocess(self, outputs: Any, request: Any) -> Any:
        1 / float(request.input_data[1])
        return super().postprocess(outputs, request)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bug_in_a_subclass_fails_only_its_own_request(registry: Registry, publish: Publish, workers: int) -> None:
    publish()
    rows = [[1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]]
    with Careless("m", registry=registry) as careless:
        answers = careless.predict_batch(rows, num_workers=workers, on_error="return")
        with pytest.raises(InferenceError, match="to prepare the request: ZeroDivisionError") as caught:
            careless.predict(rows[1])
        with pytest.raises(InferenceError, match="on the model's outputs: ZeroDivisionError"):
            careless.predict(rows[2])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert [isinstance(answer, InferenceError) for answer in answers] == [False, True, True, True, False]


def test_a_source_without_requests_is_refused(predictor: Predictor) -> None:
    with pytest.raises(InvalidInput, match="values: int holds no requests"):
        predictor.predict_batch(5)  # type: ignore[arg-type]


def test_optimizations_that_are_not_a_list_are_refused(registry: Registry, publish: Publish) -> None:
    publish()
    with pytest.raises(ConfigError, match=r"give a list of them, \['quantization'\]"):
        Predictor("m", registry=registry, optimizations="quantization")


def test_a_registry_may_be_given_as_its_directory(onnx_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="holds no models yet"):
        Predictor("m", registry=str(tmp_path / "other"))
    with Predictor(onnx_file, registry=tmp_path / "other") as predictor:
        assert predictor.predict(X[0]).predictions == TRUTH[:1]


def _frames(buffer: Any, rows: Any) -> Iterator[Any]:
    """A source that writes every request into the same memory, as cameras and loaders do."""
    for row in rows:
        if isinstance(buffer, dict):
            buffer["input_data"][:] = [float(value) for value in row]
        elif isinstance(buffer, np.ndarray):
            buffer[...] = row
        else:
            buffer[:] = torch.from_numpy(row)
        yield buffer


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "buffer",
    [np.zeros(FEATURES, np.float32), torch.zeros(FEATURES), {"input_data": [0.0] * FEATURES}],
    ids=["array", "tensor", "mapping"],
)
def test_a_source_may_reuse_its_buffer(predictor: Predictor, buffer: Any, workers: int) -> None:
    answers = predictor.predict_batch(_frames(buffer, X), batch_size=8, num_workers=workers)
    assert [answer.predictions[0] for answer in answers] == TRUTH


def test_a_memory_map_may_be_written_while_it_is_read(predictor: Predictor, tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "frame.bin", np.float32, "w+", shape=(FEATURES,))
    answers = predictor.predict_batch(_frames(mapped, X), batch_size=8)
    assert [answer.predictions[0] for answer in answers] == TRUTH


class _Frames:
    """A data set whose items are one buffer."""

    def __init__(self) -> None:
        self.buffer = np.zeros(FEATURES, np.float32)

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        self.buffer[...] = X[index]  # IndexError at the end, which ends the iteration
        return self.buffer


def test_a_data_set_may_reuse_its_buffer(predictor: Predictor) -> None:
    assert [answer.predictions[0] for answer in predictor.predict_batch(_Frames())] == TRUTH


def test_arguments_have_the_names_that_other_tools_use(registry: Registry, publish: Publish) -> None:
    publish()
    with Predictor(model_path="m", registry=registry, config={"batch_size": 4}) as predictor:  # type: ignore[call-arg]
        assert predictor.info["device"] == predictor.info.device == "cpu"
        assert dict(predictor.info)["name"] == "m"
        answers = predictor.predict_batch(data=X[:3], batch_size=2)  # type: ignore[call-arg]
        assert [answer.predictions[0] for answer in answers] == TRUTH[:3]
        with pytest.raises(KeyError, match="'devise' is no fact about a model; there are name, version"):
            predictor.info["devise"]
        with pytest.raises(TypeError, match="predict\\(\\) got 'data' and 'value', which are one argument"):
            predictor.predict(value=X[0], data=X[0])  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "right"), [("use_fp16", "precision"), ("optimize_model", "use_compile=True"), ("batch_sise", "batch_size")]
)
def test_a_name_of_another_tool_is_answered_with_the_right_one(registry: Registry, name: str, right: str) -> None:
    with pytest.raises(TypeError, match=rf"Predictor\(\) has no option '{name}'; .*{right}"):
        Predictor("m", registry=registry, **{name: True})  # type: ignore[arg-type]
