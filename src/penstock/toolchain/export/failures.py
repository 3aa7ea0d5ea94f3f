"""Why a model cannot be exported, as one sentence: the operation, its module and line, and what to do."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.errors import shortened, type_and_message
from penstock.toolchain.export.exported import ExportFailed

if TYPE_CHECKING:
    import torch

SCRIPT = "torchscript-script"
REWRITE = f"write it with torch.cond or torch.while_loop, or export {SCRIPT}, which keeps it"
_DECIDES, _LEAVES = "it decides by the values of a tensor", "it leaves PyTorch for numpy"
_OWN = str(Path(__file__).parents[2])
_FILE_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


class Where(NamedTuple):
    """A line of the user's code: the qualified name of its module in the model, file, line, and text."""

    module: str
    kind: str
    file: str
    line: int

    @property
    def code(self) -> str:
        """The text of the line."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        part = f"in {self.module} ({self.kind}), " if self.module else f"in {self.kind}, " if self.kind else ""
        code = f": `{shortened(self.code, 80)}`" if self.code else ""
        return f"{part}{Path(self.file).name} line {self.line}{code}"


class _Kind(NamedTuple):
    """A kind of failure: how its text reads, what it means, and what to do. `{0}` is the first group of the pattern."""

    pattern: re.Pattern[str]
    what: str
    remedy: str


def _kind(pattern: str, what: str, remedy: str) -> _Kind:
    return _Kind(re.compile(pattern, re.DOTALL), what, remedy)


_TRANSLATE = "give the ONNX function of this operator, translations={{torch.ops.….default: function}}"
_KINDS = (
    _kind(
        r"quantized::|quantized\.|PackedParams",
        "it is quantized by PyTorch's eager mode, whose operators only PyTorch runs",
        "export the model as it was before, and quantize what was exported",
    ),
    _kind(
        r"You marked L\['(?P<input>\w+)'\]\.size\(\)\[(?P<axis>\d+)\] as dynamic but your code specialized it to be a "
        r"constant \((?P<length>\d+)\)",
        "axis {axis} of {input} is frozen to the length {length} by the model's code",
        "take the length from the input's shape, or leave that axis out of dynamic",
    ),
    _kind(
        r"Constraints violated \((?P<names>[^)]*)\).*?\n\s*- (?P<detail>[^\n]+)",
        "the lengths of free axes are not independent: {detail}",
        "leave such an axis out of dynamic, or free only lengths that the model takes",
    ),
    _kind(
        r"(no fake impl registered|register_fake|fake tensor propagation|without a fake|no meta kernel).*?"
        r"|(?:operator|op) (?P<op>[\w:.]+) .*(?:fake|meta)",
        "an operator does not say which shapes it returns",
        "register that with torch.library.register_fake",
    ),
    _kind(
        r"No ONNX function found for <OpOverload\(op='(?P<op>[\w.:]+)'",
        "there is no ONNX function for the operator {op}",
        _TRANSLATE,
    ),
    _kind(
        r"Exporting the operator '(?P<op>[\w:]+)' to ONNX",
        "there is no ONNX operator for {op}",
        "choose a later opset, or replace the operator",
    ),
    _kind(
        r"data-dependent|Could not (guard|extract specialized)|symbolically trace|SymBool|u\d+|vmap.*\.item\(\)",
        f"{_DECIDES}, which a graph of operators cannot",
        REWRITE,
    ),
    _kind(
        r"\bnumpy\(\)|numpy",
        f"{_LEAVES}, which no graph records",
        "compute with operations of torch",
    ),
)
_TORCHSCRIPT = (
    _KINDS[0],
    _kind(
        r"dynamo-optimized|higher_order|HigherOrderOperator|torch\._higher_order_ops|torch/_higher_order_ops",
        "TorchScript has no torch.cond, torch.while_loop and the like",
        "export onnx or pt2, which keep them",
    ),
    _kind(
        r"(?P<what>[^\n]*\S)",
        "TorchScript cannot hold it: {what}",
        "simplify that code, or export onnx or pt2",
    ),
)


def explained(error: BaseException, source: Any, exporter: str, nodes: Iterable[Any] = ()) -> ExportFailed:
    """The failure of an exporter as one sentence; `source` is the ModuleSource.

    `nodes` are those of the captured graph, in which a node that the error names is looked up.
    """
    errors = list(_chain(error))
    text = "\n".join(str(one) for one in errors)
    where = _of_node(text, nodes) or _first(_of_traceback(one, source.module) for one in reversed(errors))
    where = where or _of_text(text)
    kind, match = _matching(text, exporter)
    at = f" ({where})" if where is not None else ""
    if kind is None or match is None:
        return ExportFailed(
            f"{exporter} cannot export the model{at}: {_root(errors)}; change that code or leave it out"
        )
    found = {name: shortened((value or "").strip(" .:"), 200) for name, value in match.groupdict().items()}
    remedy = kind.remedy.replace("{{", "{").replace("}}", "}")
    return ExportFailed(f"{exporter} cannot export the model{at}: {kind.what.format(**found)}; {remedy}")


def _matching(text: str, exporter: str) -> tuple[_Kind | None, re.Match[str] | None]:
    for kind in _TORCHSCRIPT if exporter.startswith("torch.jit") else _KINDS:
        match = kind.pattern.search(text)
        if match is not None:
            return kind, match
    return None, None


def is_decision(error: BaseException) -> bool:
    """True when the model could not be captured because values decide what it does, or code that is not PyTorch's.

    The exporters that trace would keep what these did on the example.
    """
    return isinstance(error, ExportFailed) and any(one in str(error) for one in (_DECIDES, _LEAVES))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _root(errors: list[BaseException]) -> str:
    """The message of the first cause, without advice for developers of PyTorch."""
    root = errors[-1]
    lines = [line.strip() for line in str(root).splitlines()]
    text = next((line for line in lines if line and not _FILE_LINE.match(line) and set(line) - {"~", "-", "^"}), "")
    return shortened(f"{type(root).__name__}: {text.rstrip(':.')}" if text else type_and_message(root), 240)


def _first(found: Iterable[Where | None]) -> Where | None:
    return next((one for one in found if one is not None), None)


def _of_traceback(error: BaseException, module: torch.nn.Module) -> Where | None:
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    return where_of(frames, module)


def where_of(frames: Iterable[tuple[FrameType, int]], module: torch.nn.Module) -> Where | None:
    """The innermost line of the user's code among frames, which are ordered from the outermost."""
    found = None
    names = {id(part): name for name, part in module.named_modules()}
    for frame, line in frames:
        if is_user_code(frame.f_code.co_filename):
            owner = frame.f_locals.get("self")
            name, kind = names.get(id(owner), ""), type(owner).__name__ if id(owner) in names else ""
            found = Where(name, kind, frame.f_code.co_filename, line)
    return found


