"""Scans TorchScript archives: the source of the program, in Python syntax, and the pickles that hold its attributes.

The program is parsed and never compiled. Even trusted code may not use files, other processes, or operators and classes
other than PyTorch's own arithmetic.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator

from penstock.errors import quoted
from penstock.libraries import quietly
from penstock.scan import pickles
from penstock.scan.archive import Archive
from penstock.scan.checkpoint import refuse_nested
from penstock.scan.findings import Finding, Refused

PARSE_ATTEMPTS = 10

_MAX_SOURCE_BYTES = 64 * 2**20
_NAMESPACES = frozenset(
    ["aten", "prim", "prims", "quantized", "_quantized", "sparse", "quantization", "mkldnn_prepacked", "mkldnn"]
)
_REACHES_OUT = frozenset(
    [
        "from_file",
        "save",
        "load",
        "load_tensor",
        "rpc_sync",
        "rpc_async",
        "rpc_remote",
        "import_",
        "open",
        "exec",
        "eval",
        "compile",
        "system",
        "popen",
        "__import__",
        "__builtins__",
        "__globals__",
        "__class__",
        "__subclasses__",
        "__code__",
        "__reduce__",
        "__dict__",
        "__mro__",
    ]
)
"""Names that read, write, run or send; TorchScript resolves an operator as an attribute of any object."""
_CALLS = re.compile(r"\b(from_file|save|load_tensor|rpc_sync|rpc_async|rpc_remote)\s*\(")
_ODD_SPACE = re.compile(r"[\r\f\v\0\x1c-\x1f\x85\u2028\u2029]")
_ROOTS = frozenset({"torch", "ops"})
_CLASSES = "__torch__.torch.classes."
_OWN_CLASSES = f"{_CLASSES}quantized."
_ATTRIBUTES = re.compile(r"torch\.jit\._pickle\.\w+|__torch__(\.\w+)*")
_DATA = re.compile(r"data/\d+|constants/\d+|traced_inputs/\d+")


def scan(archive: Archive) -> Iterator[Finding]:
    """What a TorchScript program could do."""
    archive.below_root()
    yield Finding("code", "TorchScript is a program, which runs with the model")
    for name in archive.members:
        if name.lower().endswith("pkl"):
            yield from _pickle(name, archive.read(name))
        elif name.lower().endswith(".py"):
            yield from _source(name, archive.read(name, _MAX_SOURCE_BYTES))
    extra = (n for n in archive.members if not _DATA.fullmatch(n.partition("/")[2]) and not n.endswith("/"))
    yield from refuse_nested(archive, extra)


def _pickle(member: str, data: bytes) -> Iterator[Finding]:
    for name in sorted(pickles.names_of(data)):
        full = str(name)
        if full in pickles.WEIGHTS:
            continue
        if full.startswith(_CLASSES) and not full.startswith(_OWN_CLASSES):
            yield Finding(None, f"{member}: it needs the class {quoted(full)}, which needs a custom class library")
        elif not _ATTRIBUTES.fullmatch(full):
            yield Finding(None, f"{member}: its pickle looks up {quoted(full)}, which is not part of TorchScript")


def _source(member: str, data: bytes) -> Iterator[Finding]:
    try:
        text = data.decode()
        with quietly():  # about its escapes and comparisons
            tree = _parsed(text)
        complaints = sorted({*_complaints(tree), *_text_complaints(text)})
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Refused(f"{member}: its program cannot be read") from None
    yield from (Finding(None, f"{member}: {complaint}") for complaint in complaints)


def _parsed(text: str) -> ast.Module:
    """The program. Python 3.11 and 3.12 count the depth for all threads together (CPython issue 106905), and fail when
    another thread parses at the same time: then once more.
    """
    for _ in range(PARSE_ATTEMPTS):
        with contextlib.suppress(SystemError):
            return ast.parse(text)
    return ast.parse(text)


def _text_complaints(text: str) -> Iterator[str]:
    """What PyTorch's parser could read in the text and Python's parser does not, should the two differ."""
    if _ODD_SPACE.search(text):
        yield "its program has characters that end a line for some parsers only"
    for call in _CALLS.finditer(text):
        yield f"it uses {quoted(call[1])}, which reaches outside the model"


def _complaints(tree: ast.Module) -> Iterator[str]:
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield from _attribute(node, whole=id(node) not in inner)
        elif isinstance(node, ast.Name) and id(node) not in inner:
            yield from _name(node.id)
        elif isinstance(node, ast.Call):
            yield from _call(node)
        elif isinstance(node, ast.Import | ast.ImportFrom | ast.Global | ast.Nonlocal):
            yield "it imports a module"


def _attribute(node: ast.Attribute, *, whole: bool) -> Iterator[str]:
    if node.attr in _REACHES_OUT:
        yield f"it uses {quoted(node.attr)}, which reaches outside the model"
    if not whole:
        return
    chain = _chain(node)
    if chain[0] == "ops" and (len(chain) < 3 or chain[1] not in _NAMESPACES):
        yield f"it calls {quoted('.'.join(chain))}, which is not a PyTorch operator"
    full = ".".join(chain) + "."
    if full.startswith((_CLASSES, "torch.classes.")) and not full.startswith(_OWN_CLASSES):
        yield f"it needs the class {quoted(full[:-1])}, which needs a custom class library"


def _name(name: str) -> Iterator[str]:
    """A name on its own, not the root of a dotted one: it could be assigned to another name."""
    if name in _ROOTS:
        yield f"it hides its calls behind another name of {name!r}"
    if name in _REACHES_OUT:
        yield f"it uses {quoted(name)}, which reaches outside the model"


def _call(node: ast.Call) -> Iterator[str]:
    """`getattr` resolves an operator from a string."""
    if not (isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "setattr")):
        return
    name = node.args[1] if len(node.args) > 1 else None
    if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
        yield "it looks up an attribute whose name is computed at run time"
    elif name.value in _REACHES_OUT:
        yield f"it uses {quoted(name.value)}, which reaches outside the model"


def _chain(node: ast.expr) -> list[str]:
    """`a.b.c` as its parts; a leading call or index counts as an empty part."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "")
    return parts[::-1]
