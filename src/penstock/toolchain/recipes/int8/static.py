"""Static quantization: weights and activations of int8, with ranges from calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from penstock.errors import InvalidInput
from penstock.tensors import Arrays
from penstock.toolchain.recipes.forms import directory, need_module, read_onnx, write_onnx
from penstock.toolchain.recipes.int8.calibration import FEWEST_ROWS, checked_rows, feeds, picked
from penstock.toolchain.recipes.int8.compacting import compact
from penstock.toolchain.recipes.int8.dynamic import Bits
from penstock.toolchain.recipes.int8.onnx_files import check_names, prepared, quantizer, quantizing, weighted
from penstock.toolchain.recipes.int8.pt2e import pt2e_file
from penstock.toolchain.recipes.int8.share import noted_share
from penstock.toolchain.recipes.recipe import Technique
from penstock.toolchain.recipes.subject import Materials, Subject

if TYPE_CHECKING:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

QUANTIZABLE = ("Conv", "MatMul", "Gemm")
"""What has int8 kernels in ONNX Runtime and weights."""
_CONVOLUTIONAL = (
    *QUANTIZABLE,
    *("Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul", "Pad"),
    *("Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)
"""In a convolutional network also what lies between, so that values stay in int8 from one convolution to the next."""

Observer = Literal["minmax", "entropy", "percentile"]


@dataclass(frozen=True)
class QuantizeStatic(Technique):
    """Weights and activations in int8 (QDQ, unsigned activations, signed weights), with ranges from calibration data.

    `observer` finds the range of an activation: all values (minmax), the range that loses least information (entropy),
    or the part of the values up to `percentile`. At most `rows` of the data are used, evenly spaced. `bits`: 7 for
    weights that saturate on no CPU, 8 for those with VNNI. `products`: also those of two activations,
    as in attention, which lose more. `exclude` names operators that stay in fp32. `engine`: ONNX Runtime quantizes the
    ONNX file; pt2e (torchao) the PyTorch module, by the histogram of each activation.
    """

    kind: ClassVar[str] = "quantize-static"
    observer: Observer = "minmax"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    rows: Annotated[int, Field(ge=FEWEST_ROWS)] = 512
    bits: Bits = 7
    per_channel: bool = True
    products: bool = False
    exclude: tuple[str, ...] = ()
    engine: Literal["onnxruntime", "pt2e"] = "onnxruntime"

    def apply(self, subject: Subject, materials: Materials) -> Subject:
        """The subject with a quantized ONNX file and no other form."""
        rows = picked(checked_rows(materials.data, subject.signature, needed_by=self.kind), self.rows)
        if self.engine == "pt2e":
            return self._pt2e(subject, materials, rows)
        writer = quantizer()
        path = Quantization(self, subject, materials, rows).write(exclude=self.exclude)
        return noted_share(subject.changed(writer, onnx=path, precision="int8"))

    def _pt2e(self, subject: Subject, materials: Materials, rows: Arrays) -> Subject:
        _require_defaults(self)
        source = need_module(subject, f'{self.kind} with engine = "pt2e"')
        batches = list(feeds(rows, subject.signature))
        path, writer = pt2e_file(source, batches, materials, kind=self.kind, reduce_range=self.bits == 7)
        return noted_share(subject.changed(writer, onnx=path, precision="int8"))


def _require_defaults(technique: QuantizeStatic) -> None:
    """Raise InvalidInput for a setting that pt2e does not have."""
    for setting in ("observer", "per_channel", "products", "exclude"):
        if getattr(technique, setting) != getattr(QuantizeStatic, setting):
            raise InvalidInput(
                f'recipe: {technique.kind}: {setting}: engine = "pt2e" does not have this setting; leave it out',
                field="recipe",
            )


class Quantization:
    """One model with its measured ranges; every `write` quantizes other operators with the same ranges."""

    def __init__(self, technique: QuantizeStatic, subject: Subject, materials: Materials, rows: Arrays) -> None:
        self.model = prepared(subject, technique.kind, materials, QUANTIZABLE)
        self._technique, self._materials, self._name = technique, materials, subject.name
        check_names(self.model, technique.exclude, QUANTIZABLE, technique.kind)
        self._directory = directory(materials, technique.kind)
        self._left = [] if technique.products else _products(self.model)
        self.source = write_onnx(self.model, self._directory / "prepared.onnx")
        self._ranges = self._directory / "ranges.json"
        with quantizing(subject.name, self.source):
            self._calibrate(list(feeds(rows, subject.signature)))

    def write(self, *, exclude: Sequence[str] = (), only: Sequence[str] = ()) -> Path:
        """A file in which the operators of these names stay in fp32, or all but `only`."""
        from onnxruntime.quantization import QuantFormat, quantize_static

        path = directory(self._materials, self._technique.kind) / "model.onnx"
        with quantizing(self._name, self.source):
            quantize_static(
                self.source,
                path,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(self._operators),
                nodes_to_exclude=[*exclude, *self._left],
                nodes_to_quantize=list(only),
                calibration_cache_path=self._ranges,
                **self._settings,
            )
        write_onnx(compact(read_onnx(path)), path)
        return path

    @property
    def _operators(self) -> Sequence[str]:
        has_convolution = any(node.op_type == "Conv" for node in self.model.graph.node)
        return _CONVOLUTIONAL if has_convolution else QUANTIZABLE

    @property
    def _settings(self) -> dict[str, Any]:
        from onnxruntime.quantization import CalibrationMethod, QuantType

        methods = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
        return {
            "activation_type": QuantType.QUInt8,  # with signed activations ONNX Runtime merges fewer operators
            "weight_type": QuantType.QInt8,
            "per_channel": self._technique.per_channel,
            "reduce_range": self._technique.bits == 7,
            "calibrate_method": CalibrationMethod[methods[self._technique.observer]],
        }

    def _calibrate(self, batches: Sequence[Arrays]) -> None:
        """Measure the ranges batch by batch: a histogram holds every activation of what it gets at once."""
        from onnxruntime.quantization import create_calibrator
        from onnxruntime.quantization.calibrate import save_tensors_data

        calibrator = create_calibrator(
            self.source,
            list(self._operators),
            augmented_model_path=str(self._directory / "observed.onnx"),
            calibrate_method=self._settings["calibrate_method"],
            extra_options=(
                {"percentile": self._technique.percentile} if self._technique.observer == "percentile" else {}
            ),
        )
        for number, batch in enumerate(batches):
            calibrator.collect_data(_reader([batch]))
            self._materials.progress(self._technique.kind, (number + 1) / (len(batches) + 1))
        save_tensors_data(calibrator.compute_data(), self._ranges)


def _products(model: onnx.ModelProto) -> list[str]:
    """The products of two activations."""
    weights = set(weighted(model, QUANTIZABLE))
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and node.name not in weights]


def _reader(batches: Sequence[Arrays]) -> CalibrationDataReader:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
        def __init__(self) -> None:
            self._left: Iterator[Arrays] = iter(batches)

        def get_next(self) -> Arrays | None:
            return next(self._left, None)

    return Reader()
