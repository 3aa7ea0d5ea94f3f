"""Golden samples: real inputs with the reference outputs, as safetensors. `backends.verification` compares at load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from penstock.errors import InvalidInput
from penstock.tensors import Arrays, Signature

_INPUT = "input/"
_OUTPUT = "output/"


@dataclass(frozen=True)
class Golden:
    """Real inputs with the reference outputs, axis 0 the sample, and the tolerance of a comparison.

    For a model some tensor of which has no batch axis they are `whole`: one request, in the shapes of the model's file.
    `axes` are the batch axes that are not axis 0.
    An answer agrees if `|answer - output| <= atol + rtol * |output|`. The reference is the unoptimized model, in fp32,
    so an artifact of int8 variants only needs no fp32 variant but a tolerance that fits int8.
    """

    inputs: Arrays
    outputs: Arrays
    atol: float = 1e-4
    rtol: float = 1e-3
    whole: bool = False
    axes: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The number of samples; for those of a whole model that of one request, 1."""
        name, first = next(iter(self.inputs.items()))
        return 1 if self.whole else first.shape[self.axes.get(name) or 0]

    def first(self, rows: int) -> Golden:
        """The first samples only, at most so many; those of a whole model are one request and stay as they are."""
        if self.whole or self.rows <= rows:
            return self
        return replace(self, inputs=self._taken(self.inputs, rows), outputs=self._taken(self.outputs, rows))

    def _taken(self, arrays: Arrays, rows: int) -> Arrays:
        axes = {name: self.axes.get(name, 0) for name in arrays}
        return {
            name: array if (axis := axes[name]) is None else array[(slice(None),) * axis + (slice(0, rows),)]
            for name, array in arrays.items()
        }

    def checked(self, signature: Signature) -> Golden:
        """The same samples in the signature's order and datatypes; raises InvalidInput naming the faulty tensor."""
        whole = signature.whole
        inputs = _checked(self.inputs, signature)
        axes = {spec.name: None if whole else signature.batch_axes.get(spec.name, 0) for spec in signature.outputs}
        outputs = _checked(self.outputs, Signature(signature.outputs, (), batch_axes=axes))
        golden = Golden(inputs, outputs, self.atol, self.rtol, whole, signature.batch_axes)
        if not whole:
            golden._check_rows()
        return golden

    def _check_rows(self) -> None:
        if self.rows == 0:
            raise InvalidInput("the golden samples have no rows", field="golden")
        for name, output in self.outputs.items():
            rows = output.shape[self.axes.get(name) or 0]
            if rows != self.rows:
                raise InvalidInput(f"golden output {name!r} has {rows} rows for {self.rows} inputs", field="golden")

    def to_bytes(self) -> bytes:
        """The content of `golden.safetensors`: tensors named `input/<name>` and `output/<name>`."""
        from safetensors.numpy import save

        tensors = {_INPUT + name: array for name, array in self.inputs.items()}
        tensors |= {_OUTPUT + name: array for name, array in self.outputs.items()}
        return save(tensors)

    @classmethod
    def from_bytes(cls, data: bytes, atol: float, rtol: float) -> Golden:
        """The inverse of `to_bytes`; raises InvalidInput for any other data."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(data)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"it is not a safetensors file: {error}", field="golden") from None
        golden = cls(_below(_INPUT, tensors), _below(_OUTPUT, tensors), atol, rtol)
        if len(golden.inputs) + len(golden.outputs) != len(tensors):
            raise InvalidInput(f"its tensors are not all named {_INPUT}… or {_OUTPUT}…", field="golden")
        return golden


def _below(prefix: str, tensors: Arrays) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def _checked(arrays: Arrays, signature: Signature) -> Arrays:
    checked, _ = signature.validate(arrays)
    for name, array in checked.items():
        if array.dtype.kind == "O":
            raise InvalidInput(
                f"golden tensor {name!r} contains text, which golden samples do not support", field="golden"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidInput(f"golden tensor {name!r} contains NaN or infinity", field="golden")
    return checked
