"""What ONNX Runtime's quantizers get and give: graphs prepared for them, their names checked, their output silenced."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.backends.catalog import runnable
from penstock.errors import InvalidInput, UnsupportedFormat, first_line
from penstock.formats import FORMATS
from penstock.libraries import quietly
from penstock.toolchain.export.exported import ExportFailed
from penstock.toolchain.recipes.forms import directory, need_onnx, read_onnx
from penstock.toolchain.recipes.graph import optimized
from penstock.toolchain.recipes.subject import Materials, Subject

if TYPE_CHECKING:
    import onnx

_MOST_NAMES = 10


def quantizer() -> str:
    """The name and version for `Subject.writers`. Raises UnsupportedFormat where ONNX Runtime is not installed."""
    if not runnable("onnx"):
        raise UnsupportedFormat(f"quantization needs onnxruntime; {FORMATS['onnx'].runtime.remedy}")
    return f"onnxruntime.quantization {version('onnxruntime')}"


def prepared(subject: Subject, kind: str, materials: Materials, operators: Iterable[str]) -> onnx.ModelProto:
    """The subject's graph with constants folded and norms merged, every operator named, and no recorded shapes.

    Shapes that an exporter recorded contradict those that the quantizer infers. Raises InvalidInput when the model has
    none of the `operators` with constant weights.
    """
    subject, source = need_onnx(subject, kind, materials)
    model = read_onnx(optimized(source, directory(materials, kind) / "prepared.onnx", "basic"))
    del model.graph.value_info[:]
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    if not weighted(model, operators):
        kinds = ", ".join(sorted({node.op_type for node in model.graph.node}))
        raise InvalidInput(
            f"recipe: {kind}: {subject.name} has no operator to quantize ({', '.join(operators)} with constant "
            f"weights); its operators are {kinds}",
            field="recipe",
        )
    return model


def weighted(model: onnx.ModelProto, operators: Iterable[str]) -> list[str]:
    """The names of the operators of these kinds whose weights are constants, in the order of the graph."""
    kinds = set(operators)
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node.name for node in model.graph.node if node.op_type in kinds and constants & set(node.input[1:])]


def check_names(model: onnx.ModelProto, names: Iterable[str], operators: Iterable[str], kind: str) -> None:
    """Raise InvalidInput for an excluded operator that the graph does not have, with those that it has."""
    known = {node.name for node in model.graph.node}
    for name in names:
        if name not in known:
            have = weighted(model, operators)
            more = f" and {len(have) - _MOST_NAMES} more" if len(have) > _MOST_NAMES else ""
            raise InvalidInput(
                f"recipe: {kind}: exclude: the graph has no operator {name!r}; those that are quantized are "
                f"{', '.join(have[:_MOST_NAMES])}{more}",
                field="recipe",
            )


@contextmanager
def quantizing(name: str, path: Path) -> Iterator[None]:
    """Silence the quantizer, which prints and logs to the root logger, and turn what it raises into ExportFailed."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    module = logging.getLogger("onnxruntime.quantization")
    module_level = module.level
    module.setLevel(logging.ERROR)
    root.addFilter(_drop_quantizer)
    try:
        with quietly(), contextlib.redirect_stdout(io.StringIO()):
            yield
    except (InvalidInput, ExportFailed):
        raise
    except Exception as error:  # the quantizer raises what it meets
        raise ExportFailed(
            f"{name}: ONNX Runtime cannot quantize {path.name}: {type(error).__name__}: {first_line(error)}"
        ) from None
    finally:
        root.removeFilter(_drop_quantizer)
        module.setLevel(module_level)
        root.setLevel(level)
        for handler in [one for one in root.handlers if one not in handlers]:  # added by imports and `logging.warning`
            root.removeHandler(handler)


def _drop_quantizer(record: logging.LogRecord) -> bool:
    """False for records of the quantizer: advice for authors of scripts."""
    return "quantization" not in record.pathname
