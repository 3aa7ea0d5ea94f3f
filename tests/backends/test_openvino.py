from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from axis_models import GRAPHS, answers

from penstock.backends import openvino as backend_module
from penstock.backends.base import BackendOptions, ModelFile
from penstock.backends.catalog import format_of, open_backend
from penstock.backends.devices import usable_cores
from penstock.backends.openvino import OpenVinoBackend, runtime
from penstock.engine.predictor.predictor import Predictor
from penstock.errors import (
    ConfigError,
    InferenceError,
    IntegrityError,
    ModelLoadError,
    PenstockError,
    UnsupportedFormat,
    Untrusted,
)
from penstock.tensors import Signature, TensorSpec


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(zoo.DIGITS.onnx(), tmp_path_factory.mktemp("openvino") / "digits.xml")


def save(onnx: Path, path: Path) -> Path:
    model = runtime().read_model(onnx)
    sys.modules["openvino"].save_model(model, path, compress_to_fp16=False)
    return path


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """A model that a test may change."""
    for suffix in (".xml", ".bin"):
        (tmp_path / f"m{suffix}").write_bytes(written.with_suffix(suffix).read_bytes())
    return tmp_path / "m.xml"


def open_model(path: Path, signature: Signature | None = None, **options: Any) -> OpenVinoBackend:
    backend = open_backend("openvino", ModelFile(path, signature), BackendOptions(**options))
    assert isinstance(backend, OpenVinoBackend)
    return backend


def refusal(path: Path, kind: type[PenstockError], signature: Signature | None = None) -> str:
    with pytest.raises(kind) as caught:
        open_model(path, signature)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert ".cpp" not in text
    return text


# --- the file -------------------------------------------------------------------------------------------


def test_a_bare_file_gives_its_own_signature(written: Path) -> None:
    backend = open_model(written)
    assert backend.signature == zoo.DIGITS.signature
    assert format_of(written) == "openvino"
    inputs = zoo.DIGITS.inputs(3)
    np.testing.assert_allclose(
        backend.run(inputs)["logits"], zoo.DIGITS.expected(inputs)["logits"], rtol=1e-4, atol=1e-3
    )


def test_missing_weights_are_refused(copy: Path) -> None:
    copy.with_suffix(".bin").unlink()
    assert "'m.bin' is missing" in refusal(copy, IntegrityError)


def test_weights_that_are_too_short_are_refused(copy: Path) -> None:
    weights = copy.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "shorter than the model needs" in refusal(copy, IntegrityError)


def test_an_operator_of_a_library_is_refused(copy: Path) -> None:
    copy.write_text(copy.read_text().replace('type="Convolution" version="opset1"', 'type="Mine" version="extension"'))
    assert "extension:Mine" in refusal(copy, Untrusted)


def test_an_unsupported_operator_is_refused_in_one_line(copy: Path) -> None:
    copy.write_text(copy.read_text().replace('type="Convolution"', 'type="Convolutoin"'))
    assert "Convolutoin" in refusal(copy, IntegrityError)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (("x", "FP32", (-1, 784)), ("logits", "FP32", (-1, 10))),
        (("input", "FP64", (-1, 784)), ("logits", "FP32", (-1, 10))),
        (("input", "FP32", (-1, 783)), ("logits", "FP32", (-1, 10))),
        (("input", "FP32", (-1, 28, 28)), ("logits", "FP32", (-1, 10))),
        (("input", "FP32", (-1, 784)), ("scores", "FP32", (-1, 10))),
        (("input", "FP32", (-1, 784)), ("logits", "INT64", (-1, 10))),
    ],
    ids=["name", "type", "length", "rank", "output-name", "output-type"],
)
def test_a_manifest_that_disagrees_with_the_file_is_refused(written: Path, x: Any, y: Any) -> None:
    signature = Signature((TensorSpec(*x),), (TensorSpec(*y),))
    text = refusal(written, ModelLoadError, signature)
    assert "its manifest says the" in text
    assert "the file has" in text


def test_text_is_unsupported(tmp_path: Path) -> None:
    ov = sys.modules["openvino"]
    text = ov.opset13.parameter([-1], ov.Type.string, name="text")
    model = ov.Model([ov.opset13.result(text)], [text], "echo")
    model.inputs[0].set_names({"text"})
    model.outputs[0].set_names({"same"})
    ov.save_model(model, tmp_path / "m.xml")
    assert "string" in refusal(tmp_path / "m.xml", UnsupportedFormat)


# --- options --------------------------------------------------------------------------------------------


def property_of(backend: OpenVinoBackend, name: str) -> Any:
    assert backend._compiled is not None
    return backend._compiled.get_property(name)


def test_the_precision_of_the_file_is_used_on_any_cpu(written: Path) -> None:
    assert property_of(open_model(written), "INFERENCE_PRECISION_HINT").get_type_name() == "f32"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_unsupported_precision_is_a_warning(written: Path, precision: str) -> None:
    (warning,) = open_model(written, precision=precision).warnings
    assert warning == f"{precision} was requested, but an OpenVINO model keeps the precision of its export"


