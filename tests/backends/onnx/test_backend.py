from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from penstock.backends.base import BackendOptions, ModelFile
from penstock.backends.devices import usable_cores
from penstock.backends.onnx.backend import OnnxBackend
from penstock.errors import (
    ConfigError,
    InferenceError,
    IntegrityError,
    ModelLoadError,
    OutOfMemory,
    UnsupportedFormat,
)
from penstock.tensors import Signature, TensorSpec

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
CUDA = "CUDAExecutionProvider"
no_cuda = pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")


def value(name: str, shape: Sequence[int | str | None] | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: Sequence[TensorProto] = (),
    opset: int = 18,
    ir_version: int = 10,
    domains: Sequence[str] = (),
) -> Path:
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    path.write_bytes(
        helper.make_model(
            graph, opset_imports=opsets, ir_version=ir_version
        ).SerializeToString()  # unchecked: may be bad
    )
    return path


def linear(path: Path, batch: int | str = "batch", **more: Any) -> Path:
    """x [batch, 4] @ w [4, 3] → y [batch, 3]."""
    weight = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return save(path, [node], [value("x", [batch, 4])], [value("y", [batch, 3])], [weight], **more)


def relu(path: Path, x: onnx.ValueInfoProto, y: onnx.ValueInfoProto) -> Path:
    return save(path, [helper.make_node("Identity", ["x"], ["y"])], [x], [y])


def open_onnx(path: Path, signature: Signature | None = None, **options: Any) -> OnnxBackend:
    return OnnxBackend.open(ModelFile(path, signature), BackendOptions(**options))


def signature(
    inputs: dict[str, tuple[str, tuple[int, ...]]], outputs: dict[str, tuple[str, tuple[int, ...]]]
) -> Signature:
    def specs(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, dtype, shape) for name, (dtype, shape) in tensors.items())

    return Signature(specs(inputs), specs(outputs))


def settings_of(backend: OnnxBackend) -> ort.SessionOptions:
    assert backend._session is not None
    return backend._session.get_session_options()


# --- the signature --------------------------------------------------------------------------------------


def test_a_bare_file_gives_its_own_signature_with_symbolic_lengths_free(tmp_path: Path) -> None:
    backend = open_onnx(linear(tmp_path / "m.onnx"))
    assert backend.signature == signature({"x": ("FP32", (-1, 4))}, {"y": ("FP32", (-1, 3))})
    assert backend.num_parameters == 12


def test_a_fixed_batch_stays_as_it_is(tmp_path: Path) -> None:
    backend = open_onnx(linear(tmp_path / "m.onnx", batch=1))
    assert backend.signature.inputs[0].shape == (1, 4)
    assert backend.run({"x": np.ones((1, 4), np.float32)})["y"].shape == (1, 3)


def test_lengths_without_a_name_are_free(tmp_path: Path) -> None:
    path = relu(tmp_path / "m.onnx", value("x", [None, 3]), value("y", [None, 3]))
    assert open_onnx(path).signature.inputs[0].shape == (-1, 3)


@pytest.mark.parametrize(
    ("onnx_type", "wire"),
    [(TensorProto.STRING, "BYTES"), (INT64, "INT64"), (TensorProto.BOOL, "BOOL"), (TensorProto.FLOAT16, "FP16")],
)
def test_datatypes_are_named_as_on_the_wire(tmp_path: Path, onnx_type: int, wire: str) -> None:
    path = relu(tmp_path / "m.onnx", value("x", ["n", 2], onnx_type), value("y", ["n", 2], onnx_type))
    backend = open_onnx(path)
    assert backend.signature == signature({"x": (wire, (-1, 2))}, {"y": (wire, (-1, 2))})
    rows = (
        np.array([[0, 1]]).astype(backend.signature.inputs[0].numpy)
        if wire != "BYTES"
        else np.array([["a", "ü"]], object)
    )
    np.testing.assert_array_equal(backend.run({"x": rows})["y"], rows)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"z": ("FP32", (-1, 4))}, {"y": ("FP32", (-1, 3))}),
        ({"x": ("FP64", (-1, 4))}, {"y": ("FP32", (-1, 3))}),
        ({"x": ("FP32", (-1, 5))}, {"y": ("FP32", (-1, 3))}),
        ({"x": ("FP32", (-1, 4, 1))}, {"y": ("FP32", (-1, 3))}),
        ({"x": ("FP32", (-1, 4)), "more": ("FP32", (-1, 4))}, {"y": ("FP32", (-1, 3))}),
        ({"x": ("FP32", (-1, 4))}, {"z": ("FP32", (-1, 3))}),
        ({"x": ("FP32", (-1, 4))}, {"y": ("INT64", (-1, 3))}),
    ],
    ids=["name", "type", "length", "rank", "one-more", "output-name", "output-type"],
)
def test_a_manifest_that_disagrees_with_the_file_is_refused(tmp_path: Path, inputs: Any, outputs: Any) -> None:
    path = linear(tmp_path / "m.onnx")
    with pytest.raises(ModelLoadError, match=r"m\.onnx: its manifest says the (in|out)puts are .*; the file has [xy] "):
        open_onnx(path, signature(inputs, outputs))


