"""Classes as users write them, good and bad: what `penstock serve python_models:Class` is tested with.

Workers import this module by its name; it needs nothing but numpy. A value of the input asks for what happens.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any, ClassVar

import numpy as np

Inputs = dict[str, np.ndarray[Any, Any]]

DIES, BLOCKS, RAISES, EXITS, PRINTS, OUT_OF_MEMORY, KILLED = 101.0, 102.0, 103.0, 104.0, 105.0, 106.0, 107.0
SHORT, LIST, OBJECT, OTHER_TYPE, EXTRA, MISSING, SLEEPS, HUGE = 111.0, 112.0, 113.0, 114.0, 115.0, 116.0, 117.0, 118.0


class Double:
    """Two times the input, and what its worker is."""

    inputs = ("x:FP32:-1,2",)
    outputs = ("y:FP32:-1,2", "pid:INT64:-1")

    def load(self) -> None:
        self.factor = 2

    def predict(self, inputs: Inputs) -> dict[str, Any]:
        x = inputs["x"]
        wanted = float(x[:, 0].max(initial=0.0))
        if wanted in _ACTIONS:
            _ACTIONS[wanted]()
        found = {"y": x * self.factor, "pid": np.full(len(x), os.getpid())}
        return _RESULTS[wanted](found) if wanted in _RESULTS else found


class Async:
    inputs: ClassVar = {"x": "FP32:-1,2"}
    outputs: ClassVar = {"y": "FP64:-1,2"}

    async def load(self) -> None:
        await asyncio.sleep(0)
        self.factor = 3.0

    async def predict(self, inputs: Inputs) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"y": (inputs["x"] * self.factor).tolist()}


class Shout:
    """Text in, text out."""

    inputs = "text:BYTES:-1"
    outputs = "loud:BYTES:-1"

    def predict(self, inputs: Inputs) -> dict[str, Any]:
        values = [text if isinstance(text, str) else text.decode() for text in inputs["text"]]
        if "" in values:
            from penstock.errors import InvalidInput

            raise InvalidInput("text: it is empty", field="text")
        return {"loud": np.array([text.upper() for text in values])}


class Words:
    """JSON values in, JSON values out."""

    inputs = "json"
    example = ({"text": "a b"}, {"text": "c"})

    def predict(self, values: list[Any]) -> list[Any]:
        if any(value == "short" for value in values):
            return values[1:]
        if any(value == "object" for value in values):
            return [object() for _ in values]
        return [{"words": value["text"].split(), "score": np.float32(len(value["text"]))} for value in values]


class BadExample(Double):
    example: ClassVar = {"z": [[1.0, 2.0]]}


class NoInputs:
    outputs = ("y:FP32:-1",)

    def predict(self, inputs: Inputs) -> Inputs:
        return inputs


class BadInputs(NoInputs):
    inputs = ("x:FP33:-1",)


class NoPredict:
    inputs = outputs = ("x:FP32:-1",)


class NeedsArguments(Double):
    def __init__(self, path: str) -> None:
        self.path = path


class RaisesAtLoad(Double):
    def load(self) -> None:
        raise FileNotFoundError("weights.pt is missing")


class ExitsAtLoad(Double):
    def load(self) -> None:
        sys.exit(4)


class DiesAtLoad(Double):
    def load(self) -> None:
        print("the driver is too old", flush=True)
        os._exit(9)


class BlocksAtLoad(Double):
    def load(self) -> None:
        time.sleep(1000)


class DiesAfterFirstLoad(Double):
    """Its file says that it was loaded once; from then on it cannot be."""

    def load(self) -> None:
        super().load()
        mark = os.environ["LOADED_ONCE"]
        if os.path.exists(mark):  # noqa: PTH110
            raise RuntimeError("the licence server does not answer")
        open(mark, "w").close()  # noqa: PTH123


class AlwaysDies(Double):
    def predict(self, inputs: Inputs) -> Inputs:
        os._exit(7)


not_a_class = Double()


def _raise() -> None:
    raise ValueError("the tokenizer has no such token\nsecond line")


def _print() -> None:
    print("a print of the model")
    sys.stderr.write("x" * 20_000 + "\n")


def _no_memory() -> None:
    raise MemoryError


_ACTIONS = {
    DIES: lambda: os._exit(3),
    BLOCKS: lambda: time.sleep(1000),
    SLEEPS: lambda: time.sleep(0.3),
    RAISES: _raise,
    EXITS: lambda: sys.exit("done"),
    PRINTS: _print,
    OUT_OF_MEMORY: _no_memory,
    KILLED: lambda: os.kill(os.getpid(), signal.SIGSEGV),
}
_RESULTS = {
    SHORT: lambda found: {name: value[:-1] for name, value in found.items()},
    LIST: lambda found: [found],
    OBJECT: lambda found: {**found, "y": [[object(), 1.0]]},
    OTHER_TYPE: lambda found: {**found, "pid": found["y"][:, 0]},
    EXTRA: lambda found: {**found, "z": found["y"]},
    MISSING: lambda found: {"y": found["y"]},
    HUGE: lambda found: {**found, "y": np.ones((len(found["y"]), 3), np.float32)},
}
