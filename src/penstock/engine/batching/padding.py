"""Inputs of many lengths in one run: padded to a common length before the run, cut back after it.

Each request is padded to the smallest bucket that holds it, whether it runs alone or with others, so that its outputs
do not depend on the batch. A request longer than the longest bucket runs at its own length, with others of that length.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from penstock.artifacts.golden import Golden
from penstock.artifacts.policies import PaddingPolicy
from penstock.backends.base import Backend, BackendOptions, InputHints, ModelFile
from penstock.backends.row_independence import OTHERS_TOLERANCE, RowProof, largest_change
from penstock.engine.batching.batcher import Batcher
from penstock.engine.batching.collation import ArrayCollator, AxisCollator, Collator, RowCollator, WholeCollator
from penstock.engine.batching.limits import BatchLimits
from penstock.errors import GoldenMismatch, InferenceError, InvalidInput, ModelLoadError, UnsupportedFormat
from penstock.tensors import Array, Arrays, Signature, TensorSpec, cut, measure, split, stack

Lengths = tuple[int, ...]
"""One for each policy."""

ArrayBatcher: TypeAlias = "Batcher[Arrays, Arrays, Arrays]"


class Padding:
    """A collator that pads along the axes that the policies of a manifest name."""

    shared = True
    plain = False
    cut = staticmethod(cut)
    join = staticmethod(stack)

    def __init__(self, policies: Sequence[PaddingPolicy], signature: Signature) -> None:
        """`signature` is that of the model, with the masks that requests do not contain."""
        self._policies = tuple(policies)
        self._model_signature = signature
        self._measures = [next(iter(policy.axes.items())) for policy in policies]
        """Where the length of each policy is read: the first of its axes; the others have the same length."""
        self._specs = signature.inputs
        self._masks = {policy.mask: number for number, policy in enumerate(policies) if policy.mask is not None}
        self._axes = {spec.name: self._axes_of(spec.name) for spec in signature.inputs}
        self._fills = {name: value for policy in policies for name, value in policy.values.items()}
        self._cuts = [(name, axis, n) for n, policy in enumerate(policies) for name, axis in policy.outputs.items()]
        self.signature = self._public(signature)

    def without_buckets(self) -> Padding:
        """The same masks, at the own length of each request."""
        exact = [policy.model_copy(update={"buckets": ()}) for policy in self._policies]
        return Padding(exact, self._model_signature)

    def _axes_of(self, name: str) -> tuple[tuple[int, int], ...]:
        """The padded axes of an input, each with the number of the policy that pads it."""
        if name in self._masks:
            return ((1, self._masks[name]),)
        return tuple((policy.axes[name], number) for number, policy in enumerate(self._policies) if name in policy.axes)

    def _public(self, signature: Signature) -> Signature:
        """The signature of requests: no masks, and one length for the axes of one policy."""
        inputs = tuple(self._tied(spec) for spec in signature.inputs if spec.name not in self._masks)
        return Signature(inputs, signature.outputs)

    def _tied(self, spec: TensorSpec) -> TensorSpec:
        dims = list(spec.dims or (None,) * len(spec.shape))
        for axis, number in self._axes[spec.name]:
            dims[axis] = self._dim(number)
        return replace(spec, dims=tuple(dims))

    def _dim(self, number: int) -> str:
        """A name for the length of a policy: the name of its first axis, or else `length`."""
        name, axis = self._measures[number]
        spec = next(spec for spec in self._specs if spec.name == name)
        own = spec.dims[axis] if spec.dims else None
        return own or (f"length {number + 1}" if number else "length")

    def own_lengths(self, arrays: Arrays) -> Lengths:
        """The request's own lengths. Raises InvalidInput for a length of 0, which leaves nothing to pad."""
        lengths = []
        for name, axis in self._measures:
            shape = arrays[name].shape
            if not shape[axis] and shape[0]:
                raise InvalidInput(f"{name}: axis {axis} has the length 0; give at least 1", field=name)
            lengths.append(shape[axis])
        return tuple(lengths)

    def bucket_of(self, arrays: Arrays) -> Lengths:
        """The lengths that a request is padded to."""
        return self._padded(self.own_lengths(arrays))

    def _padded(self, lengths: Lengths) -> Lengths:
        return tuple([_bucket(policy.buckets, length) for policy, length in zip(self._policies, lengths, strict=True)])

    def _row_shape(self, name: str, array: Array, padded: Lengths) -> tuple[int, ...]:
        shape = list(array.shape)
        for axis, number in self._axes[name]:
            shape[axis] = padded[number]
        return tuple(shape[1:])

    def measure(self, arrays: Arrays) -> tuple[Hashable, int, int]:
        """Key, rows and bytes; requests of one bucket share the key. Raises InvalidInput for a length of 0."""
        _, rows, size = measure(arrays)
        padded = self.bucket_of(arrays)
        shapes = [(name, array.dtype.num, self._row_shape(name, array, padded)) for name, array in arrays.items()]
        return tuple(shapes), rows, size

    def stack(self, items: Sequence[Arrays]) -> Arrays:
        """One batch, padded to the bucket of its requests, with the masks that the model takes."""
        return self.padded_to(self._padded(self.own_lengths(items[0])), items)

    def padded_to(self, padded: Lengths, items: Sequence[Arrays]) -> Arrays:
        """One batch of these lengths; none is shorter than a request's own."""
        return {
            spec.name: (
                self._mask(spec, items, padded) if spec.name in self._masks else self._stacked(spec, items, padded)
            )
            for spec in self._specs
        }

    def _stacked(self, spec: TensorSpec, items: Sequence[Arrays], padded: Lengths) -> Array:
        arrays = [item[spec.name] for item in items]
        row_shape = self._row_shape(spec.name, arrays[0], padded)
        batch = np.full((sum(map(len, arrays)), *row_shape), self._fill(spec), spec.numpy)
        start = 0
        for array in arrays:
            end = start + len(array)
            batch[(slice(start, end), *map(slice, array.shape[1:]))] = array
            start = end
        return batch

    def _fill(self, spec: TensorSpec) -> Any:
        return self._fills.get(spec.name, "" if spec.dtype == "BYTES" else 0)

    def _mask(self, spec: TensorSpec, items: Sequence[Arrays], padded: Lengths) -> Array:
        """1 where a request has data; golden samples contain masks of their own, which are kept."""
        name, axis = self._measures[self._masks[spec.name]]
        shapes = [item[name].shape for item in items]
        lengths = np.repeat([shape[axis] for shape in shapes], [shape[0] for shape in shapes])
        mask = (np.arange(padded[self._masks[spec.name]]) < lengths[:, None]).astype(spec.numpy)
        start = 0
        for item, shape in zip(items, shapes, strict=True):
            if spec.name in item:
                mask[start : start + shape[0], : shape[axis]] = item[spec.name]
            start += shape[0]
        return mask

    def split(self, outputs: Arrays, items: Sequence[Arrays]) -> list[Arrays]:
        """Each request's outputs, cut back to its own lengths. Raises InferenceError."""
        return self.cut_back(self._padded(self.own_lengths(items[0])), outputs, items)

    def cut_back(self, padded: Lengths, outputs: Arrays, items: Sequence[Arrays]) -> list[Arrays]:
        """The inverse of `padded_to`, for outputs."""
        parts = split(outputs, items)
        for part, item in zip(parts, items, strict=True) if self._cuts else ():
            lengths = self.own_lengths(item)
            for name, axis, number in self._cuts:
                part[name] = _cut_back(name, part[name], axis, padded[number], lengths[number])
        return parts

    def shortened(self, samples: Arrays) -> tuple[Arrays, Lengths]:
        """The first half of samples along the padded axes, and longer lengths to pad it to."""
        halves = tuple(
            max(1, min(length, policy.buckets[-1]) // 2)
            for policy, length in zip(self._policies, self.own_lengths(samples), strict=True)
        )
        halved = {
            spec.name: samples[spec.name][self._window(spec.name, samples[spec.name].ndim, halves)]
            for spec in self._specs
            if spec.name in samples
        }
        longer = (_bucket(policy.buckets, half + 1) for policy, half in zip(self._policies, halves, strict=True))
        return halved, tuple(longer)

    def _window(self, name: str, axes: int, lengths: Lengths) -> tuple[slice, ...]:
        """The index that cuts an input to these lengths."""
        window = [slice(None)] * axes
        for axis, number in self._axes[name]:
            window[axis] = slice(lengths[number])
        return tuple(window)

    def buckets(self) -> list[Lengths]:
        """The lengths to warm up with: the shortest bucket of every policy, the next, … up to the longest."""
        most = max(len(policy.buckets) for policy in self._policies)
        return [tuple(p.buckets[min(n, len(p.buckets) - 1)] for p in self._policies) for n in range(most)]

    def example(self, lengths: Lengths, rows: int) -> Arrays:
        """Inputs of these lengths that hold the fill values only; any other free axis has the length 1."""
        inputs: Arrays = {}
        for spec in self.signature.inputs:
            shape = [rows, *(n if n > 0 else 1 for n in spec.shape[1:])]
            for axis, number in self._axes[spec.name]:
                shape[axis] = lengths[number]
            inputs[spec.name] = np.full(shape, self._fill(spec), spec.numpy)
        return inputs


class PaddedBackend(Backend):
    """A backend whose inputs are padded: it takes inputs without masks and of any length."""

    def __init__(self, inner: Backend, padding: Padding) -> None:
        self.inner = inner
        self.padding = padding
        self.format, self.device, self.signature = inner.format, inner.device, padding.signature
        self.num_parameters, self.num_bytes = inner.num_parameters, inner.num_bytes
        self.own_threads, self.warnings, self.lowered_to = inner.own_threads, inner.warnings, inner.lowered_to

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> Backend:  # noqa: ARG003
        """Raises UnsupportedFormat: it wraps a backend that is open already."""
        raise UnsupportedFormat(f"{file.path}: padding is not a format; open the model with the backend of its format")

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs for rows of one length, cut back to it."""
        return self.padding.split(self.inner.run(self.padding.stack([inputs])), [inputs])[0]

    def input_hints(self) -> InputHints:
        """Those of the wrapped backend."""
        return self.inner.input_hints()

    def close(self) -> None:
        """Close the wrapped backend."""
        self.inner.close()


def padded(backend: Backend, policies: Sequence[PaddingPolicy]) -> Backend:
    """The backend, with its inputs padded if there are policies."""
    return PaddedBackend(backend, Padding(policies, backend.signature)) if policies else backend


def public_signature(signature: Signature, policies: Sequence[PaddingPolicy]) -> Signature:
    """The signature of requests to a model of this signature: without the masks that padding makes."""
    return Padding(policies, signature).signature if policies else signature


def collated(
    backend: Backend, *, whole: bool = False
) -> tuple[Callable[[Arrays], Arrays], Collator[Arrays, Arrays, Arrays]]:
    """What runs a batch of several requests, or each request `whole`, and the collator that makes and splits it."""
    if whole:
        return _unpadded(backend), WholeCollator()
    if isinstance(backend, PaddedBackend):
        return backend.inner.run, backend.padding
    signature = backend.signature
    if not signature.batched:
        return backend.run, RowCollator(signature)
    return backend.run, AxisCollator(signature.batch_axes) if signature.batch_axes else ArrayCollator()


def _unpadded(backend: Backend) -> Callable[[Arrays], Arrays]:
    """What runs one request at its own length; the masks of a padding policy are made as before."""
    if not isinstance(backend, PaddedBackend):
        return backend.run
    masks, run = backend.padding.without_buckets(), backend.inner.run
    return lambda inputs: run(masks.stack([inputs]))


def batcher_for(
    backend: Backend,
    limits: BatchLimits,
    *,
    full_batch_s: float,
    steady: bool = False,
    concurrency: int = 1,
    curve: Mapping[int, float] | None = None,
) -> ArrayBatcher:
    """A batcher in front of a backend, with the collator that the model needs."""
    run, collator = collated(backend, whole=limits.whole)
    steady = steady and not limits.whole  # the size of such a run is the client's choice
    return Batcher(
        run, collator, limits, full_batch_s=full_batch_s, steady=steady, concurrency=concurrency, curve=curve
    )


def prove_lengths(backend: Backend, rows: RowProof, inputs: Arrays) -> RowProof:
    """The proof of rows of one length, refuted if rows of another length in their bucket change a row's answer.

    `inputs` are a few rows that the model runs with. Raises the model's InferenceError.
    """
    if not isinstance(backend, PaddedBackend) or not rows.batchable:
        return rows
    padding, run = backend.padding, backend.inner.run
    short, _ = padding.shortened(inputs)
    bucket, count = padding.bucket_of(inputs), len(next(iter(inputs.values())))
    worst = 0.0
    for kept, other in ((inputs, short), (short, inputs)):
        alike, mixed = (run(padding.padded_to(bucket, [kept, beside])) for beside in (kept, other))
        worst = max(worst, largest_change(alike, mixed, count))
    difference = max(worst, rows.difference or 0.0)
    if worst <= OTHERS_TOLERANCE:
        return replace(rows, difference=difference)
    return RowProof(False, difference, rows.noise, "rows of another length in the run change a row's answer")


def verify_padding(backend: Backend, golden: Golden | None, batch_rows: int, what: str) -> None:
    """Run every bucket, and shortened golden samples both unpadded and padded: the outputs must be the same.

    Does nothing for a backend without padding. Raises ModelLoadError, or GoldenMismatch naming the output that changes.
    """
    if not isinstance(backend, PaddedBackend):
        return
    for lengths in backend.padding.buckets():
        try:
            backend.run(backend.padding.example(lengths, batch_rows))
        except InferenceError as error:
            raise ModelLoadError(f"{what}: the model fails at the padded length {lengths}: {error}") from error
    if golden is not None:
        first = {name: array[:batch_rows] for name, array in golden.inputs.items()}
        _compare_padded(backend, first, golden, what)


def _compare_padded(backend: PaddedBackend, samples: Arrays, golden: Golden, what: str) -> None:
    padding = backend.padding
    short, longer = padding.shortened(samples)
    own = padding.own_lengths(short)
    alone = backend.inner.run(padding.padded_to(own, [short]))
    together = padding.cut_back(longer, backend.inner.run(padding.padded_to(longer, [short])), [short])[0]
    for name, expected in alone.items():
        if together[name].shape != expected.shape or not _close(together[name], expected, golden):
            raise GoldenMismatch(
                f"{what}: padding from {own} to {longer} changes the output {name!r}; add a mask to the model, name "
                "the output's axis under `outputs`, or publish it without a padding policy"
            )


def _close(got: Array, expected: Array, golden: Golden) -> bool:
    if expected.dtype.kind not in "fc":
        return np.array_equal(got, expected)
    return np.allclose(got, expected, rtol=golden.rtol, atol=golden.atol)


def _bucket(buckets: Sequence[int], length: int) -> int:
    """The smallest bucket that holds this length; a length beyond the longest bucket itself."""
    index = bisect_left(buckets, length)
    return buckets[index] if index < len(buckets) else length


def _cut_back(name: str, array: Array, axis: int, padded: int, length: int) -> Array:
    if array.ndim <= axis or (len(array) and array.shape[axis] != padded):
        raise InferenceError(
            f"the model's output {name!r} has the shape {list(array.shape)} for inputs padded to {padded}, "
            f"and cannot be cut back along its axis {axis}"
        )
    if length == array.shape[axis]:
        return array
    return np.ascontiguousarray(array[(slice(None),) * axis + (slice(length),)])
