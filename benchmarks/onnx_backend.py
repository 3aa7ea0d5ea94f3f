"""`python benchmarks/onnx_backend.py [--json] [--only TEXT] [--operators A,B]`: the ONNX backend cases, served.

Each case with data runs twice: in ONNX Runtime itself and as a bare file in Penstock (`InferenceEngine.infer`), with
the case's own inputs. The two answers are compared, and what Penstock refuses is counted by reason. The exit status is
1 if an answer is wrong, the process crashes, or a refusal has none of the reasons in JUSTIFIED. The cases come with the
`onnx` package. Each runs in a worker process with limited memory and time.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import importlib
import json
import multiprocessing
import re
import resource
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.case import node
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests, load_node_model_tests

JUSTIFIED = {
    "graph without inputs": (
        "Without inputs there is nothing to ask; a constant is read from the file.",
        re.compile(r"no inputs"),
    ),
}
"""Refusals that are right: the reason, and the sentence of Penstock that they begin or contain."""

SECONDS, MEMORY = 120, 8 << 30
"""The limits of one case and of one worker process."""

_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
_NUMBERS = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float double string"
_SERVED = {f"tensor({name})" for name in _NUMBERS.split()}


@dataclass
class Case:
    """A model with its inputs: `model` is its content."""

    name: str
    model: bytes
    inputs: list[list[Any]]
    rtol: float
    atol: float


@dataclass
class Result:
    """What came of a case. `status`: passed, wrong, crashed, refused, types or ort (which does not run it itself)."""

    case: str
    status: str
    reason: str = ""


def collected(only: str = "", operators: Sequence[str] = ()) -> list[Case]:
    """The cases whose name contains `only`; with operators (modules of `onnx.backend.test.case.node`) only theirs."""
    return [case for case in (_of_operators(operators) if operators else _cases()) if only in case.name]


def _of_operators(operators: Sequence[str]) -> Iterator[Case]:
    for operator in operators:
        importlib.import_module(f"onnx.backend.test.case.node.{operator}")
    return map(_node_case, node._NodeTestCases)


def _cases() -> Iterator[Case]:
    yield from map(_node_case, load_node_model_tests())
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        for test in load_model_tests(kind=kind):
            if test.model_dir is not None:
                yield _file_case(kind, test, Path(test.model_dir))
    for path in sorted((_DATA / "light").glob("*.onnx")):
        yield _light_case(path)


def _node_case(test: TestCase) -> Case:
    assert test.model is not None
    assert test.data_sets is not None
    inputs = [list(map(_value, given)) for given, _ in test.data_sets]
    return Case(f"node/{test.name}", test.model.SerializeToString(), inputs, test.rtol, test.atol)


def _file_case(kind: str, test: TestCase, directory: Path) -> Case:
    sets = []
    for folder in sorted(directory.glob("test_data_set_*")):
        files = sorted(folder.glob("input_*.pb"), key=lambda file: int(file.stem.rpartition("_")[2]))
        sets.append([_read(file) for file in files])
    return Case(f"{kind}/{test.name}", (directory / "model.onnx").read_bytes(), sets, test.rtol, test.atol)


def _light_case(path: Path) -> Case:
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    random = np.random.default_rng(0)
    shapes = [
        [dim.dim_value or 1 for dim in given.type.tensor_type.shape.dim]
        for given in graph.input
        if given.name not in constants
    ]
    return Case(f"light/{path.stem}", path.read_bytes(), [[random.random(s, np.float32) for s in shapes]], 1e-3, 1e-5)


def _read(file: Path) -> Any:
    """One input; None for what is no tensor."""
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(file.read_bytes())
        return _value(tensor)
    except Exception:  # a sequence or an optional value
        return None


def _value(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    return value if value is None or isinstance(value, list | dict) else np.asarray(value)


# In a worker


@dataclass
class Worker:
    """Runs cases one after the other, and says where it is before each step that may crash."""

    pipe: Connection
    cases: list[Case]
    folder: Path

    def work(self) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        for case in self.cases:
            path = self.folder / f"{case.name.replace('/', '_')}.onnx"
            path.write_bytes(case.model)
            self.pipe.send(self._run(case, path))
            path.unlink()
        self.pipe.send(None)

    def _run(self, case: Case, path: Path) -> Result:
        self.pipe.send("ort")
        try:
            reference = Reference(path)
        except Exception as error:
            return Result(case.name, "ort", _plain(str(error)))
        if reference.other_types:
            return Result(case.name, "types", ", ".join(reference.other_types))
        try:
            expected = [reference.answers(given) for given in case.inputs]
        except Exception as error:
            return Result(case.name, "ort", _plain(str(error)))
        self.pipe.send("penstock")
        return asyncio.run(_serve(case, path, reference, expected))


class Reference:
    """ONNX Runtime itself."""

    def __init__(self, path: Path) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        values = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.other_types = sorted({value.type for value in values} - _SERVED)
        self.bf16 = {value.name for value in values if value.type == "tensor(bfloat16)"}
        self.input_names = [value.name for value in self.session.get_inputs()]
        self.names = [value.name for value in self.session.get_outputs()]

    def feed(self, given: list[Any]) -> dict[str, Any]:
        named = {name: value for name, value in zip(self.input_names, given, strict=False) if value is not None}
        return {name: value.view(np.uint16) if name in self.bf16 else value for name, value in named.items()}

    def answers(self, given: list[Any]) -> list[dict[str, Any]]:
        """Four runs: they differ where the model is random, the first two not always."""
        feed = self.feed(given)
        return [dict(zip(self.names, self._run(feed), strict=True)) for _ in range(4)]

    def _run(self, feed: dict[str, Any]) -> list[Any]:
        if not self.bf16:
            return self.session.run(None, feed)
        import onnxruntime as ort

        make = ort.OrtValue
        values = {
            name: (
                make.ortvalue_from_numpy_with_onnx_type(array, onnx.TensorProto.BFLOAT16)
                if name in self.bf16
                else make.ortvalue_from_numpy(array)
            )
            for name, array in feed.items()
        }
        return [_from_ort(value) for value in self.session.run_with_ort_values(self.names, values)]


def _from_ort(value: Any) -> Any:
    """An array; of bfloat16 its bits, as numpy has no such type."""
    if value.element_type() != onnx.TensorProto.BFLOAT16:
        return value.numpy()
    return np.frombuffer(ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()), np.uint16).reshape(
        value.shape()
    )


async def _serve(case: Case, path: Path, reference: Reference, expected: list[list[dict[str, Any]]]) -> Result:
    from penstock import InferenceConfig, InferenceEngine, PenstockError

    engine = InferenceEngine(
        InferenceConfig(model_path=str(path), max_queue_size=512), registry=path.parent / "registry"
    )
    try:
        try:
            await engine.start()
            for given, answers in zip(case.inputs, expected, strict=True):
                got = await engine.infer(None, reference.feed(given))
                difference = _difference(got.outputs, answers, case)
                if difference:
                    return Result(case.name, "wrong", difference)
        except PenstockError as error:
            return Result(case.name, "refused", _plain(str(error)))
        except Exception as error:
            return Result(case.name, "crashed", f"{type(error).__name__}: {error}")
        return Result(case.name, "passed")
    finally:
        await engine.close()


def _difference(got: dict[str, Any], answers: list[dict[str, Any]], case: Case) -> str:
    first, *others = answers
    for name, value in first.items():
        if name not in got:
            return f"the output {name} is missing"
        if got[name].shape != value.shape or got[name].dtype != value.dtype:
            return f"{name}: {got[name].dtype}{got[name].shape}, ONNX Runtime has {value.dtype}{value.shape}"
        is_random = not all(_same(value, other[name], case) for other in others)
        if not is_random and not _same(got[name], value, case):
            return f"{name}: other values than ONNX Runtime"
    return ""


def _same(one: Any, other: Any, case: Case) -> bool:
    if one.dtype.kind in "fc":
        return np.allclose(one, other, rtol=case.rtol, atol=max(case.atol, 1e-6), equal_nan=True)
    return np.array_equal(one, other)


def _plain(sentence: str) -> str:
    """A sentence without names, numbers and paths, so that equal reasons count together."""
    sentence = re.sub(r"\S*/\S+\.onnx:? ?", "", " ".join(sentence.split()))
    sentence = re.sub(r"\[[^\]]*\]|\{[^}]*\}", "[…]", sentence)
    sentence = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", sentence)
    return re.sub(r"-?\d+(\.\d+)?", "N", sentence)[:160]


# In the main process


@dataclass
class Lane:
    """Cases that run in one worker process after another: a process that crashes or hangs is replaced."""

    cases: list[Case]
    results: list[Result] = field(default_factory=list)

    def run(self) -> None:
        left = self.cases
        while left:
            done = len(self.results)
            self._some(left)
            left = left[len(self.results) - done :]

    def _some(self, cases: list[Case]) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        with tempfile.TemporaryDirectory() as folder:
            process = context.Process(target=Worker(theirs, cases, Path(folder)).work, daemon=True)
            process.start()
            theirs.close()
            step, before = "ort", len(self.results)
            try:
                while ours.poll(SECONDS) and (message := ours.recv()) is not None:
                    if isinstance(message, Result):
                        self.results.append(message)
                    else:
                        step = message
                if len(self.results) - before < len(cases):
                    raise TimeoutError
            except (EOFError, TimeoutError) as error:
                what = "it takes too long" if isinstance(error, TimeoutError) else "it ends the process"
                status = "ort" if step == "ort" else "crashed"
                self.results.append(Result(cases[len(self.results) - before].name, status, what))
            finally:
                process.kill()
                process.join()


def run(cases: list[Case], workers: int) -> list[Result]:
    """The results of all cases."""
    lanes = [Lane(cases[start::workers]) for start in range(workers)]
    threads = [threading.Thread(target=lane.run) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted((result for lane in lanes for result in lane.results), key=lambda result: result.case)


def unjustified(result: Result) -> bool:
    """True for a wrong answer, a crash, and a refusal that JUSTIFIED does not have."""
    if result.status == "refused":
        return not any(pattern.search(result.reason) for _, pattern in JUSTIFIED.values())
    return result.status in ("wrong", "crashed")


def table(results: list[Result]) -> str:
    """Counts by status, and by reason below it."""
    by_status: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_status[result.status].append(result)
    lines = [f"{len(results):6} cases"]
    for status in ("passed", "wrong", "crashed", "refused", "types", "ort"):
        found = by_status[status]
        lines.append(f"{len(found):6} {status}")
        for reason, count in Counter(result.reason for result in found if result.reason).most_common():
            sample = next(result.case for result in found if result.reason == reason)
            mark = "" if not unjustified(Result("", status, reason)) else "! "
            lines.append(f"{count:14} {mark}{reason}  ({sample})")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print every result as JSON")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--operators", default="", help="only the cases of these operators, a comma list")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    started = time.monotonic()
    results = run(collected(given.only, given.operators.split(",") if given.operators else ()), given.workers)
    bad = [result for result in results if unjustified(result)]
    if given.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    else:
        print(table(results))
        print(f"{len(bad)} to mend, in {time.monotonic() - started:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
