"""Policies of an artifact for the server: batching, padding, and the expected range of values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

from penstock.errors import InvalidInput
from penstock.tensors import Signature, TensorSpec

Axis = Annotated[StrictInt, Field(ge=1)]
"""An axis after the batch axis."""


class Entry(BaseModel):
    """A part of a manifest: frozen, with the fields of the schema and no others."""

    # built when first used: most entries are only parts of others
    # NaN must reach json.dumps, which refuses it; Pydantic's default writes it as null without an error
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
        protected_namespaces=(),
        defer_build=True,
    )


class BatchingPolicy(Entry):
    """Limits of batches and of the queue for this model; None leaves a limit to the server's setting.

    `timeout_ms` limits the time of a request; it may be above or below the server's own limit.
    """

    max_batch_rows: int | None = Field(default=None, ge=1, le=65536)
    max_queue_rows: int | None = Field(default=None, ge=1)
    max_queue_bytes: int | None = Field(default=None, ge=1)
    max_wait_ms: float | None = Field(default=None, ge=0, le=60_000)
    timeout_ms: float | None = Field(default=None, gt=0)


class PaddingPolicy(Entry):
    """Inputs that share one free length and are padded to a common length, so that requests can share a batch.

    `axes` maps an input to its free axis, `values` to its fill value (default 0). `buckets` are the lengths to pad to,
    ascending. `mask` is an input that the server provides: 1 for real values, 0 for padding. `outputs` maps an output
    to the axis that is cut to the length of the request.
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
    """Check the policies against a signature. Raises ValueError naming the tensor that cannot be padded."""
    if policies and not signature.batched:
        raise ValueError("a model without a batch axis runs every request alone and cannot be padded")
    if policies and signature.batch_axes:
        raise ValueError("a model whose batch is not axis 0 of every tensor cannot be padded")
    inputs = {spec.name: spec for spec in signature.inputs}
    outputs = {spec.name: spec for spec in signature.outputs}
    masks = Counter(policy.mask for policy in policies)
    places = Counter((name, axis) for policy in policies for name, axis in policy.axes.items())
    for (name, axis), times in places.items():
        if name in masks:
            raise ValueError(f"{name!r} is a mask, which the server provides; it cannot be padded")
        _check_free(inputs, name, axis, "input")
        if times > 1:
            raise ValueError(f"axis {axis} of {name!r} is padded twice")
    for policy in policies:
        for name, axis in policy.outputs.items():
            _check_free(outputs, name, axis, "output")
        _check_values(policy, inputs)
        if policy.mask is not None:
            _check_mask(inputs, policy.mask, masks[policy.mask])


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
            raise ValueError(f"{name!r} contains text, which is always padded with empty text; leave its value out")
        if not _holds(spec.numpy, value):
            raise ValueError(f"{name!r} is of type {spec.dtype} and cannot be padded with {value:g}")


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "f":
        return abs(value) <= float(np.finfo(dtype).max)
    least, most = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    return value == int(value) and least <= int(value) <= most


def _check_mask(inputs: Mapping[str, TensorSpec], name: str, uses: int) -> None:
    if name not in inputs:
        raise ValueError(f"the model has no input {name!r} for a mask; it has {', '.join(inputs)}")
    if inputs[name].shape != (-1, -1) or inputs[name].dtype == "BYTES":
        raise ValueError(f"the mask {name!r} should be of the shape [-1, -1], batch and length")
    if uses > 1:
        raise ValueError(f"{name!r} is the mask of two policies")


RangePolicy = Literal["off", "count", "warn", "refuse"]
"""How a request with values outside the expected range is handled."""


Limit = float | Annotated[tuple[float, ...], Field(min_length=1)]
"""One number for a whole tensor, or one per index of its last axis."""


class Range(Entry):
    """The smallest and the largest expected value of a tensor; None is no limit."""

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
        """The length of the last axis if there is a limit per index, else None."""
        counts = [len(limit) for limit in (self.minimum, self.maximum) if isinstance(limit, tuple)]
        return max(counts, default=None)


class Ranges(Entry):
    """The expected ranges of inputs and outputs by name; a policy of None leaves it to the server's setting.

    `on_nan` applies to NaN or infinite outputs, with or without a range.
    """

    inputs: dict[str, Range] = Field(default_factory=dict)
    outputs: dict[str, Range] = Field(default_factory=dict)
    on_input: RangePolicy | None = None
    on_output: RangePolicy | None = None
    on_nan: RangePolicy | None = None


def check_ranges(ranges: Ranges | None, signature: Signature) -> None:
    """Check the ranges against a signature. Raises ValueError naming the faulty one."""
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
    """The ranges of samples, each widened at both ends by `margin` times its width.

    The samples are golden samples or, better, calibration data: arrays whose axis 0 is the sample. `per_feature`
    measures each index of the last axis separately, for columns of different scales. Tensors without numbers have no
    range. Raises InvalidInput naming a tensor that is empty or not finite.
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
