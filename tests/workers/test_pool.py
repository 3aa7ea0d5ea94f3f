"""Workers as their server sees them: what a class does wrong is one sentence, and no process is lost or left behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import python_models as models
from waiting import LONG_S, wait_until

from penstock.backends.base import Stop
from penstock.errors import InferenceError, InvalidInput, ModelLoadError, ModelNotReady, OutOfMemory, WorkerDied
from penstock.workers.pool import Limits, WorkerPool
from penstock.workers.process import WorkerSpec
from penstock.workers.restarts import FAILURES

SUPPORT = str(Path(models.__file__).parent)
LIMITS = Limits(load_s=LONG_S, grace_s=0.0)


def spec(name: str, workers: int = 1, path: str = SUPPORT) -> WorkerSpec:
    target = name if ":" in name else f"python_models:{name}"
    return WorkerSpec(name, {"target": target, "python_path": [path]}, workers=workers, threads=1)


@contextmanager
def opened(name: str = "Double", workers: int = 1, limits: Limits = LIMITS) -> Iterator[WorkerPool]:
    pool = WorkerPool(spec(name, workers), limits)
    try:
        pool.open()
        wait_until(lambda: pool.figures()["ready"] == workers)
        pids = pool.pids()
        yield pool
    finally:
        pool.close()
    pids += pool.pids()
    wait_until(lambda: not any(map(exists, pids)))


@pytest.fixture(scope="module")
def double() -> Iterator[WorkerPool]:
    with opened() as pool:
        yield pool


def exists(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def x(*values: float) -> dict[str, Any]:
    return {"x": np.array([[value, 1.0] for value in values], np.float32)}


def run(pool: WorkerPool, *values: float, stop: Stop | None = None) -> dict[str, Any]:
    return pool.run(x(*values), len(values), stop)


def test_a_batch_is_answered_by_another_process(double: WorkerPool) -> None:
    found = run(double, 1.0, 2.0)
    assert found["y"].tolist() == [[2.0, 2.0], [4.0, 2.0]]
    assert set(found["pid"]) == {*double.pids()} != {os.getpid()}


@pytest.mark.parametrize(
    ("value", "kind", "sentence"),
    [
        (
            models.RAISES,
            InferenceError,
            "Double.predict raised ValueError: the tokenizer has no such token second line",
        ),
        (models.EXITS, InferenceError, "Double.predict called sys.exit('done')"),
        (models.OUT_OF_MEMORY, OutOfMemory, "Double.predict raised MemoryError"),
        (models.SHORT, InferenceError, "the output 'y' has 1 rows for a batch of 2; return one row for each"),
        (models.LIST, InferenceError, "Double.predict returned list; return a dict with arrays for y, pid"),
        (models.OBJECT, InferenceError, "the output 'y' cannot be read as an array of FP32"),
        (models.OTHER_TYPE, InferenceError, "the output 'pid' is float32, but `outputs` says INT64"),
        (models.EXTRA, InferenceError, "Double.predict returned 'z', which `outputs` does not name"),
        (models.MISSING, InferenceError, "the output 'pid' is missing"),
        (models.HUGE, InferenceError, "the output 'y' has the shape [2, 3], but `outputs` says [-1, 2]"),
    ],
)
def test_what_predict_does_wrong_is_one_sentence_and_its_worker_goes_on(
    double: WorkerPool, value: float, kind: type[InferenceError], sentence: str
) -> None:
    before = double.pids()
    with pytest.raises(kind) as failed:
        run(double, value, 1.0)
    assert type(failed.value) is kind
    assert sentence in str(failed.value)
    assert "\n" not in str(failed.value)
    assert run(double, 1.0)["y"].tolist() == [[2.0, 2.0]]
    assert double.pids() == before


def test_the_traceback_is_the_cause_and_begins_in_the_code_of_the_user(double: WorkerPool) -> None:
    with pytest.raises(InferenceError) as failed:
        run(double, models.RAISES)
    trace = str(failed.value.__cause__)
    assert "python_models.py" in trace
    assert "penstock/workers" not in trace


def test_what_a_class_prints_goes_to_the_log(double: WorkerPool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "penstock.workers"):
        run(double, models.PRINTS)
        wait_until(lambda: sum("xxx" in record.message for record in caplog.records) >= 3)
    printed = next(record for record in caplog.records if "a print of the model" in record.message)
    assert (printed.model, printed.worker) == ("Double", 1)  # type: ignore[attr-defined]
    assert "Double: worker 1:" in printed.message


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no_such_module:Model", "there is no module no_such_module in "),
        ("json.nothing:Model", "there is no module json.nothing in "),
        ("python_models:Other", "the module python_models has no class Other; it has "),
        ("python_models:not_a_class", "python_models:not_a_class is Double, not a class"),
        ("NoPredict", "has no method predict(self, inputs)"),
        ("NoInputs", "NoInputs declares no inputs; write inputs = ("),
        ("BadExample", "BadExample.example: 'x'; write the inputs of one request"),
        ("BadInputs", "BadInputs.inputs: 'FP33' is not a datatype"),
        ("NeedsArguments", "NeedsArguments() raised TypeError"),
        ("RaisesAtLoad", "RaisesAtLoad.load raised FileNotFoundError: weights.pt is missing"),
        ("ExitsAtLoad", "ExitsAtLoad.load called sys.exit(4)"),
        ("DiesAtLoad", "died while it loaded: it ended with exit code 9; it wrote: the driver is too old"),
    ],
)
def test_a_class_that_cannot_be_loaded_is_one_sentence(name: str, sentence: str) -> None:
    pool = WorkerPool(spec(name), LIMITS)
    with pytest.raises(ModelLoadError) as failed:
        pool.open()
    assert sentence in str(failed.value)
    assert pool.pids() == []


def test_an_import_that_fails_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import numpy\nimport not_installed\n")
    with pytest.raises(ModelLoadError, match=r"the import of broken raised ModuleNotFoundError: .*not_installed"):
        WorkerPool(spec("broken:Model", path=str(tmp_path)), LIMITS).open()


def test_a_load_that_never_ends_is_ended() -> None:
    with pytest.raises(ModelLoadError, match=r"longer than 1 s to load; raise `python_load_timeout_s`"):
        WorkerPool(spec("BlocksAtLoad"), replace(LIMITS, load_s=1.0)).open()


def test_coroutines_and_lists_are_fine() -> None:
    with opened("Async") as pool:
        found = pool.run(x(1.0), 1, None)["y"]
    assert (found.dtype, found.tolist()) == (np.float64, [[3.0, 3.0]])


def test_text_and_refused_input() -> None:
    with opened("Shout") as pool:
        assert pool.run({"text": np.array(["ä", b"b"], object)}, 2, None)["loud"].tolist() == ["Ä", "B"]
        with pytest.raises(InvalidInput) as refused:
            pool.run({"text": np.array([""], object)}, 1, None)
    assert refused.value.errors[0] == ("text", "it is empty")


def test_json_values_are_answered_one_by_one() -> None:
    def values(*texts: str) -> dict[str, Any]:
        return {"values": np.array(texts, object)}

    with opened("Words") as pool:
        found = pool.run(values('{"text": "a b"}', '{"text": "c"}'), 2, None)["values"]
        assert found.tolist() == [b'{"words":["a","b"],"score":3.0}', b'{"words":["c"],"score":1.0}']
        for text, sentence in (
            ('"short"', "Words.predict returned 0 values for a batch of 1; return a list with one for each"),
            ('"object"', "Words.predict: value 0 cannot be written as JSON"),
            ("{", "values: a text is not JSON"),
        ):
            with pytest.raises(InferenceError, match=sentence):
                pool.run(values(text), 1, None)


@pytest.mark.parametrize(("value", "how"), [(models.DIES, "exit code 3"), (models.KILLED, "SIGSEGV ended it")])
def test_a_batch_that_kills_two_workers_is_refused(value: float, how: str) -> None:
    with opened(workers=2) as pool:
        with pytest.raises(WorkerDied, match=f"2 workers died on this batch, so it is refused; the last one: .*{how}"):
            run(pool, value)
        assert pool.figures()["failures"] <= 2
        assert run(pool, 1.0)["y"].tolist() == [[2.0, 2.0]]
        wait_until(lambda: pool.figures() == {"ready": 2, "failures": 2})


def test_a_worker_that_dies_is_replaced_and_its_batch_runs_on_another() -> None:
    with opened(workers=2) as pool:
        found: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: found.append(run(pool, models.SLEEPS, 5.0)))
        thread.start()
        wait_until(lambda: len(pool._idle) == 1)  # the other one has the batch
        (busy,) = pool._all - set(pool._idle)
        os.kill(busy.pid, signal.SIGKILL)
        thread.join(LONG_S)
        assert found[0]["y"][1].tolist() == [10.0, 2.0]
        assert busy.pid not in found[0]["pid"]
        wait_until(lambda: pool.figures() == {"ready": 2, "failures": 1})


def test_killed_at_random_under_load_nothing_is_lost() -> None:
    """As long as no batch meets two kills: the killer waits until what it has killed is replaced."""
    answers: list[float] = []
    errors: list[BaseException] = []
    ending = threading.Event()

    def ask(pool: WorkerPool, first: int) -> None:
        value = first
        while not ending.is_set():
            try:
                answers.append(run(pool, float(value % 50))["y"][0, 0] - 2 * (value % 50))
            except BaseException as error:
                errors.append(error)
            value += 1

    with opened(workers=2) as pool:
        threads = [threading.Thread(target=ask, args=(pool, number)) for number in (0, 7)]
        for thread in threads:
            thread.start()
        random = np.random.default_rng(0)
        for kill in range(1, 6):
            asked = len(answers)
            wait_until(lambda asked=asked: len(answers) > asked + 20)
            os.kill(random.choice(pool.pids()), signal.SIGKILL)
            wait_until(lambda kill=kill: pool.figures() == {"ready": 2, "failures": kill})
        ending.set()
        for thread in threads:
            thread.join(LONG_S)
    assert errors == []
    assert set(answers) == {0.0}


@pytest.mark.parametrize("value", [models.BLOCKS, models.SLEEPS], ids=["for ever", "for longer than the grace"])
def test_a_worker_that_does_not_come_back_is_replaced(value: float) -> None:
    with opened() as pool:
        (before,) = pool.pids()
        stop = Stop()
        threading.Timer(0.05, stop.ask).start()
        with pytest.raises(WorkerDied, match=r"a run did not end within \S+ s after its deadline"):
            run(pool, value, stop=stop)
        assert run(pool, 1.0)["pid"].tolist() != [before]
        assert "did not end within" in pool._restarts.why


def test_a_short_deadline_does_not_end_a_worker_that_is_as_slow_as_ever() -> None:
    with opened() as pool:
        before = pool.pids()
        run(pool, models.SLEEPS)
        stop = Stop()
        threading.Timer(0.05, stop.ask).start()
        assert run(pool, models.SLEEPS, stop=stop)["y"][0, 0] == 2 * models.SLEEPS
        assert pool.pids() == before


def test_a_late_answer_within_the_grace_keeps_the_worker() -> None:
    with opened(limits=replace(LIMITS, grace_s=LONG_S)) as pool:
        before = pool.pids()
        stop = Stop()
        threading.Timer(0.05, stop.ask).start()
        assert run(pool, models.SLEEPS, stop=stop)["y"][0, 0] == 2 * models.SLEEPS
        assert pool.pids() == before


def test_a_crash_loop_opens_the_circuit_and_a_worker_that_loads_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "loaded"
    monkeypatch.setenv("LOADED_ONCE", str(mark))
    monkeypatch.setattr("penstock.workers.restarts.FIRST_WAIT_S", 0.01)
    with opened("DiesAfterFirstLoad") as pool:
        assert pool.problem == ""
        os.kill(pool.pids()[0], signal.SIGKILL)
        wait_until(lambda: pool.problem)
        assert f"failed {FAILURES} times in a row" in pool.problem
        assert "DiesAfterFirstLoad.load raised RuntimeError: the licence server does not answer" in pool.problem
        with pytest.raises(ModelNotReady, match="DiesAfterFirstLoad is not ready"):
            run(pool, 1.0)
        mark.unlink()
        wait_until(lambda: not pool.problem)
        assert run(pool, 1.0)["y"].tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("limits", [replace(LIMITS, max_rows=5), replace(LIMITS, max_bytes=1)], ids=["rows", "memory"])
def test_a_worn_worker_is_replaced_before_it_ends(limits: Limits) -> None:
    with opened(limits=limits) as pool:
        (before,) = pool.pids()
        assert set(run(pool, 1.0, 2.0, 3.0, 4.0, 5.0)["pid"]) == {before}
        wait_until(lambda: (run(pool, 1.0)["pid"][0] != before))
        wait_until(lambda: not exists(before))
        assert pool.figures()["failures"] == 0


def test_closing_ends_a_run_that_goes_on() -> None:
    with opened() as pool:
        (before,) = pool.pids()
        failed: list[BaseException] = []

        def blocked() -> None:
            with suppress_into(failed):
                run(pool, models.BLOCKS)

        thread = threading.Thread(target=blocked)
        thread.start()
        wait_until(lambda: not pool._idle)
        pool.close()
        thread.join(LONG_S)
        assert [type(error) for error in failed] == [ModelNotReady]
        wait_until(lambda: not exists(before))


@contextmanager
def suppress_into(found: list[BaseException]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        found.append(error)


def test_workers_see_no_settings_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_ADMIN_KEY", "a secret of the server")
    monkeypatch.setenv("MODEL_HOME", "/models")
    found = spec("Double").environment()
    assert "PENSTOCK_ADMIN_KEY" not in found
    assert found["MODEL_HOME"] == "/models"


@pytest.mark.parametrize("value", [1.0, models.BLOCKS], ids=["idle", "busy"])
def test_nothing_is_left_behind_by_a_server_that_is_killed(value: float) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); sys.path.insert(0, {SUPPORT!r})
import threading, test_pool
pool = test_pool.WorkerPool(test_pool.spec("Double"), test_pool.LIMITS)
pool.open()
threading.Thread(target=test_pool.run, args=(pool, {value})).start()
while {value} != 1.0 and pool._idle: pass  # until it is busy
print(*pool.pids(), flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        server.kill()
    wait_until(lambda: not running(pid))


def running(pid: int) -> bool:
    """False for a process that is gone or that nobody has waited for yet."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return exists(pid)
