from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from penstock.backends.onnx.weights import Weights, weigh

SHAPES = st.lists(st.lists(st.integers(0, 7), max_size=4), max_size=5)


def count_parameters(path: Path) -> int | None:
    weights = weigh(path)
    return None if weights is None else weights.parameters


def graph(*initializers: TensorProto) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    nodes = [helper.make_node("Relu", ["x"], ["y"], name=f"node {i}") for i in range(3)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [x], initializer=list(initializers)))


def weights(shapes: Sequence[Sequence[int]]) -> list[TensorProto]:
    return [numpy_helper.from_array(np.ones(shape, np.float32), f"w{i}") for i, shape in enumerate(shapes)]


@settings(max_examples=40, deadline=None)
@given(shapes=SHAPES)
def test_the_numbers_of_all_initializers_are_counted(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "counted.onnx"
    onnx.save(graph(*weights(shapes)), path)
    assert count_parameters(path) == sum(math.prod(shape) for shape in shapes)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint8", "int32"])
def test_every_type_that_can_be_trained_or_quantized_counts(tmp_path: Path, dtype: str) -> None:
    onnx.save(graph(numpy_helper.from_array(np.ones((3, 5), dtype), "w")), tmp_path / "m.onnx")
    assert count_parameters(tmp_path / "m.onnx") == 15


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_shapes_indices_and_masks_do_not_count(tmp_path: Path, dtype: str) -> None:
    onnx.save(graph(numpy_helper.from_array(np.ones(4, dtype), "shape"), *weights([[2, 2]])), tmp_path / "m.onnx")
    assert count_parameters(tmp_path / "m.onnx") == 4


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint8", "int32", "int64", "bool", "int16"])
def test_the_bytes_of_all_constants_are_counted(tmp_path: Path, dtype: str) -> None:
    array = np.ones((3, 5), dtype)
    onnx.save(graph(numpy_helper.from_array(array, "w"), *weights([[2, 2]])), tmp_path / "m.onnx")
    weighed = weigh(tmp_path / "m.onnx")
    assert weighed is not None
    assert weighed.bytes == array.nbytes + 16


@pytest.mark.parametrize(
    ("kind", "size"), [(TensorProto.INT4, 4), (TensorProto.BFLOAT16, 16), (TensorProto.FLOAT8E4M3FN, 8)]
)
def test_types_that_numpy_lacks_are_counted_too(tmp_path: Path, kind: int, size: int) -> None:
    tensor = TensorProto(name="w", data_type=kind, dims=[8, 2], raw_data=bytes(16 * size // 8))
    onnx.save(graph(tensor), tmp_path / "m.onnx")
    assert weigh(tmp_path / "m.onnx") == Weights(16, 16 * size // 8)


def test_values_written_as_fields_instead_of_bytes_count_the_same(tmp_path: Path) -> None:
    onnx.save(graph(helper.make_tensor("w", TensorProto.FLOAT, [2, 3], [0.5] * 6)), tmp_path / "m.onnx")
    assert count_parameters(tmp_path / "m.onnx") == 6


def test_packed_dimensions_are_read_as_well(tmp_path: Path) -> None:
    tensor = b"\x0a\x02\x03\x05" + b"\x10\x01"  # dims packed: [3, 5]; data_type FLOAT
    body = b"\x2a" + bytes([len(tensor)]) + tensor
    (tmp_path / "m.onnx").write_bytes(b"\x3a" + bytes([len(body)]) + body)
    assert count_parameters(tmp_path / "m.onnx") == 15


def test_weights_in_external_data_count_without_their_file(tmp_path: Path) -> None:
    onnx.save(
        graph(*weights([[8, 8]])), tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    (tmp_path / "w").unlink()
    assert count_parameters(tmp_path / "m.onnx") == 64


def varint(value: int) -> bytes:
    head = bytes([value & 0x7F | (0x80 if value > 0x7F else 0)])
    return head + varint(value >> 7) if value > 0x7F else head


def test_a_gibibyte_of_weights_is_skipped_and_not_read(tmp_path: Path) -> None:
    size = 1 << 30
    tensor = b"\x08" + varint(size // 4) + b"\x10\x01" + b"\x4a" + varint(size)
    initializer = b"\x2a" + varint(len(tensor) + size) + tensor
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.write(b"\x3a" + varint(len(initializer) + size) + initializer)
        file.truncate(file.tell() + size)  # a hole: no disk is used
    start = time.perf_counter()
    assert count_parameters(path) == size // 4
    assert time.perf_counter() - start < 0.2


def test_a_graph_of_many_nodes_is_walked_quickly(tmp_path: Path) -> None:
    model = graph(*weights([[4, 4]] * 2000))
    onnx.save(model, tmp_path / "m.onnx")
    start = time.perf_counter()
    assert count_parameters(tmp_path / "m.onnx") == 32000
    assert time.perf_counter() - start < 2


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 0.999))
def test_a_file_that_ends_inside_its_graph_has_no_count(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    whole = graph(*weights([[3, 4], [5]])).SerializeToString()
    end_of_graph = whole.rindex(b"batch") + len(b"batch")
    path = tmp_path_factory.getbasetemp() / "cut.onnx"
    path.write_bytes(whole[: int(end_of_graph * cut)])
    assert count_parameters(path) is None


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200))
def test_bytes_of_any_kind_give_a_number_or_nothing(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.onnx"
    for candidate in (content, b"\x3a" + varint(len(content)) + content):
        path.write_bytes(candidate)
        count = count_parameters(path)
        assert count is None or count >= 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x3a\x05\x2a",  # ends early
        b"\x3a\x02\x2a\x05",  # an initializer longer than its graph
        b"\xff" * 20,  # a number without an end
        b"\x3b\x00",  # a group, which ONNX never has
        b"\x3a\x0e\x2a\x0c\x08" + b"\xff" * 9 + b"\x01\x01",  # a length of -1
    ],
)
def test_bytes_that_are_not_protobuf_have_no_count(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert count_parameters(tmp_path / "m.onnx") is None


def test_a_missing_file_has_no_count(tmp_path: Path) -> None:
    assert count_parameters(tmp_path / "absent.onnx") is None
