"""Finds inputs that a model runs with: lengths of its free axes, and values.

The signature does not say everything: audio has at least 400 samples, images are multiples of 64, a divisor is not
zero. Small lengths and harmless values are tried first. Further lengths come from the graph and from the runtime's
message when a run fails. Tries, time and memory are bounded.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping

import numpy as np

from penstock.backends.base import Backend, InputHints
from penstock.backends.probing.values import (
    STYLES,
    Axis,
    Lengths,
    Values,
    free_axes,
    has_role,
    make_inputs,
    positive,
    rows_to_try,
    shape_of,
)
from penstock.errors import InferenceError, PenstockError, WorkerDied
from penstock.tensors import Arrays, Signature, TensorSpec

LENGTHS = (8, 224, 1, 64, 512, 16000, 400, 1536, 16, 32, 128, 256, 2, 3, 640, 1024, 2048, 4096)
"""Lengths to try for all free axes together."""

MAX_TRIES, BUDGET_S = 120, 4.0
"""A model that runs with nothing costs this much at load, and no more."""
MAX_ROW_ELEMENTS = 1 << 18
"""Free lengths that make a row larger than this are not tried."""
MAX_IDS = 512
"""The longest row of integers to try: the memory of attention grows by the square of it."""
MAX_RANGES, SLOW_S = 6, 0.2
"""Richer integers are looked for in this many inputs, and not for a model whose run takes longer."""

_POSITIONS = re.compile(r"\[ONNXRuntimeError\] : \d+|\S+\.(?:cc|h|hpp|cpp|cu|py)\"?(?::\d+|, line \d+)|line \d+")
_MULTIPLES = re.compile(r"multiple|divisible", re.IGNORECASE)


class Search:
    """One search for a model. `found` gives lengths and values."""

    def __init__(self, backend: Backend, signature: Signature) -> None:
        self._backend = backend
        self._signature = signature
        self._axes = free_axes(signature)
        self._tries = 0
        self._until = math.inf
        self._failure: PenstockError | None = None
        self._messages: set[str] = set()
        self._learned: list[Lengths] = []
        self.run_s = 0.0

    def found(self) -> tuple[Lengths, Values]:
        """Lengths and values that the model runs with; raises its first InferenceError when there are none."""
        first = self._all(LENGTHS[0])
        outputs = self._run(first, STYLES[0])
        if outputs is not None:
            return first, self._richer(first, STYLES[0], outputs)
        for lengths, values in self._further(first):
            outputs = self._run(lengths, values)
            if outputs is not None:
                return lengths, self._richer(lengths, values, outputs)
            if self._tries >= MAX_TRIES or time.monotonic() > self._until:
                break
        if isinstance(self._failure, InferenceError):
            raise self._failure
        raise InferenceError(str(self._failure or "there are no inputs to try the model with"))

    def _further(self, first: Lengths) -> Iterator[tuple[Lengths, Values]]:
        """What to try after the first failure: all values for the first lengths, then the usual values for others."""
        hints = self._backend.input_hints()
        start = self._hinted(first, hints)
        yield from ((start, values) for values in STYLES)
        fixed = (n for spec in self._signature.inputs for n in spec.shape[1:] if n > 1)
        self._learn(start, dict.fromkeys((*hints.numbers, *fixed)))
        tried: list[Lengths] = [start]
        for lengths in self._alternating(hints):
            if lengths not in tried and self._affordable(lengths):
                tried.append(lengths)
                yield from ((lengths, values) for values in STYLES[:2])

    def _alternating(self, hints: InputHints) -> Iterator[Lengths]:
        """Learned lengths and usual ones in turn. A failure learns more while this runs."""
        ladder = [self._hinted(self._all(length), hints) for length in LENGTHS] if self._axes else []
        for usual in ladder:
            for _ in range(2):
                if self._learned:
                    yield self._learned.pop(0)
            yield usual
        while self._learned:
            yield self._learned.pop(0)

    def _all(self, length: int) -> dict[Axis, int]:
        return dict.fromkeys(self._axes, length)

    def _hinted(self, lengths: Lengths, hints: InputHints) -> dict[Axis, int]:
        """These lengths, but what the graph says, and the sums that names such as `past + new` write."""
        known = {axis: hints.lengths[place] for axis, place in self._axes.items() if place in hints.lengths}
        least = {axis: hints.least.get(place, 0) for axis, place in self._axes.items()}
        merged = {axis: max(length, least[axis]) for axis, length in lengths.items()} | known
        return {axis: _written_sum(axis, merged) or length for axis, length in merged.items()}

    def _learn(self, lengths: Lengths, numbers: Mapping[int, object]) -> None:
        """Put first what these numbers suggest: one axis of this length, then all of them."""
        new = [number for number in numbers if number not in lengths.values()]
        single = [{**lengths, axis: number} for number in new for axis in self._axes]
        both = [self._all(number) for number in new]
        self._learned = [*single, *both, *self._learned]

    def _affordable(self, lengths: Lengths) -> bool:
        free = [spec for spec in self._signature.inputs if spec.row_elements < 0]
        return all(math.prod(shape_of(spec, 1, lengths)) <= _most_elements(spec) for spec in free)

    def _run(self, lengths: Lengths, values: Values) -> Arrays | None:
        self._tries += 1
        rows = rows_to_try(self._signature)
        started = time.monotonic()
        try:
            outputs = self._backend.run(make_inputs(self._signature, rows, lengths, values))
        except WorkerDied:  # other inputs would end more processes
            raise
        except PenstockError as error:
            self._failed(lengths, error)
            return None
        self.run_s = time.monotonic() - started
        return outputs

    def _failed(self, lengths: Lengths, error: PenstockError) -> None:
        self._until = min(self._until, time.monotonic() + BUDGET_S)
        self._failure = self._failure or error
        message = str(error)
        if message not in self._messages and self._axes:
            self._messages.add(message)
            self._learn(lengths, dict.fromkeys(numbers_in(error)))

    # Values that say more about the model than the first that work

    def _richer(self, lengths: Lengths, values: Values, outputs: Arrays) -> Values:
        """Values that vary more, or whose outputs are finite, if the model runs with them."""
        if self.run_s > SLOW_S:
            return values
        finite = all_finite(outputs)
        if not finite:
            better = values._replace(floats=positive)
            again = self._run(lengths, better)
            finite = again is not None and all_finite(again)
            values = better if finite else values
        integers = [spec for spec in self._signature.inputs if spec.kind in "iu" and _varies(spec)]
        hints = self._backend.input_hints() if integers else InputHints()
        for spec in integers[:MAX_RANGES]:
            values = self._richest(lengths, values, spec, hints.ids.get(spec.name), finite)
        return values

    def _richest(self, lengths: Lengths, values: Values, spec: TensorSpec, ids: int | None, finite: bool) -> Values:
        for low, high in _ranges(spec, ids, values.low):
            trial = values.with_range(spec.name, low, high)
            outputs = self._run(lengths, trial)
            if outputs is not None and all_finite(outputs) >= finite:
                return trial
        return values


def _varies(spec: TensorSpec) -> bool:
    """False where one value is as good as another, or has a meaning of its own: a mask, a count, a list of axes."""
    return not has_role(spec) and (len(spec.shape) > 1 or spec.shape[:1] == (-1,))


def _ranges(spec: TensorSpec, ids: int | None, works: int) -> Iterator[tuple[int, int]]:
    """Integers to try, the widest first; `works` does. Zero is no harmless divisor, so it is the last."""
    if works > 2:
        yield works, works + 4
        yield works, works + 1
    elif ids is not None:
        yield min(1, ids - 1), ids - 1
    elif spec.numpy.itemsize == 1:
        yield 1, int(np.iinfo(spec.numpy).max)
    yield 1, 2
    yield 0, 1


def _most_elements(spec: TensorSpec) -> int:
    return MAX_IDS if spec.kind in "iu" and spec.numpy.itemsize > 1 else MAX_ROW_ELEMENTS


def _written_sum(axis: Axis, lengths: Lengths) -> int:
    """The length of an axis named as a sum of others, such as `past + new` or `length+1`; 0 for any other name."""
    parts = re.split(r"\s*\+\s*", axis) if isinstance(axis, str) else []
    values = [int(part) if part.isdigit() else lengths.get(part, 0) for part in parts]
    return sum(values) if len(values) > 1 and all(values) else 0


def numbers_in(error: PenstockError) -> list[int]:
    """The lengths that an error may ask for, the likely ones first; where it says multiples, some of them as well."""
    texts = [str(error), *([str(error.__context__)] if error.__context__ is not None else [])]
    found: list[int] = []
    for text in texts:
        plain = _POSITIONS.sub("", text)
        numbers = [int(number) for number in re.findall(r"(?<![\w.-])\d{1,6}(?![\w.]*\w)", plain)]
        expected = [int(number) for number in re.findall(r"[Ee]xpected:? (\d{1,6})", plain)]
        if _MULTIPLES.search(plain):
            numbers += [number * times for number in numbers for times in (4, 16)]
        found += [number for number in (*expected, *numbers) if 0 < number <= MAX_ROW_ELEMENTS]
    return list(dict.fromkeys(found))[:8]


def all_finite(outputs: Arrays) -> bool:
    """True when no float in the outputs is NaN or infinite."""
    return all(bool(np.isfinite(array).all()) for array in outputs.values() if array.dtype.kind in "fc")
