"""What an artifact asks of the server that runs it: how it is batched and padded, and which values are expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

from penstock.errors import InvalidInput
from penstock.tensors import Signature, TensorSpec

Axis = Annotated[StrictInt, Field(ge=1)]
"""An axis past the batch."""


class Entry(BaseModel):
    """A part of a manifest: frozen, and nothing in it that the schema does not know."""

    # NaN must reach json.dumps, which refuses it; by default it would be written as null without a word
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants", protected_namespaces=()
    )


class BatchingPolicy(Entry):
    """How much of this model is run together and may wait; what is None is the server's own setting.

    `timeout_ms` is the longest a request may take, be it more or less than the server's own limit.
    """

    max_batch_rows: int | None = Field(default=None, ge=1, le=65536)
    max_queue_rows: int | None = Field(default=None, ge=1)
    max_queue_bytes: int | None = Field(default=None, ge=1)
    max_wait_ms: float | None = Field(default=None, ge=0, le=60_000)
    timeout_ms: float | None = Field(default=None, gt=0)


class PaddingPolicy(Entry):
    """Inputs that share one free length and are padded to a common one, so that they can share a run.

    `axes` maps an input to its free axis, `values` to what fills it (0). `buckets` are the lengths to pad to,
    ascending. `mask` is an input that the platform makes: 1 where real, 0 where padded. `outputs` maps an output to the
    axis that is cut back to the request's own length.
    """

    axes: dict[str, Axis] = Field(min_length=1)
    buckets: tuple[Annotated[StrictInt, Field(ge=1)], ...] = Field(min_length=1)
    values: dict[str, float] = Field(default_factory=dict)
    mask: str | None = None
    outputs: dict[str, Axis] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sensible(self) -> PaddingPolicy:
        if list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError(f"the buckets {list(self.buckets)} should ascend")
        for name in self.values:
            if name not in self.axes:
                raise ValueError(f"there is a value for {name!r}, but it is not among the padded axes")
        return self


def check_padding(policies: Sequence[PaddingPolicy], signature: Signature) -> None:
    """Whether a model of this signature can be padded so. Raises ValueError naming the tensor that cannot."""
    if policies and not signature.batched:
        raise ValueError("a model with no batch axis runs every request alone and is not padded")
    inputs = {spec.name: spec for spec in signature.inputs}
    outputs = {spec.name: spec for spec in signature.outputs}
    masks = {policy.mask for policy in policies}
    places = [(name, axis) for policy in policies for name, axis in policy.axes.items()]
    for name, axis in places:
        if name in masks:
            raise ValueError(f"{name!r} is a mask, which padding makes, and is not padded itself")
        _check_free(inputs, name, axis, "input")
        if places.count((name, axis)) > 1:
            raise ValueError(f"axis {axis} of {name!r} is padded twice")
    for policy in policies:
        for name, axis in policy.outputs.items():
            _check_free(outputs, name, axis, "output")
        _check_values(policy, inputs)
        if policy.mask is not None:
            _check_mask(inputs, policy.mask, [other.mask for other in policies].count(policy.mask))


def _check_free(specs: Mapping[str, TensorSpec], name: str, axis: int, what: str) -> None:
    if name not in specs:
        raise ValueError(f"the model has no {what} {name!r}; it has {', '.join(specs)}")
    shape = specs[name].shape
    if axis >= len(shape) or shape[axis] >= 0:
        raise ValueError(f"axis {axis} of the {what} {name!r} is not free; its shape is {list(shape)}")


def _check_values(policy: PaddingPolicy, inputs: Mapping[str, TensorSpec]) -> None:
    for name, value in policy.values.items():
        spec = inputs[name]
        if spec.dtype == "BYTES":
            raise ValueError(f"{name!r} holds text, which is padded with empty text and no value")
        if not _holds(spec.numpy, value):
            raise ValueError(f"{name!r} is of type {spec.dtype} and cannot be padded with {value:g}")


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "f":
        return abs(value) <= float(np.finfo(dtype).max)
    least, most = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    return value == int(value) and least <= int(value) <= most


def _check_mask(inputs: Mapping[str, TensorSpec], name: str, uses: int) -> None:
    if name not in inputs:
        raise ValueError(f"the model has no input {name!r} to put a mask in; it has {', '.join(inputs)}")
    if inputs[name].shape != (-1, -1) or inputs[name].dtype == "BYTES":
        raise ValueError(f"the mask {name!r} should be of the shape [-1, -1], batch and length")
    if uses > 1:
        raise ValueError(f"{name!r} is the mask of two policies")


RangePolicy = Literal["off", "count", "warn", "refuse"]
"""What becomes of a request whose values are outside the expected range."""


Limit = float | Annotated[tuple[float, ...], Field(min_length=1)]
"""One number for a whole tensor, or one for each place along its last axis."""


class Range(Entry):
    """The least and the greatest expected value of a tensor; None is no limit."""

    minimum: Limit | None = None
    maximum: Limit | None = None

    @model_validator(mode="after")
    def _ascending(self) -> Range:
        if self.minimum is not None and self.maximum is not None:
            low, high = np.atleast_1d(self.minimum), np.atleast_1d(self.maximum)
            if low.size != high.size and 1 not in (low.size, high.size):
                raise ValueError(f"the minimum has {low.size} numbers, the maximum {high.size}")
            if (low > high).any():
                raise ValueError("a minimum is above its maximum")
        return self

    @property
    def places(self) -> int | None:
        """How many places along the last axis it knows, None where it holds for all."""
        counts = [len(limit) for limit in (self.minimum, self.maximum) if isinstance(limit, tuple)]
        return max(counts, default=None)


class Ranges(Entry):
    """The expected range of inputs and outputs by name; a policy of None is the server's own setting.

    `on_nan` is for outputs that are NaN or infinite, whether they have a range or not.
    """

    inputs: dict[str, Range] = Field(default_factory=dict)
    outputs: dict[str, Range] = Field(default_factory=dict)
    on_input: RangePolicy | None = None
    on_output: RangePolicy | None = None
    on_nan: RangePolicy | None = None


def check_ranges(ranges: Ranges | None, signature: Signature) -> None:
    """Whether these are ranges of this signature's tensors. Raises ValueError naming the one that is not."""
    if ranges is None:
        return
    for side, specs, given in (
        ("input", signature.inputs, ranges.inputs),
        ("output", signature.outputs, ranges.outputs),
    ):
        known = {spec.name: spec for spec in specs}
        for name, expected in given.items():
            if name not in known:
                raise ValueError(f"ranges: the model has no {side} {name!r}; it has {', '.join(known)}")
            _check_range(expected, known[name])