def caller(module: torch.nn.Module, frame: FrameType | None) -> Where | None:
    """The line of the user's code that is running in `frame` or above."""
    frames: list[tuple[FrameType, int]] = []
    while frame is not None:
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    inner = [one for one in frames if is_user_code(one[0].f_code.co_filename) and _is_of(one[0], module)]
    return where_of(reversed(inner), module)


def _is_of(frame: FrameType, module: torch.nn.Module) -> bool:
    """True for a frame that runs inside the model's forward."""
    above: FrameType | None = frame
    parts = {id(part) for part in module.modules()}
    while above is not None:
        if id(above.f_locals.get("self")) in parts:
            return True
        above = above.f_back
    return False


def _of_node(text: str, nodes: Iterable[Any]) -> Where | None:
    """The line behind a node that a message of the ONNX exporter names."""
    named = re.search(r"translating node %?(\w+)", text)
    node = next((one for one in nodes if named and one.name == named[1]), None)
    if node is None:
        return None
    places = [one for one in _FILE_LINE.finditer(str(node.meta.get("stack_trace"))) if is_user_code(one["file"])]
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    module, kind = stack[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    if not places:
        return None
    return Where(module, kind.rpartition(".")[2], places[-1]["file"], int(places[-1]["line"]))


def _of_text(text: str) -> Where | None:
    """The last line of the user's code that a message names, as those of TorchScript do."""
    places = [one for one in _FILE_LINE.finditer(text) if is_user_code(one["file"])]
    if not places:
        return None
    first = places[0]
    return Where("", "", first["file"], int(first["line"]) + _pointed(text[first.end() :]))


def _pointed(text: str) -> int:
    """How many lines below the first line of a quoted function the mark of TorchScript is."""
    lines = text.split("\n")[1:]
    marked = next((number for number, line in enumerate(lines) if "<--- HERE" in line), None)
    return 0 if marked is None else max(marked - 1, 0)


@cache
def is_user_code(file: str) -> bool:
    """True for a file that is neither of Python, nor of PyTorch, nor of Penstock's own exporters."""
    if file.startswith(("<", _OWN)):
        return False
    libraries = ("torch", "numpy", "onnxscript", "onnx", "functorch", "onnx_ir")
    standard = sysconfig.get_paths()["stdlib"]
    return not (
        any(f"/site-packages/{name}/" in file for name in libraries)
        or (file.startswith(standard) and "site-packages" not in file)
    )
