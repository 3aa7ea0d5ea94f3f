"""Dynamic quantization: weights of int8, ranges of activations measured in each run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from penstock.toolchain.recipes.forms import directory, read_onnx, write_onnx
from penstock.toolchain.recipes.int8.compacting import compact
from penstock.toolchain.recipes.int8.onnx_files import check_names, prepared, quantizer, quantizing
from penstock.toolchain.recipes.int8.share import noted_share
from penstock.toolchain.recipes.int8.stored import store_int8
from penstock.toolchain.recipes.recipe import Technique
from penstock.toolchain.recipes.subject import Materials, Subject

Bits = Literal[7, 8]
"""Of weights. A CPU without VNNI adds two products of 8 bits in 16 bits, which may overflow and then saturates."""

_OPERATORS = ("MatMul", "Gemm", "LSTM")
_STORED = ("GRU", "RNN")
"""ONNX Runtime has no int8 kernel for them."""


@dataclass(frozen=True)
class QuantizeDynamic(Technique):
    """Linear layers and LSTMs in int8, with the range of their inputs measured in each run; needs no data.

    The range is that of the whole batch, so that rows depend on each other. GRUs have no int8 kernel in ONNX Runtime:
    their weights are stored as int8 and computed in fp32. Convolutions become slower and are left out unless
    `convolutions`. `bits`: 7 for weights that saturate on no CPU, 8 for those with VNNI. `exclude` names operators that
    stay in fp32.
    """

    kind: ClassVar[str] = "quantize-dynamic"
    bits: Bits = 7
    per_channel: bool = True
    convolutions: bool = False
    exclude: tuple[str, ...] = ()

    def apply(self, subject: Subject, materials: Materials) -> Subject:
        """The subject with a quantized ONNX file and no other form."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        writer = quantizer()
        operators = (*_OPERATORS, "Conv") if self.convolutions else _OPERATORS
        model = prepared(subject, self.kind, materials, (*operators, *_STORED))
        check_names(model, self.exclude, (*operators, *_STORED), self.kind)
        path = directory(materials, self.kind) / "model.onnx"
        with quantizing(subject.name, path):
            stored = store_int8(model, _STORED, self.exclude)
            quantize_dynamic(
                model,
                path,
                op_types_to_quantize=list(operators),
                per_channel=self.per_channel,
                reduce_range=self.bits == 7,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(self.exclude),
            )
        write_onnx(compact(read_onnx(path)), path)
        changed = subject.changed(writer, onnx=path, precision="int8")
        if stored:
            changed = changed.noted(
                f"ONNX Runtime has no int8 kernel for {' and '.join(_STORED)}: the weights of {', '.join(stored)} are "
                "stored as int8 and computed in fp32"
            )
        return noted_share(changed)
