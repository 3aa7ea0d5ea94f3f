"""Golden samples: real inputs with the reference outputs, as safetensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.errors import InvalidInput
from penstock.tensors import Arrays, Signature

_INPUT = "input/"
_OUTPUT = "output/"


@dataclass(frozen=True)
class Golden:
    """Real inputs with the reference outputs, axis 0 the sample, and how far an answer may be from them.

    An answer agrees where `|answer - output| <= atol + rtol * |output|`.
    """

    inputs: Arrays
    outputs: Arrays
    atol: float = 1e-4
    rtol: float = 1e-3

    @property
    def rows(self) -> int:
        """How many samples there are."""
        return len(next(iter(self.inputs.values())))

    def checked(self, signature: Signature) -> Golden:
        """The same samples in the signature's order and datatypes; raises InvalidInput naming what does not fit."""
        inputs = _checked(self.inputs, signature)
        outputs = _checked(self.outputs, Signature(signature.outputs, ()))
        golden = Golden(inputs, outputs, self.atol, self.rtol)
        if golden.rows == 0:
            raise InvalidInput("the golden samples have no rows", field="golden")
        for name, output in outputs.items():
            if len(output) != golden.rows:
                raise InvalidInput(
                    f"golden output {name!r} has {len(output)} rows for {golden.rows} inputs", field="golden"
                )
        return golden

    def to_bytes(self) -> bytes:
        """As `golden.safetensors` holds it: tensors named `input/<name>` and `output/<name>`."""
        from safetensors.numpy import save

        tensors = {_INPUT + name: array for name, array in self.inputs.items()}
        tensors |= {_OUTPUT + name: array for name, array in self.outputs.items()}
        return save(tensors)

    @classmethod
    def from_bytes(cls, data: bytes, atol: float, rtol: float) -> Golden:
        """The inverse of `to_bytes`; raises InvalidInput when `data` holds anything else."""
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
            raise InvalidInput(f"golden tensor {name!r} holds text, which golden samples cannot", field="golden")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidInput(f"golden tensor {name!r} holds NaN or infinity", field="golden")
    return checked