def test_a_free_batch_in_the_manifest_over_a_fixed_one_in_the_file_is_refused(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx", batch=1)
    with pytest.raises(ModelLoadError, match=r"x tensor\(float\) \[-1, 4\]; the file has x tensor\(float\) \[1, 4\]"):
        open_onnx(path, signature({"x": ("FP32", (-1, 4))}, {"y": ("FP32", (-1, 3))}))


def test_only_the_outputs_the_manifest_names_are_given_in_its_order(tmp_path: Path) -> None:
    nodes = [helper.make_node(op, ["x"], [out]) for op, out in (("Abs", "a"), ("Neg", "b"), ("Relu", "c"))]
    path = save(tmp_path / "m.onnx", nodes, [value("x", ["n"])], [value(name, ["n"]) for name in "abc"])
    backend = open_onnx(path, signature({"x": ("FP32", (-1,))}, {"c": ("FP32", (-1,)), "a": ("FP32", (-1,))}))
    outputs = backend.run({"x": np.array([-2, 3], np.float32)})
    assert list(outputs) == ["c", "a"]
    np.testing.assert_array_equal(outputs["c"], [0, 3])
    np.testing.assert_array_equal(outputs["a"], [2, 3])


# --- files it refuses -----------------------------------------------------------------------------------


def assert_one_sentence(error: Exception) -> None:
    """No part of ONNX Runtime's own message: no codes, no source locations, no second line."""
    text = str(error)
    assert "\n" not in text
    assert "ONNXRuntimeError" not in text
    assert ".cc" not in text
    assert "onnxruntime_src" not in text
    assert len(text) < 500


def assert_refused(path: Path, kind: type[ModelLoadError], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        open_onnx(path)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{path}: ")
    assert_one_sentence(caught.value)


def test_a_custom_operator_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Fuse", ["x"], ["y"], domain="acme.ops")
    path = save(tmp_path / "m.onnx", [node], [value("x", ["n"])], [value("y", ["n"])], domains=["acme.ops"])
    assert_refused(path, UnsupportedFormat, "custom operator acme.ops:Fuse")


def test_an_operator_that_no_opset_has_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Fuse", ["x"], ["y"])], [value("x", ["n"])], [value("y", ["n"])])
    assert_refused(path, UnsupportedFormat, "no operator Fuse in opset 18")


def test_an_opset_of_the_future_is_refused(tmp_path: Path) -> None:
    assert_refused(linear(tmp_path / "m.onnx", opset=99), UnsupportedFormat, "opset 99")


def test_an_ir_version_of_the_future_is_refused(tmp_path: Path) -> None:
    assert_refused(linear(tmp_path / "m.onnx", ir_version=99), UnsupportedFormat, r"IR version 99.*update onnxruntime")


def test_any_other_fault_is_one_line(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "x"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 3])], [value("y", ["n", 3])])
    assert_refused(path, ModelLoadError, "could not load the model: .*at least 3 dimensions$")


def external(path: Path, location: str) -> Path:
    """The linear model with its weight in another file."""
    weight = TensorProto(name="w", data_type=FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    for key, text in (("location", location), ("offset", "0"), ("length", "48")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, text
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return save(path, [node], [value("x", ["n", 4])], [value("y", ["n", 3])], [weight])


def test_external_data_next_to_the_model_is_used(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.ones((4, 3), np.float32).tobytes())
    backend = open_onnx(external(tmp_path / "m.onnx", "w.bin"))
    np.testing.assert_array_equal(backend.run({"x": np.ones((2, 4), np.float32)})["y"], np.full((2, 3), 4))


def test_external_data_that_is_missing_is_named(tmp_path: Path) -> None:
    assert_refused(external(tmp_path / "m.onnx", "w.bin"), IntegrityError, r"external data file w\.bin is missing")


def test_external_data_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 8)
    assert_refused(external(tmp_path / "m.onnx", "w.bin"), IntegrityError, "shorter than the model needs")


@pytest.mark.parametrize("location", ["../w.bin", "a/../../w.bin", "link.bin", "absolute", "", "*/_ORT_MEM_ADDR_/*"])
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 48)
    home = tmp_path / "model"
    home.mkdir()
    (home / "link.bin").symlink_to("../w.bin")
    where = str(tmp_path / "w.bin") if location == "absolute" else location
    assert_refused(external(home / "m.onnx", where), IntegrityError, "external data")


