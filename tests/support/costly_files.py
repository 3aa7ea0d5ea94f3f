"""Families of files, of any size, that make a careless reader slow or large."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable

import numpy as np
from crafted import packed

File = tuple[str, bytes]
"""A name and the content."""


def field(number: int, content: bytes) -> bytes:
    """A field of protobuf that holds bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def onnx(graph: bytes) -> File:
    return "m.onnx", b"\x08\x09" + field(7, graph)


def nested(depth: int, count: int) -> bytes:
    """Nodes below nodes: each has an attribute with a graph."""
    graph = b"\x0a\0" * count
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return graph


def outside(count: int) -> bytes:
    """Tensors in other files, each with a name of its own."""
    tensor = b"".join(
        field(5, b"\x70\x01" + field(13, field(1, b"location") + field(2, b"w%d" % number))) for number in range(count)
    )
    return tensor


def table(entries: object, size: int = 0) -> File:
    text = entries.encode() if isinstance(entries, str) else json.dumps(entries).encode()
    return "m.safetensors", len(text).to_bytes(8, "little") + text + bytes(size)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def same_long_names(n: int) -> bytes:
    """Names as long as allowed, equal and not the same: each look-up compares them."""
    first = text("a" * 900) + b"q\0" + text("b" * 900) + b"q\x01"
    second = text("a" * 900) + b"q\x02" + text("b" * 900) + b"q\x03"
    return b"\x80\x04(" + first + second + b"h\0h\x01\x93h\x02h\x03\x93" * (n // 12) + b"l."


def arrays(n: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(1, np.uint8))
    return buffer.getvalue() * (n // 129 + 1)


def members(n: int, name: Callable[[int], str], compression: int = zipfile.ZIP_STORED) -> bytes:
    return packed({name(number): b"" for number in range(n)}, compression)


def extra_fields(n: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(n // 2000 + 1):
            info = zipfile.ZipInfo(f"m/{number}")
            info.extra = struct.pack("<2H", 0xCAFE, 0) * 450
            archive.writestr(info, b"")
    return buffer.getvalue()


def archives(n: int) -> bytes:
    inner = packed({"MAR-INF/MANIFEST.json": b"{}"})
    for _ in range(n // 300):
        inner = packed({"MAR-INF/MANIFEST.json": b"{}", "i.mar": inner})
    return inner


def xml(body: str) -> File:
    return "m.xml", f"<net>{body}</net>".encode()


CONFIG = "m/data/weights/model_weights_config.json"


def config(entries: object) -> File:
    return "m.pt2", packed({"m/archive_format": b"pt2", CONFIG: json.dumps({"config": entries}).encode()})


U8 = {"dtype": "U8", "data_offsets": [0, 0], "shape": [0]}

FAMILIES: dict[str, Callable[[int], File]] = {
    "pickle: tuples above a tall stack": lambda n: ("m.pkl", b"N" * (n // 2) + b"(t" * (n // 4) + b"."),
    "pickle: marks": lambda n: ("m.pkl", b"(" * n),
    "pickle: tuples in tuples": lambda n: ("m.pkl", b"N" + b"\x85" * n + b"."),
    "pickle: lists in lists": lambda n: ("m.pkl", b"]" * (n // 2) + b"a" * (n // 2 - 1) + b"."),
    "pickle: one list": lambda n: ("m.pkl", b"(" + b"K\0" * (n // 2) + b"l."),
    "pickle: notes": lambda n: ("m.pkl", b"N" + b"\x94" * n + b"."),
    "pickle: a note far away": lambda n: ("m.pkl", b"N" + b"r\xff\xff\xff\xff" * (n // 5) + b"."),
    "pickle: copies": lambda n: ("m.pkl", b"(" + b"N" + b"2" * n + b"l."),
    "pickle: names": lambda n: ("m.pkl", b"(" + b"".join(b"ca\nb%d\n" % i for i in range(n // 8)) + b"l."),
    "pickle: long names": lambda n: ("m.pkl", same_long_names(n)),
    "pickle: a name too long": lambda n: ("m.pkl", b"c" + b"a" * n + b"\nb\n."),
    "pickle: many": lambda n: ("m.pkl", b"N." * (n // 2)),
    "pickle: a number of many digits": lambda n: ("m.pkl", b"L" + b"9" * n + b"L\n."),
    "pickle: no end of a line": lambda n: ("m.pkl", b"I1\n0" * (n // 8) + b"I" + b"1" * (n // 2)),
    "pickle: allocations": lambda n: ("m.pkl", (b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R0") * (n // 33)),
    "text: as pickles": lambda n: ("m.txt", b"I1\n0" * (n // 4)),
    "text: brackets": lambda n: ("m.txt", b"(" * n),
    "text: lines": lambda n: ("m.txt", b"a line\n" * (n // 7)),
    "array: dimensions": lambda n: ("m.npy", npy("'<f4'", "(" + "1," * (n // 2) + ")")),
    "array: fields": lambda n: ("m.npy", npy(repr([(f"f{i}", "<f4") for i in range(n // 14)]), "(1,)")),
    "array: brackets": lambda n: ("m.npy", npy("(" * n, "()")),
    "arrays: one after another": lambda n: ("m.npy", arrays(n)),
    "arrays: members": lambda n: ("m.npz", packed({f"{i}.npy": arrays(1) for i in range(n // 250)})),
    "archive: members": lambda n: ("m.pt", members(n // 100, lambda i: f"m/{i}")),
    "archive: long names": lambda n: ("m.pt", members(n // 2000 + 1, lambda i: f"{i:05}/" + "a/" * 490)),
    "archive: names too long": lambda n: (
        "m.pt",
        members(max(1, n // 120_000), lambda _: "a/" * (min(n, 60_000) // 2)),
    ),
    "archive: extra fields": lambda n: ("m.pt", extra_fields(n)),
    "archive: in archives": lambda n: ("m.mar", archives(n)),
    "archive: storages": lambda n: (
        "m.pt",
        packed({"m/data.pkl": b"\x80\x02N.", **{f"m/data/{i}": b"" for i in range(n // 110)}}),
    ),
    "safetensors: dimensions": lambda n: table({"w": {**U8, "shape": [255] * (n // 5)}}),
    "safetensors: tensors": lambda n: table({f"t{i}": U8 for i in range(n // 60)}),
    "safetensors: long names": lambda n: table({f"{'n' * 900}{i}": U8 for i in range(n // 960)}),
    "safetensors: brackets": lambda n: table('{"w":' + "[" * n),
    "safetensors: metadata": lambda n: table({"__metadata__": {str(i): "(lp0" for i in range(n // 14)}}),
    "safetensors: a number of many digits": lambda n: table('{"w":{"dtype":"U8","shape":[' + "9" * n + "]}}"),
    "ONNX: nodes": lambda n: onnx(b"\x0a\0" * (n // 2)),
    "ONNX: nodes in nodes": lambda n: onnx(nested(32, n // 2)),
    "ONNX: too many graphs": lambda n: onnx(nested(n // 12, 1)),
    "ONNX: tensors in other files": lambda n: onnx(outside(n // 24)),
    "ONNX: operators": lambda n: onnx(b"".join(field(1, field(4, b"op%d" % i)) for i in range(n // 9))),
    "ONNX: unknown fields": lambda n: ("m.onnx", b"\x08\x09" + b"\x48\0" * (n // 2) + field(7, b"\x0a\0")),
    "ONNX: fields of other numbers": lambda n: (
        "m.onnx",
        b"\x08\x09" + b"".join(varint(i << 3) + b"\0" for i in range(100, 100 + n // 4)) + field(7, b"\x0a\0"),
    ),
    "ONNX: a long location": lambda n: onnx(
        field(5, b"\x70\x01" + field(13, field(1, b"location") + field(2, b"a/" * (n // 2))))
    ),
    "OpenVINO: layers": lambda n: xml("<layer/>" * (n // 8)),
    "OpenVINO: depth": lambda n: xml("<a>" * (n // 7) + "</a>" * (n // 7)),
    "OpenVINO: constants": lambda n: xml('<data offset="0"/>' * (n // 18)),
    "OpenVINO: one long attribute": lambda n: xml(f'<layer type="{"a" * n}"/>'),
    ".pt2: constants": lambda n: config({f"w{i}": {"use_pickle": True} for i in range(n // 30)}),
    ".pt2: brackets": lambda n: ("m.pt2", packed({"m/archive_format": b"pt2", CONFIG: b"[" * n})),
    "TorchScript: a program": lambda n: (
        "m.ts",
        packed({"m/constants.pkl": b"\x80\x02).", "m/code/a.py": b"a.b.c\n" * (n // 6)}),
    ),
}
"""By what is in them; each makes a file of about n bytes."""


def npy(descr: str, shape: str) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x02\0" + struct.pack("<I", len(text)) + text + bytes(4)


# Manifests


def manifest(**changes: object) -> bytes:
    document = {
        "schema_version": "1.9",
        "name": "m",
        "version": "v1",
        "task": {"kind": "tensor"},
        "signature": {"inputs": tensors(1), "outputs": tensors(1)},
        "variants": [variant(())],
    }
    return json.dumps(document | changes).encode()


def tensors(count: int, **more: object) -> list[dict[str, object]]:
    return [{"name": f"x{i}", "dtype": "FP32", "shape": [-1, -1], **more} for i in range(count)]


def variant(paths: tuple[str, ...], **more: object) -> dict[str, object]:
    files = [{"path": path, "sha256": "0" * 64, "size": 1} for path in ("variants/v/m.onnx", *paths)]
    return {
        "name": "v",
        "format": "onnx",
        "precision": "fp32",
        "file": "variants/v/m.onnx",
        "files": files,
        **more,
    }


def signed(count: int, **more: object) -> dict[str, object]:
    return {"inputs": tensors(count, **more), "outputs": tensors(1)}


MANIFESTS: dict[str, Callable[[int], bytes]] = {
    "files": lambda n: manifest(variants=[variant(tuple(f"variants/v/{i}" for i in range(n // 120)))]),
    "a deep path": lambda n: manifest(variants=[variant(("variants/v/" + "a/" * (n // 2) + "b",))]),
    "deep paths": lambda n: manifest(
        variants=[variant(tuple(f"variants/v/{i}/" + "a/" * 450 + "b" for i in range(n // 1000)))]
    ),
    "inputs": lambda n: manifest(signature=signed(n // 60)),
    "named axes": lambda n: manifest(signature=signed(n // 80, dims=["batch", "length"])),
    "axes": lambda n: manifest(signature=signed(1, shape=[2] * (n // 3))),
    "batch axes": lambda n: manifest(signature=signed(n // 80), batch_axes={f"x{i}": 1 for i in range(n // 80)}),
    "unknown fields": lambda n: manifest(**{f"u{i}": 1 for i in range(n // 8)}),
    "unknown fields below": lambda n: manifest(variants=[variant((), **{f"u{i}": 1 for i in range(n // 8)})]),
    "padded axes": lambda n: manifest(
        signature=signed(n // 120), padding=[{"axes": {f"x{i}": 1 for i in range(n // 120)}, "buckets": [1]}]
    ),
    "paddings": lambda n: manifest(
        signature=signed(n // 150), padding=[{"axes": {f"x{i}": 1}, "buckets": [1]} for i in range(n // 150)]
    ),
    "ranges": lambda n: manifest(ranges={"inputs": {f"x{i}": {"minimum": 1} for i in range(n // 24)}}),
    "tasks": lambda n: manifest(more_tasks=[{"kind": f"t{i}"} for i in range(n // 30)]),
    "faults": lambda n: manifest(variants=[{"a": 1}] * (n // 9)),
    "brackets": lambda n: b'{"name":' + b"[" * n,
    "a number of many digits": lambda n: b'{"name":' + b"9" * n + b"}",
}
"""As above."""


# YAML

YAML: dict[str, Callable[[int], str]] = {
    "aliases": lambda n: multiplied(n, "[{}]"),
    "merges": lambda n: multiplied(n, "{{<<: [{}]}}"),
    "a value in itself": lambda n: "a: &a [*a, *a]\n" * (n // 14),
    "a number to base 60": lambda n: "a: 1" + ":1" * (n // 2),
    "values": lambda n: "a: [" + "1," * (n // 2) + "]",
    "keys": lambda n: "".join(f"k{i}: v\n" for i in range(n // 10)),
    "a text": lambda n: "a: |\n" + "  x\n" * (n // 4),
}
"""As above."""


def multiplied(n: int, form: str) -> str:
    """Each line holds the one before ten times."""
    lines = [f"a{i}: &a{i} {form.format(','.join([f'*a{i - 1}'] * 10))}\n" for i in range(1, n // 70)]
    return "a0: &a0 {x: y}\n" + "".join(lines)


# ONNX, as the backends read it before a load

GRAPHS: dict[str, Callable[[int], bytes]] = {
    "dimensions of a constant": lambda n: field(
        5, field(1, b"\xff" * (n // 2) + b"\x01") + b"\x10\x01" + field(8, b"w")
    )
    + field(1, field(1, b"x") + field(1, b"w") + field(2, b"y") + field(4, b"Add")) * (n // 40),
    "axes of an input": lambda n: field(11, field(1, b"x") + field(2, field(1, field(2, b"\x0a\0" * (n // 4)))))
    + b"".join(field(1, field(1, b"x") + field(2, b"%d" % i) + field(4, b"Relu")) for i in range(n // 40)),
    "permutations": lambda n: field(11, field(1, b"x") + field(2, field(1, field(2, b"\x0a\0" * 4))))
    + b"".join(
        field(
            1,
            field(1, b"x")
            + field(2, b"x")
            + field(4, b"Transpose")
            + field(5, field(1, b"perm") + field(8, b"\0" * 64)),
        )
        for _ in range(n // 100)
    ),
    "nodes from the last to the first": lambda n: field(11, field(1, b"0"))
    + b"".join(
        field(1, field(1, b"%d" % i) + field(2, b"%d" % (i + 1)) + field(4, b"Add"))
        for i in reversed(range(min(n // 20, 400)))
    )
    + field(1, b"".join(field(1, b"a") for _ in range(n // 6)) + field(4, b"Add")),
    "inputs and outputs of a node": lambda n: b"".join(field(11, field(1, b"%d" % i)) for i in range(n // 20))
    + field(1, b"".join(field(1, b"%d" % i) + field(2, b"o%d" % i) for i in range(n // 20)) + field(4, b"Add")),
}
"""As above; the content of a graph."""