@pytest.mark.parametrize(("flags", "hint", "warned"), [(set(), "f32", 1), ({"avx512_bf16"}, "bf16", 0)])
def test_bf16_is_used_if_the_cpu_supports_it(
    written: Path, monkeypatch: pytest.MonkeyPatch, flags: set[str], hint: str, warned: int
) -> None:
    monkeypatch.setattr(backend_module, "cpu_flags", lambda: frozenset(flags))
    warnings, precision = backend_module._precision(BackendOptions(precision="bf16"))
    assert (precision, len(warnings)) == (hint, warned)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_another_device_is_refused(written: Path, device: str) -> None:
    with pytest.raises(UnsupportedFormat, match="cannot be used: OpenVINO models run on the CPU"):
        open_model(written, device=device)


def test_an_unknown_device_is_a_config_error(written: Path) -> None:
    with pytest.raises(ConfigError, match="device: 'tpu' should be auto, cpu"):
        open_model(written, device="tpu")


def test_with_one_thread_a_run_there_are_as_many_runs_at_once_as_cores(written: Path) -> None:
    assert property_of(open_model(written, threads=1), "NUM_STREAMS") == usable_cores()
    assert property_of(open_model(written), "NUM_STREAMS") == 1


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(zoo.RESNET.onnx(), tmp_path_factory.mktemp("large") / "resnet.xml")


def test_a_large_model_is_compiled_once_and_a_damaged_copy_is_compiled_again(large: Path, tmp_path: Path) -> None:
    inputs = zoo.RESNET.inputs(2)
    expected = zoo.RESNET.expected(inputs)["logits"]
    for _ in range(2):
        answer = open_model(large, cache_dir=tmp_path).run(inputs)["logits"]
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)
        (kept,) = (tmp_path / "openvino").glob("*.blob")
        kept.chmod(0o600)
        kept.write_bytes(kept.read_bytes()[: kept.stat().st_size // 2])
    np.testing.assert_allclose(
        open_model(large, cache_dir=tmp_path).run(inputs)["logits"], expected, rtol=1e-4, atol=1e-5
    )


def test_a_directory_that_other_users_can_write_to_is_not_trusted(large: Path, tmp_path: Path) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino").chmod(0o777)
    open_model(large, cache_dir=tmp_path).close()
    assert list(tmp_path.rglob("*.blob")) == []


def test_a_small_model_is_not_cached(written: Path, tmp_path: Path) -> None:
    open_model(written, cache_dir=tmp_path).close()
    assert list(tmp_path.rglob("*.blob")) == []


# --- runs -----------------------------------------------------------------------------------------------


def test_outputs_belong_to_the_caller(written: Path) -> None:
    backend = open_model(written)
    first = backend.run(zoo.DIGITS.inputs(2))["logits"]
    kept = first.copy()
    backend.run(zoo.DIGITS.inputs(2, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_numbers_of_another_type_are_not_read_as_bytes(written: Path) -> None:
    with pytest.raises(InferenceError, match="input is float64, not float32"):
        open_model(written).run({"input": np.zeros((1, 784))})


def test_it_sends_no_telemetry_and_needs_no_torch(written: Path, tmp_path: Path) -> None:
    """In a separate process with its own home directory, where OpenVINO's telemetry would write an identifier."""
    code = (
        "import sys, pathlib, numpy\n"
        "sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "from penstock.backends.base import BackendOptions, ModelFile\n"
        "from penstock.backends.catalog import open_backend\n"
        f"backend = open_backend('openvino', ModelFile(pathlib.Path({str(written)!r})), BackendOptions())\n"
        "assert backend.run({'input': numpy.ones((2, 784), 'f')})['logits'].shape == (2, 10)\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_is_refused_and_does_not_hang(written: Path) -> None:
    code = (
        "import os, pathlib\n"
        "from penstock.backends.base import BackendOptions, ModelFile\n"
        "from penstock.backends.openvino import OpenVinoBackend\n"
        f"file = ModelFile(pathlib.Path({str(written)!r}))\n"
        "OpenVinoBackend.open(file, BackendOptions())\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        OpenVinoBackend.open(file, BackendOptions())\n"
        "    except Exception as error:\n"
        "        print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == (
        f"{written}: OpenVINO hangs in a fork of a process that has used it; start processes with spawn\n"
    )


def test_telemetry_that_is_imported_already_is_hidden_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = object()
    monkeypatch.setitem(sys.modules, "openvino_telemetry", mine)  # type: ignore[arg-type]
    with backend_module.no_telemetry():
        assert sys.modules["openvino_telemetry"] is None
    assert sys.modules["openvino_telemetry"] is mine


@pytest.mark.parametrize("name", ["silero", "loss", "gram without names", "constant labels", "tiled rows"])
def test_models_without_a_batch_axis_answer_as_onnx_runtime_does(tmp_path: Path, name: str) -> None:
    graph = GRAPHS[name]
    source = graph.save(tmp_path / "m.onnx")
    with Predictor(save(source, tmp_path / "m.xml"), task="tensor") as predictor:
        assert predictor.task.signature.whole
        for request, expected in zip(graph.requests, answers(source, graph.requests), strict=True):
            outputs = predictor.predict(request).outputs
            for key, array in expected.items():
                np.testing.assert_allclose(np.reshape(outputs[key], array.shape), array, rtol=1e-4, atol=1e-5)