# --- runs -----------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_into_memory_is_out_of_memory_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    size = numpy_helper.from_array(np.array([1 << 50, 1]), "size")
    node = helper.make_node("Expand", ["x", "size"], ["y"])
    backend = open_onnx(save(tmp_path / "m.onnx", [node], [value("x", ["n"])], [value("y", None)], [size]))
    with pytest.raises(OutOfMemory) as caught:
        backend.run({"x": np.zeros(3, np.float32)})
    assert_one_sentence(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_batch_without_rows_is_answered_even_if_the_graph_cannot(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([0, -1]), "shape")  # the rows are known, the rest is inferred
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [value("x", ["n", 2, 3])], [value("y", ["n", "m"])], [shape])
    quiet = ort.SessionOptions()
    quiet.log_severity_level = 4
    bare = ort.InferenceSession(path, quiet, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="Reshape"):
        bare.run(None, {"x": np.zeros((0, 2, 3), np.float32)})
    assert open_onnx(path).run({"x": np.zeros((0, 2, 3), np.float32)})["y"].shape == (0, 6)


def test_a_failing_run_gives_the_reason_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    table = numpy_helper.from_array(np.zeros((3, 2), np.float32), "table")
    backend = open_onnx(save(tmp_path / "m.onnx", [node], [value("x", ["n"], INT64)], [value("y", ["n", 2])], [table]))
    with pytest.raises(
        InferenceError, match=r"^the model could not run the batch: .*indices element out of data bounds"
    ) as caught:
        backend.run({"x": np.array([0, 7])})
    assert_one_sentence(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_large_batch_returns_its_memory() -> None:
    """In a separate process, where nothing else changes the resident size."""
    done = subprocess.run([sys.executable, "-c", SHRINK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, peak, after = (int(line) for line in done.stdout.split())
    assert peak - before > 120  # the batch needed the memory, otherwise the test proves nothing
    assert after - before < 40


def test_small_batches_and_steadily_large_ones_keep_their_memory(tmp_path: Path) -> None:
    backend = open_onnx(linear(tmp_path / "m.onnx"))
    assert all(backend._options_for(100_000) is backend._plain for _ in range(3))
    chosen = [backend._options_for(8 << 20) for _ in range(30)]
    assert chosen[0] is backend._shrinking
    assert all(options is backend._plain for options in chosen[15:])


SHRINK = """
import resource, tempfile, pathlib
import numpy as np, onnx
from onnx import helper, numpy_helper
from penstock.backends.base import BackendOptions, ModelFile
from penstock.backends.onnx.backend import OnnxBackend

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

kernels = [numpy_helper.from_array(np.ones(shape, np.float32), name)
           for name, shape in (("w", (64, 3, 3, 3)), ("v", (64, 64, 3, 3)))]
nodes = [helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4), helper.make_node("Relu", ["a"], ["b"]),
         helper.make_node("Conv", ["b", "v"], ["c"], pads=[1] * 4), helper.make_node("GlobalAveragePool", ["c"], ["y"])]
x = helper.make_tensor_value_info("x", 1, ["n", 3, 32, 32])
y = helper.make_tensor_value_info("y", 1, ["n", 64, 1, 1])
with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory, "m.onnx")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], kernels), ir_version=10,
                              opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, path)
    backend = OnnxBackend.open(ModelFile(path), BackendOptions())
small, large = ({"x": np.zeros((n, 3, 32, 32), np.float32)} for n in (1, 256))
for _ in range(20):
    backend.run(small)
print(resident())
backend.run(large)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
print(resident())
"""


# --- how the session is set -----------------------------------------------------------------------------


def test_threads_are_the_usable_cores_and_do_not_spin(tmp_path: Path) -> None:
    set_ = settings_of(open_onnx(linear(tmp_path / "m.onnx")))
    assert set_.intra_op_num_threads == usable_cores()
    assert set_.inter_op_num_threads == 1
    assert set_.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert set_.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert set_.get_session_config_entry("session.set_denormal_as_zero") == "1"
    assert set_.log_severity_level == 3


def test_the_requested_number_of_threads_is_used(tmp_path: Path) -> None:
    assert settings_of(open_onnx(linear(tmp_path / "m.onnx"), threads=3)).intra_op_num_threads == 3


def test_denormals_are_zero_only_in_the_threads_of_onnx_runtime(tmp_path: Path) -> None:
    """In a separate process: ONNX Runtime sets the processor's mode with the first session only."""
    path = str(linear(tmp_path / "m.onnx"))
    code = (
        "import pathlib, numpy\n"
        "from penstock.backends.base import BackendOptions, ModelFile\n"
        "from penstock.backends.onnx.backend import OnnxBackend\n"
        f"backend = OnnxBackend.open(ModelFile(pathlib.Path({path!r})), BackendOptions(threads=2))\n"
        "backend.run({'x': numpy.ones((64, 4), 'f')})\n"
        "assert (numpy.array([5e-324]) * 1.0)[0] != 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("wanted", "level"), [(True, "ORT_ENABLE_ALL"), (False, "ORT_DISABLE_ALL")])
def test_the_graph_is_optimized_unless_options_say_no(tmp_path: Path, wanted: bool, level: str) -> None:
    set_ = settings_of(open_onnx(linear(tmp_path / "m.onnx"), enable_onnx_optimization=wanted))
    assert set_.graph_optimization_level == getattr(ort.GraphOptimizationLevel, level)


def test_half_precision_is_not_emulated(tmp_path: Path) -> None:
    backend = open_onnx(linear(tmp_path / "m.onnx"), device="cpu", precision="fp16")
    assert backend.warnings == ("fp16 was requested, but an ONNX model keeps the precision of its export",)


def test_an_unknown_device_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device: 'tpu' should be auto, cpu"):
        open_onnx(linear(tmp_path / "m.onnx"), device="tpu")


@no_cuda
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_cuda_auto_is_the_cpu_without_a_warning(tmp_path: Path, device: str) -> None:
    backend = open_onnx(linear(tmp_path / "m.onnx"), device=device)
    assert (backend.device, backend.warnings) == ("cpu", ())


@no_cuda
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1", "mps"])
def test_a_device_that_was_named_and_is_not_here_is_refused(tmp_path: Path, device: str) -> None:
    with pytest.raises(UnsupportedFormat) as refused:
        open_onnx(linear(tmp_path / "m.onnx"), device=device)
    assert str(refused.value) == (
        f'device="{device}" cannot be used: this ONNX Runtime has no provider for it; device="auto" takes what is there'
    )


@no_cuda
@pytest.mark.parametrize("action", ["ignore", "error"], ids=["falls-back-silently", "raises"])
def test_a_cuda_provider_that_does_not_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Any
) -> None:
    """This ONNX Runtime has no CUDA: if CUDA is requested, it warns and continues without, as without drivers."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    path = linear(tmp_path / "m.onnx")
    with warnings.catch_warnings():
        warnings.filterwarnings(action, "Specified provider 'CUDAExecutionProvider'", UserWarning)
        backend = open_onnx(path, device="auto")
        with pytest.raises(UnsupportedFormat, match=r'device="cuda:0" cannot be used: .*provider'):
            open_onnx(path, device="cuda:0")
    assert backend.device == "cpu"
    assert len(backend.warnings) == 1
    assert backend.warnings[0].startswith("cuda:0 could not be used, the model runs on the CPU: ")
    assert backend.run({"x": np.ones((2, 4), np.float32)})["y"].shape == (2, 3)


def test_the_second_gpu_is_requested_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Session(ort.InferenceSession):
        """Records the requested providers, since the provider itself is not available on every machine."""

        def __init__(self, path: str, settings: Any, providers: list[Any], **more: Any) -> None:
            asked.append(providers)
            super().__init__(path, settings, providers=["CPUExecutionProvider"], **more)

        def get_providers(self) -> list[str]:
            return [CUDA, "CPUExecutionProvider"]

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", Session)
    backend = open_onnx(linear(tmp_path / "m.onnx"), device="cuda:1")
    (cuda, cpu), *_ = asked
    assert cuda[0] == CUDA
    assert cuda[1]["device_id"] == "1"
    assert cpu == "CPUExecutionProvider"
    assert (backend.device, backend.warnings) == ("cuda:1", ())


def test_running_onnx_needs_no_torch(tmp_path: Path) -> None:
    path = str(linear(tmp_path / "m.onnx"))
    code = (
        "import sys, pathlib, numpy\n"
        "sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "from penstock.backends.base import BackendOptions, ModelFile\n"
        "from penstock.backends.catalog import open_backend\n"
        f"backend = open_backend('onnx', ModelFile(pathlib.Path({path!r})), BackendOptions())\n"
        "assert backend.run({'x': numpy.ones((2, 4), 'f')})['y'].shape == (2, 3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