def _check_range(expected: Range, spec: TensorSpec) -> None:
    if spec.numpy.kind not in "fiu":
        raise ValueError(f"ranges: {spec.name!r} holds {spec.dtype}, which has no range")
    last = spec.shape[-1] if len(spec.shape) > 1 else 1
    if expected.places is not None and last >= 0 and expected.places != last:
        raise ValueError(f"ranges: {expected.places} places are given for {spec.name!r}, its last axis has {last}")


def measure_ranges(
    inputs: Mapping[str, ArrayLike],
    outputs: Mapping[str, ArrayLike],
    *,
    margin: float = 0.1,
    per_feature: bool = False,
) -> Ranges:
    """The ranges that samples span, each widened at both ends by `margin` of its width.

    Give golden or, better, calibration data: arrays whose axis 0 is the sample. `per_feature` measures each place along
    the last axis by itself, for columns of different scales. Tensors that are no numbers have no range. Raises
    InvalidInput naming a tensor that is empty or not finite.
    """
    measured = [
        {name: _measure(name, np.asarray(array), margin, per_feature) for name, array in side.items() if _ranged(array)}
        for side in (inputs, outputs)
    ]
    return Ranges(inputs=measured[0], outputs=measured[1])


def _ranged(array: ArrayLike) -> bool:
    return np.asarray(array).dtype.kind in "fiu"


def _measure(name: str, array: NDArray[Any], margin: float, per_feature: bool) -> Range:
    if not array.size or not np.isfinite(array).all():
        raise InvalidInput(f"ranges: the samples of {name!r} are empty or not finite", field=name)
    axes = tuple(range(array.ndim - 1)) if per_feature and array.ndim > 1 else None
    values = array.astype(np.float64)
    low, high = values.min(axis=axes), values.max(axis=axes)
    room = (high - low) * margin
    return Range(minimum=_plain(low - room), maximum=_plain(high + room))


def _plain(limit: Any) -> float | tuple[float, ...]:
    return tuple(limit.tolist()) if getattr(limit, "ndim", 0) else float(limit)
