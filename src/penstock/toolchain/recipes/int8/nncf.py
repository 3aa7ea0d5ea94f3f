"""Static quantization for OpenVINO with NNCF. Needs `penstock[nncf]`.

NNCF is imported when it is used only, and what its import changes in the process is undone: it would set the class of
all loggers, write to standard output, and report its use to its vendor.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from penstock.backends.openvino import no_telemetry, runtime
from penstock.errors import InvalidInput, UnsupportedFormat, first_line
from penstock.libraries import quietly
from penstock.tensors import Arrays
from penstock.toolchain.export.exported import ExportFailed
from penstock.toolchain.recipes.forms import directory, need_onnx
from penstock.toolchain.recipes.int8.calibration import FEWEST_ROWS, checked_rows, feeds, picked
from penstock.toolchain.recipes.int8.dynamic import Bits
from penstock.toolchain.recipes.int8.share import Share
from penstock.toolchain.recipes.openvino_form import read_openvino, require_openvino, save_openvino, version
from penstock.toolchain.recipes.recipe import Technique
from penstock.toolchain.recipes.subject import Materials, Subject

if TYPE_CHECKING:
    import openvino

_RECURRENT = ("LSTMSequence", "GRUSequence", "RNNSequence", "LSTMCell", "GRUCell", "TensorIterator")
_QUANTIZABLE = ("Convolution", "FullyConnected", "MatMul", "Deconvolution", "RNNSeq", "RNNCell")
"""Operators of OpenVINO's CPU plugin that have int8 kernels."""


@dataclass(frozen=True)
class QuantizeNncf(Technique):
    """Weights and activations in int8 for OpenVINO; the recipe's format is openvino.

    At most `rows` of the calibration data are used, evenly spaced. `bits`: 7 for weights that saturate on no CPU, 8 for
    those with VNNI. `transformer`: with NNCF's settings for attention. `exclude` names operators of the ONNX file that
    stay in fp32.
    """

    kind: ClassVar[str] = "quantize-nncf"
    rows: Annotated[int, Field(ge=FEWEST_ROWS)] = 300
    bits: Bits = 7
    transformer: bool = False
    exclude: tuple[str, ...] = ()

    def apply(self, subject: Subject, materials: Materials) -> Subject:
        """The subject as OpenVINO IR in int8, and no other form."""
        rows = picked(checked_rows(materials.data, subject.signature, needed_by=self.kind), self.rows)
        require_openvino(self.kind)
        if importlib.util.find_spec("nncf") is None:
            raise UnsupportedFormat(f"{self.kind} needs nncf; pip install 'penstock[nncf]'")
        subject, source = need_onnx(subject, self.kind, materials)
        model = read_openvino(subject.name, source)
        self._check(subject.name, model)
        batches = list(feeds(rows, subject.signature))
        quantized, writer = self._quantized(subject.name, model, batches)
        path = directory(materials, self.kind) / "model.xml"
        save_openvino(quantized, path)
        changed = subject.changed(f"{writer}; openvino {version()}", openvino=path, precision="int8")
        return noted_precision(changed)

    def _check(self, name: str, model: openvino.Model) -> None:
        """Raise InvalidInput for a model without layers to quantize, and for an excluded operator that it lacks."""
        operators = {one.get_friendly_name(): one.get_type_name() for one in model.get_ops()}
        if not set(operators.values()) & {"Convolution", "GroupConvolution", "MatMul", *_RECURRENT}:
            raise InvalidInput(f"recipe: {self.kind}: {name} has no layers to quantize", field="recipe")
        for one in self.exclude:
            if one not in operators:
                kinds = ("Convolution", "GroupConvolution", "MatMul")
                known = ", ".join(other for other, kind in operators.items() if kind in kinds)
                raise InvalidInput(
                    f"recipe: {self.kind}: exclude: the graph has no operator {one!r}; it has {known}", field="recipe"
                )

    def _quantized(self, name: str, model: openvino.Model, batches: Sequence[Arrays]) -> tuple[openvino.Model, str]:
        with _nncf() as nncf:
            fix = nncf.quantization.advanced_parameters.OverflowFix
            try:
                quantized = nncf.quantize(
                    model,
                    nncf.Dataset(batches),
                    subset_size=len(batches),
                    model_type=nncf.ModelType.TRANSFORMER if self.transformer else None,
                    ignored_scope=nncf.IgnoredScope(names=list(self.exclude)),
                    advanced_parameters=nncf.AdvancedQuantizationParameters(
                        overflow_fix=fix.ENABLE if self.bits == 7 else fix.DISABLE
                    ),
                )
            except Exception as error:  # NNCF raises errors of many kinds
                raise ExportFailed(f"{name}: NNCF cannot quantize it: {first_line(error)}") from None
            return quantized, f"nncf {nncf.__version__}"


@contextmanager
def _nncf() -> Iterator[Any]:
    """NNCF, without telemetry, logs, progress bars, and without what its import changes for other loggers."""
    logger_class = logging.getLoggerClass()
    try:
        with quietly(logger="nncf"), contextlib.redirect_stdout(io.StringIO()):
            with no_telemetry():
                import nncf
            for handler in list(logging.getLogger("nncf").handlers):  # it writes to standard output
                logging.getLogger("nncf").removeHandler(handler)
            logging.getLogger("nncf").setLevel(logging.CRITICAL)
            yield nncf
    finally:
        logging.setLoggerClass(logger_class)


def noted_precision(subject: Subject) -> Subject:
    """The subject with the share of the operators that OpenVINO runs in int8, as compiled for this CPU."""
    assert subject.openvino is not None
    compiled = runtime().compile_model(str(subject.openvino), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = Counter(
        (_text(info["layerType"]), _text(info["runtimePrecision"]) in ("i8", "u8"))
        for info in (one.get_rt_info() for one in compiled.get_runtime_model().get_ops())
    )
    fast = sum(count for (kind, is_int8), count in kinds.items() if is_int8 and kind in _QUANTIZABLE)
    left = {kind: count for (kind, is_int8), count in kinds.items() if not is_int8 and kind in _QUANTIZABLE}
    share = Share(fast, fast + sum(left.values()), left)
    return subject.noted(share.sentence, int8_operators=share.int8, quantizable_operators=share.quantizable)


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)
