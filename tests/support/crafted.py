"""Malicious model files, each with a harmless counterpart. Their payloads only create a marker."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MARKER = "marker"


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch '{self._marker}'",)


def evil_pickle(marker: Path) -> bytes:
    return pickle.dumps({"weight": Payload(marker)}, protocol=2)


def members(data: bytes) -> dict[str, bytes]:
    """The members of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(content: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def changed(data: bytes, **changes: bytes | None) -> bytes:
    """An archive with members replaced or added, below its only directory (`__` stands for `/`, `_dot_` for `.`)."""
    content = members(data)
    root = next(iter(content)).partition("/")[0]
    for key, value in changes.items():
        name = f"{root}/{key.replace('__', '/').replace('_dot_', '.')}"
        if value is None:
            del content[name]
        else:
            content[name] = value
    return packed(content)


def with_member(data: bytes, name: str, value: bytes) -> bytes:
    """An archive with one more member below its only directory, or with another content of one."""
    content = members(data)
    root = next(iter(content)).partition("/")[0]
    return packed({**content, f"{root}/{name}": value})


# ONNX


def model(
    nodes: list[onnx.NodeProto] | None = None,
    tensors: list[onnx.TensorProto] | None = None,
    **fields: Any,
) -> onnx.ModelProto:
    """y = x @ w, or the given `nodes` and `tensors`."""
    graph = helper.make_graph(
        nodes or [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        tensors if tensors is not None else [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **fields)


def outside(location: str, offset: int | str = 0, length: int | str = 64) -> onnx.TensorProto:
    """A 4 × 4 tensor whose numbers are in another file."""
    tensor = onnx.TensorProto(name="w", dims=[4, 4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def numbers() -> bytes:
    """The content that `outside` refers to."""
    return np.eye(4, dtype=np.float32).tobytes()
