"""Checks of a request's inputs and outputs: within their expected range, and finite.

The checks are chosen when a model is loaded. A model without any has no Watch, and its requests cost nothing more.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from penstock.artifacts.policies import Range, RangePolicy, Ranges
from penstock.datatypes import BF16
from penstock.errors import OutOfRange
from penstock.tensors import Array, Arrays, Signature, TensorSpec

log = logging.getLogger(__name__)

Side: TypeAlias = Literal["input", "output"]
Kind: TypeAlias = Literal["below", "above", "not_finite"]

WARN_EVERY_S = 60.0
"""At most one warning per tensor in this time."""


class Flag(NamedTuple):
    """A finding in one tensor of a request: `below` or `above` its range, or `not_finite`."""

    side: Side
    tensor: str
    kind: Kind


class RangePolicies(NamedTuple):
    """The policies for inputs and outputs outside their range, and for outputs that are NaN or infinite."""

    on_input: RangePolicy = "count"
    on_output: RangePolicy = "count"
    on_nan: RangePolicy = "count"


class _Bounds:
    """The expected range of one tensor: one number, or one for each index of its last axis."""

    def __init__(self, spec: TensorSpec, side: Side, policy: RangePolicy, expected: Range | None) -> None:
        self.side, self.name = side, spec.name
        self.policy: RangePolicy = policy if expected is not None else "off"
        self.on_nan: RangePolicy = "off"
        largest = float(np.finfo(spec.numpy).max) if spec.numpy.kind == "f" else np.inf
        dtype = spec.numpy if spec.numpy.kind == "f" else np.dtype(np.float64)
        expected = expected if self.policy != "off" and expected is not None else Range()
        # In the tensor's own type: 0.1 as a float32 is more than 0.1.
        low = -largest if expected.minimum is None else expected.minimum
        high = largest if expected.maximum is None else expected.maximum
        self.low = np.clip(np.asarray(low, np.float64), -largest, largest).astype(dtype)
        self.high = np.clip(np.asarray(high, np.float64), -largest, largest).astype(dtype)
        self.inside: Callable[[Array], bool] = self._choose(expected)
        """True if every value is inside; NaN and infinity are not. False may be a false positive."""
        self._warned_at = -WARN_EVERY_S
        self._suppressed = 0

    def _choose(self, expected: Range) -> Callable[[Array], bool]:
        """The cheapest check: every request pays for it."""
        if expected.minimum is None and expected.maximum is None:
            return _finite
        if expected.places is not None:
            return self._inside_each
        low, high = float(self.low), float(self.high)
        return lambda array: _between(array, low, high)

    def _inside_each(self, array: Array) -> bool:
        return bool(((array >= self.low) & (array <= self.high)).all())

    def check(self, array: Array) -> Flag | None:
        """Apply the policy to an array that is not `inside`. Raises OutOfRange if the policy is to refuse."""
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return self._apply(self.on_nan, "not_finite", "holds a value that is not a finite number")
        if self._inside_each(array):
            return None
        beyond = array > self.high
        kind: Kind = "above" if beyond.any() else "below"
        at = tuple(np.argwhere(beyond if kind == "above" else array < self.low)[0])
        bound = np.broadcast_to(self.high if kind == "above" else self.low, array.shape)[at]
        message = (
            f"{array[at]:.6g} is {kind} {bound:.6g}, the {'greatest' if kind == 'above' else 'least'} expected value"
        )
        return self._apply(self.policy, kind, message)

    def _apply(self, policy: RangePolicy, kind: Kind, message: str) -> Flag | None:
        if policy == "off":
            return None
        if policy == "refuse":
            where = self.name if self.side == "input" else f"the model's output {self.name}"
            raise OutOfRange(f"{where}: {message}", side=self.side, tensor=self.name, kind=kind)
        if policy == "warn":
            self._warn(message)
        return Flag(self.side, self.name, kind)

    def _warn(self, message: str) -> None:
        now = time.monotonic()
        if now - self._warned_at < WARN_EVERY_S:
            self._suppressed += 1
            return
        more = f" (and {self._suppressed} similar requests)" if self._suppressed else ""
        log.warning("%s %s: %s%s", self.side, self.name, message, more)
        self._warned_at, self._suppressed = now, 0


class Watch:
    """The checks of every request of one model under one task. Made by `watch_for`."""

    def __init__(self, inputs: Iterable[_Bounds], outputs: Iterable[_Bounds]) -> None:
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)

    def __bool__(self) -> bool:
        return bool(self._inputs or self._outputs)

    def inputs_inside(self, arrays: Arrays) -> bool:
        """True if `inputs` finds nothing, in the rows of several requests as well. False may be a false positive."""
        return _all_inside(self._inputs, arrays)

    def outputs_inside(self, arrays: Arrays) -> bool:
        """True if `outputs` finds nothing, in the rows of several requests as well. False may be a false positive."""
        return _all_inside(self._outputs, arrays)

    def inputs(self, arrays: Arrays) -> tuple[Flag, ...]:
        """Findings in a request's inputs. Raises OutOfRange if the policy is to refuse."""
        return _flags(self._inputs, arrays) if self._inputs else ()

    def outputs(self, arrays: Arrays) -> tuple[Flag, ...]:
        """Findings in the request's own rows of the outputs. Raises OutOfRange if the policy is to refuse."""
        return _flags(self._outputs, arrays) if self._outputs else ()


