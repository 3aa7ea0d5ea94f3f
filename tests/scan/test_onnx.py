"""References and operators of ONNX files: allowed and refused ones."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from crafted import model, numbers, outside
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from penstock.scan.findings import Report
from penstock.scan.scanner import scan_bytes, scan_file


def scanned(tmp_path: Path, proto: onnx.ModelProto) -> Report:
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return scan_file(path, "onnx")


def test_a_plain_model_is_data(tmp_path: Path) -> None:
    report = scanned(tmp_path, model())
    assert (report.kind, report.tier, report.findings) == ("onnx", "data", ())


def test_external_data_next_to_the_model_is_data(tmp_path: Path) -> None:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    for name in ("m.data", "sub/m.data", "./m.data"):
        (tmp_path / "model" / name).write_bytes(numbers())
        assert scanned(tmp_path, model(tensors=[outside(name)])).findings == ()


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("../outside", "not a relative path inside"),
        ("/etc/hostname", "not a relative path inside"),
        ("sub/../../outside", "not a relative path inside"),
        ("..\\outside", "not a relative path inside"),
        ("C:m.data", "not a relative path inside"),
        ("", "not a relative path inside"),
        ("m.data\0x", "not a relative path inside"),
        ("*/_ORT_MEM_ADDR_/*", "an address in memory"),
        ("missing.data", "is missing"),
        ("sub", "not a regular file"),
        ("link.data", "symbolic link"),
        ("linked/m.data", "symbolic link"),
        ("hard.data", "a hard link"),
    ],
)
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str, says: str) -> None:
    secret = tmp_path / "outside"
    secret.write_bytes(numbers())
    directory = tmp_path / "model"
    (directory / "sub").mkdir(parents=True)
    (directory / "sub" / "m.data").write_bytes(numbers())
    (directory / "m.data").write_bytes(numbers())
    (directory / "link.data").symlink_to(secret)
    (directory / "linked").symlink_to(directory / "sub", target_is_directory=True)
    os.link(secret, directory / "hard.data")
    report = scanned(tmp_path, model(tensors=[outside(location)]))
    assert report.refused
    assert says in report.findings[0].what


@pytest.mark.parametrize(
    ("offset", "length", "says"),
    [
        (1, 64, "shorter"),
        (0, 65, "shorter"),
        (-1, 64, "not a number"),
        ("٣", 1, "not a number"),
        ("9" * 30, 1, "not a number"),
    ],
)
def test_external_data_beyond_its_file_is_refused(
    tmp_path: Path, offset: int | str, length: int | str, says: str
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "m.data").write_bytes(numbers())
    report = scanned(tmp_path, model(tensors=[outside("m.data", offset, length)]))
    assert report.refused
    assert says in report.findings[0].what


def twice_told() -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    tensor.float_data.extend([9.0] * 16)
    return tensor


def told_inside_and_outside() -> onnx.TensorProto:
    tensor = outside("m.data")
    tensor.raw_data = numbers()
    return tensor


def placed_twice() -> onnx.TensorProto:
    tensor = outside("m.data")
    tensor.external_data.add(key="location", value="../outside")
    return tensor


def placed_nowhere() -> onnx.TensorProto:
    return onnx.TensorProto(name="w", dims=[4, 4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)


def placed_quietly() -> onnx.TensorProto:
    tensor = outside("../outside")
    tensor.data_location = TensorProto.DEFAULT
    return tensor


@pytest.mark.parametrize("tensor", [twice_told, told_inside_and_outside, placed_twice, placed_nowhere, placed_quietly])
def test_a_tensor_that_two_programs_could_read_differently_is_refused(
    tmp_path: Path, tensor: Callable[[], onnx.TensorProto]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "m.data").write_bytes(numbers())
    (tmp_path / "outside").write_bytes(numbers())
    assert scanned(tmp_path, model(tensors=[tensor()])).refused


def in_a_constant(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return model([helper.make_node("Constant", [], ["y"], value=tensor)])


def in_a_branch(tensor: onnx.TensorProto) -> onnx.ModelProto:
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "b", [], [], [tensor])
    return model([helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)])


def in_a_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    function = helper.make_function(
        "own", "F", ["x"], ["y"], [helper.make_node("Constant", [], ["y"], value=tensor)], []
    )
    return model([helper.make_node("F", ["x"], ["y"], domain="own")], functions=[function])


def in_a_sparse_tensor(tensor: onnx.TensorProto) -> onnx.ModelProto:
    proto = model()
    proto.graph.sparse_initializer.add(values=tensor)
    return proto


def in_the_training(tensor: onnx.TensorProto) -> onnx.ModelProto:
    proto = model()
    proto.training_info.add().algorithm.initializer.append(tensor)
    return proto


@pytest.mark.parametrize("place", [in_a_constant, in_a_branch, in_a_function, in_a_sparse_tensor, in_the_training])
def test_external_data_is_found_at_any_depth_of_a_model(
    tmp_path: Path, place: Callable[[onnx.TensorProto], onnx.ModelProto]
) -> None:
    assert not scanned(tmp_path, place(numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))).refused
    assert scanned(tmp_path, place(outside("../outside"))).refused


def test_a_field_whose_number_only_a_32_bit_reader_takes_for_a_graph_is_refused(tmp_path: Path) -> None:
    graph = onnx.GraphProto(initializer=[outside("../outside")]).SerializeToString()
    hidden = varint(2**32 | 7 << 3 | 2) + varint(len(graph)) + graph
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString() + hidden)
    with pytest.raises(Exception, match="External data path"):  # the runtime sees it
        onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    assert scan_file(tmp_path / "m.onnx", "onnx").refused


@pytest.mark.parametrize(
    ("name", "domain"),
    [("Steal", "acme"), ("PyOp", "com.microsoft"), ("EPContext", "com.microsoft"), ("ATen", "org.pytorch.aten")],
)
def test_operators_from_elsewhere_need_native_trust(tmp_path: Path, name: str, domain: str) -> None:
    report = scanned(tmp_path, model([helper.make_node(name, ["x"], ["y"], domain=domain)]))
    assert (report.tier, report.refused) == ("native", False)
    assert report.against("code")
    assert not report.against("native")
    assert name in report.findings[0].what


@pytest.mark.parametrize(("name", "domain"), [("Scaler", "ai.onnx.ml"), ("FusedMatMul", "com.microsoft"), ("Relu", "")])
def test_operators_of_the_runtime_are_data(tmp_path: Path, name: str, domain: str) -> None:
    assert scanned(tmp_path, model([helper.make_node(name, ["x"], ["y"], domain=domain)])).findings == ()


def test_operators_that_the_model_defines_itself_are_data(tmp_path: Path) -> None:
    relu = helper.make_function("own", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [])
    call = helper.make_node("F", ["x"], ["y"], domain="own")
    assert scanned(tmp_path, model([call], functions=[relu])).findings == ()
    other = helper.make_node("G", ["x"], ["y"], domain="own")
    assert scanned(tmp_path, model([other], functions=[relu])).tier == "native"


def test_deeply_nested_graphs_are_refused(tmp_path: Path) -> None:
    graph = b""
    for _ in range(60):  # bytes, since protobuf itself would not write them
        attribute = b"\x32" + varint(len(graph)) + graph
        node = b"\x2a" + varint(len(attribute)) + attribute
        graph = b"\x0a" + varint(len(node)) + node
    data = b"\x08\x09\x3a" + varint(len(graph)) + graph
    report = scan_bytes(memoryview(data), tmp_path / "m.onnx")
    assert report.refused
    assert "too deep" in report.findings[0].what


def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_truncated_model_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString()[:-cut])
    assert scan_file(path).refused


@given(st.data())
def test_no_change_of_bytes_makes_the_scan_fail(data: st.DataObject) -> None:
    content = bytearray(model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    scan_bytes(memoryview(content), Path("m.onnx"), "onnx").to_json()


def test_the_scan_of_400_kb_is_fast(tmp_path: Path) -> None:
    tensors = [numpy_helper.from_array(np.zeros((50, 200), np.float32), f"w{n}") for n in range(10)]
    nodes = [helper.make_node("Relu", ["x"], [f"y{n}"]) for n in range(40)]
    path = tmp_path / "m.onnx"
    path.write_bytes(model(nodes, tensors).SerializeToString())
    assert path.stat().st_size > 400_000

    def seconds() -> float:
        started = time.perf_counter()
        assert scan_file(path).findings == ()
        return time.perf_counter() - started

    assert min(seconds() for _ in range(10)) < 0.02
