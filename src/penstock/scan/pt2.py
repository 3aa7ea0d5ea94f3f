"""Scans programs of `torch.export` (`.pt2`) and AOTInductor packages, which are such archives with native code.

PyTorch's loader unpickles objects and sample inputs, evaluates text as Python (guards, expressions on lengths) and
looks operators up by any dotted name below `torch`. Each of these must be harmless before the loader reads the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from penstock.errors import quoted
from penstock.scan.archive import Archive, opened
from penstock.scan.checkpoint import refuse_nested
from penstock.scan.checkpoint import scan as scan_weights
from penstock.scan.findings import Finding, Refused

NATIVE = "data/aotinductor/"
_BINARY = re.compile(
    r".*\.(so|dylib|dll|o|a|cpp|cc|c|h|cu|cuh|ptx|cubin|hsaco|spv|py|pyc|pyd|sh)(\.\d+)*", re.IGNORECASE
)
_OBJECT = re.compile(r"(opaque_obj|custom_obj)_.*")
_TENSOR = re.compile(r"(weight|tensor)_\d+")
_SAMPLES = re.compile(r"data/sample_inputs/[^/]+\.pt")
_GRAPH = re.compile(r"models/[^/]+\.json")
_CONFIG = re.compile(r"data/(weights|constants)/[^/]+_config\.json")
_NAMESPACES = "aten|prim|prims|quantized|quantized_decomposed|_quantized|sparse|mkldnn|onednn|_c10d_functional"
_CONTROL = (
    "cond|while_loop|scan|map_impl|associative_scan|wrap_with_set_grad_enabled|wrap_with_autocast|invoke_subgraph"
)
_TARGET = re.compile(
    rf"torch\.ops\.({_NAMESPACES})(\.\w+)+|torch\.ops\.higher_order\.({_CONTROL})|torch\.(_)?sym_\w+|torch\._check\w*|torch\._C\._set_grad_enabled"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|xor|not_|invert|lshift"
    r"|rshift|getitem|is_|is_not)"
    r"|math\.(ceil|floor|sqrt|trunc|pow|log|log2|exp|fabs|sin|cos|tan|tanh|asin|acos|atan|sinh|cosh)|[a-z]\w*"
)
"""What a node of a graph may call. A word without a dot is a graph or an argument and is not looked up."""
_REACHES_OUT = re.compile(r"\b(from_file|save|load|load_tensor|print|rpc_\w+)\b")
_MADE_SYMBOL = re.compile(r"Symbol\('_?[a-z]{1,4}\d{1,9}'(, (positive|nonnegative|integer|real)=(True|False)){0,4}\)")
_SMALL_POWER = re.compile(r"Pow\(s0, Integer\(\d\)\)")
_WORD = re.compile(r"[A-Za-z_]\w*")
_SYMBOL = re.compile(
    r"_?[suz]\d+|True|False|inf|oo|int_oo|nan|Eq|Ne|Le|Lt|Ge|Gt|And|Or|Not|Min|Max|Abs|Mod|PythonMod|FloorDiv|CleanDiv"
    r"|CeilDiv|ModularIndexing|Where|CeilToInt|FloorToInt|LShift|RShift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv"
    r"|IsNonOverlappingAndDenseIndicator|TruncToFloat|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity|Piecewise"
    r"|Mul|Add|Integer|Rational|Float|BitwiseFn_bitwise_and|BitwiseFn_bitwise_or|floor|ceiling|sqrt|log|exp|e\d*|and|or|not"
)
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),<>=!&|~]|\d\.\d?|\.\d")
_MAX_EXPRESSION = 4000
_GUARD = re.compile(r"L(\['\w+'\]|\[\d+\])+(\.size\(\)\[\d+\]|\.ndim|\.stride\(\)\[\d+\]|\.storage_offset\(\))?")
_LARGE_POWER = re.compile(r"\*\*\s*\(?\s*\d{3,}|\*\*[^*]*\*\*")


def scan(archive: Archive) -> Iterator[Finding]:
    """What a program or package could do."""
    archive.below_root()
    yield Finding("code", "loading a .pt2 program unpickles and evaluates parts of it")
    for name in archive.members:
        yield from _member(archive, name, name.partition("/")[2])
    parts = (n for n in archive.members if not re.search(r"/data/(weights|constants)/|/data/sample_inputs/", n))
    yield from refuse_nested(archive, (name for name in parts if not name.endswith("/")))


def _member(archive: Archive, name: str, inner: str) -> Iterator[Finding]:
    if inner.startswith(NATIVE):
        if _BINARY.fullmatch(inner):
            yield Finding("native", f"it holds native code, {quoted(inner)}")
    elif _BINARY.fullmatch(inner):
        yield Finding(None, f"it holds {quoted(inner)}, which is not part of a program")
    elif _OBJECT.fullmatch(inner.rpartition("/")[2]):
        yield Finding(None, f"it holds the object {quoted(inner)}, which would be unpickled")
    elif _CONFIG.fullmatch(inner):
        yield from _config(inner, _json(archive, name))
    elif _GRAPH.fullmatch(inner):
        yield from _program(inner, _json(archive, name))
    elif _SAMPLES.fullmatch(inner):
        yield from _samples(inner, archive.read(name))
    elif inner.lower().endswith((".pkl", ".pickle", ".pt", ".pth")):
        yield Finding(None, f"it holds the pickle {quoted(inner)}")


def _json(archive: Archive, name: str) -> Any:
    try:
        return json.loads(archive.read(name).decode())
    except (ValueError, RecursionError):
        raise Refused(f"{quoted(name)} is not JSON") from None


def _config(member: str, content: Any) -> Iterator[Finding]:
    """Weights and constants must be tensors as raw bytes."""
    entries = content.get("config") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise Refused(f"{quoted(member)} is not a list of tensors")
    for name, entry in entries.items():
        if entry.get("use_pickle") is not False or not _TENSOR.fullmatch(str(entry.get("path_name"))):
            yield Finding(None, f"{member}: {quoted(name)} is not a plain tensor and would be unpickled")


def _samples(member: str, data: bytes) -> Iterator[Finding]:
    """Sample inputs must hold weights only: the loader retries a refused pickle without protection."""
    if not data:
        return
    with opened(memoryview(data)) as archive:
        for finding in scan_weights(archive):
            yield Finding(None, f"{member}: {finding.what}")


def _program(member: str, content: Any) -> Iterator[Finding]:
    yield from (Finding(None, f"{member}: {complaint}") for complaint in complaints(content))


def complaints(content: Any) -> list[str]:
    """The reasons not to load a program, from its description as JSON."""
    return sorted({complaint for key, text in _texts(content) for complaint in _complaints(key, text)})


def _complaints(key: str, text: str) -> Iterator[str]:
    if key == "target" and (not _TARGET.fullmatch(text) or _REACHES_OUT.search(text)):
        yield f"it calls {quoted(text)}, which is not an operator on tensors"
    if key == "expr_str" and not _only_lengths(text):
        yield f"it would evaluate {quoted(text)}, which is not an expression on lengths"
    if key == "guards_code" and not _only_lengths(_GUARD.sub("s0", text)):
        yield f"it would run {quoted(text)}, which is not a check of lengths"


def _only_lengths(text: str) -> bool:
    """True for numbers, lengths and arithmetic only: no attribute, string or index, and no power that never ends."""
    text = _SMALL_POWER.sub("s0", _MADE_SYMBOL.sub("s0", text))
    return (
        len(text) <= _MAX_EXPRESSION
        and not _EXPRESSION.sub("", text)
        and not _LARGE_POWER.search(text)
        and all(_SYMBOL.fullmatch(word) for word in _WORD.findall(text))
    )


def _texts(content: Any) -> Iterator[tuple[str, str]]:
    """Every string with its key; the keys of ranges are expressions as well."""
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        key, node = waiting.pop()
        if isinstance(node, str):
            yield key, node
        elif isinstance(node, list):
            waiting.extend((key, child) for child in node)
        elif isinstance(node, dict):
            waiting.extend((str(name), child) for name, child in node.items())
            if key == "range_constraints":
                yield from (("expr_str", str(name)) for name in node)