def _all_inside(all_bounds: Iterable[_Bounds], arrays: Arrays) -> bool:
    return all(bounds.name not in arrays or bounds.inside(arrays[bounds.name]) for bounds in all_bounds)


def _flags(all_bounds: Iterable[_Bounds], arrays: Arrays) -> tuple[Flag, ...]:
    found: tuple[Flag, ...] = ()
    for bounds in all_bounds:
        array = arrays.get(bounds.name)
        if array is None or bounds.inside(array):
            continue
        flag = bounds.check(array)
        if flag is not None:
            found += (flag,)
    return found


_FEW = 64
"""Up to this many values, plain Python is faster than the fixed cost of a numpy call."""


def _finite(array: Array) -> bool:
    if array.size <= _FEW:
        return math.isfinite(sum(array.ravel().tolist()))
    return bool(np.isfinite(array).all())


def _between(array: Array, low: float, high: float) -> bool:
    if array.size <= _FEW:
        numbers = array.ravel().tolist()
        # min() and max() of a list with NaN in it may be anything, its sum is NaN
        return not numbers or (math.isfinite(sum(numbers)) and min(numbers) >= low and max(numbers) <= high)
    return bool(np.minimum.reduce(array, axis=None) >= low and np.maximum.reduce(array, axis=None) <= high)


def watch_for(
    ranges: Ranges | None, signature: Signature, server: RangePolicies, *, finite_by_task: bool = False
) -> Watch | None:
    """The checks of a model's requests, or None. The manifest's policies take precedence over the server's.

    `finite_by_task`: the task itself refuses outputs that are not finite.
    """
    ranges = ranges or Ranges()
    on_input = ranges.on_input or server.on_input
    on_output = ranges.on_output or server.on_output
    on_nan: RangePolicy = "off" if finite_by_task else ranges.on_nan or server.on_nan
    inputs = _bounds(signature.inputs, "input", on_input, ranges.inputs, lambda _: "off")
    outputs = _bounds(signature.outputs, "output", on_output, ranges.outputs, lambda spec: _nan(spec, on_nan))
    return Watch(inputs, outputs) or None


def _nan(spec: TensorSpec, policy: RangePolicy) -> RangePolicy:
    return policy if spec.numpy.kind == "f" else "off"


def _bounds(
    specs: Iterable[TensorSpec],
    side: Side,
    policy: RangePolicy,
    expected: dict[str, Range],
    on_nan: Callable[[TensorSpec], RangePolicy],
) -> list[_Bounds]:
    made: list[_Bounds] = []
    for spec in specs:
        if spec.numpy.kind not in "fiu" or spec.dtype == BF16:  # BF16 arrays hold bits, which have no order
            continue
        bounds = _Bounds(spec, side, policy, expected.get(spec.name))
        # An input with NaN reaches a model only if its task allows it, and is outside any range.
        bounds.on_nan = bounds.policy if side == "input" else on_nan(spec)
        if bounds.policy != "off" or bounds.on_nan != "off":
            made.append(bounds)
    return made
