from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from safetensors.torch import save_file
from torch import nn

from penstock import settings
from penstock.backends.base import BackendOptions, ModelFile
from penstock.backends.torch import compiled
from penstock.backends.torch.eager import RUNS_AS_PYTHON, EagerBackend
from penstock.errors import ConfigError, InferenceError
from penstock.options import COMPILE_MODES
from penstock.tensors import Arrays, Signature, TensorSpec

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler"
)
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, -1, 3)),), (TensorSpec("y", "FP32", (-1, 2)),))


class Pooled(nn.Module):
    """Rows of free length."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x)).mean(dim=1)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Reset the compiler between tests."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def file(tmp_path: Path) -> ModelFile:
    torch.manual_seed(3)
    save_file(Pooled().state_dict(), tmp_path / "m.safetensors")
    return ModelFile(tmp_path / "m.safetensors", SIGNATURE, Pooled)


def open_compiled(file: ModelFile, mode: str | None = None, **options: Any) -> EagerBackend:
    return EagerBackend.open(file, BackendOptions(device="cpu", use_compile=True, compile_mode=mode, **options))


def inputs(rows: int, length: int) -> Arrays:
    return {"x": np.random.default_rng(rows).standard_normal((rows, length, 3)).astype(np.float32)}


def assert_right(backend: EagerBackend, batch: Arrays) -> None:
    torch.manual_seed(3)
    with torch.inference_mode():
        expected = Pooled()(torch.from_numpy(batch["x"])).numpy()
    np.testing.assert_allclose(backend.run(batch)["y"], expected, rtol=1e-4, atol=1e-6)


def use(monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    """Compile with a function of our own in place of Inductor."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **_: real(model, backend=backend))


@needs_compiler
def test_no_length_of_a_free_axis_compiles_again_after_the_load(file: ModelFile) -> None:
    backend = open_compiled(file)
    assert backend.warnings == ()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows, length in ((1, 4), (1, 7), (2, 2), (5, 9), (64, 30)):
            assert_right(backend, inputs(rows, length))
    backend.close()
    with pytest.raises(InferenceError, match="closed"):
        backend.run(inputs(1, 1))


def test_a_model_that_cannot_be_compiled_runs_uncompiled_with_a_warning(
    file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("no such instruction")

    use(monkeypatch, broken)
    backend = open_compiled(file)
    (warning,) = backend.warnings
    assert warning.startswith("torch.compile was requested, but it could not compile the model (")
    assert warning.endswith(RUNS_AS_PYTHON)
    assert "\n" not in warning
    assert_right(backend, inputs(3, 4))


def test_a_model_with_other_outputs_when_compiled_runs_uncompiled(
    file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: torch.fx.GraphModule, _: Any) -> Any:
        return lambda *given: [answer + 1 for answer in graph(*given)]

    use(monkeypatch, wrong)
    backend = open_compiled(file)
    (warning,) = backend.warnings
    assert warning.startswith("torch.compile was requested, but the compiled model gives other outputs; ")
    assert_right(backend, inputs(3, 4))


def test_an_unknown_mode_is_refused_with_the_known_ones(file: ModelFile) -> None:
    with pytest.raises(ConfigError, match=r"compile_mode: 'fastest' should be 'default', 'reduce-ov"):
        open_compiled(file, "fastest")


def test_the_mode_and_cpu_options_reach_torch_compile(file: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda model, options: asked.append(options) or model)
    open_compiled(file, "max-autotune-no-cudagraphs")
    open_compiled(file)
    assert asked == [
        {"max_autotune": True, "coordinate_descent_tuning": True, "freezing": True},
        {"freezing": True},
    ]


def test_kernels_are_cached_in_the_configured_directory_unless_the_environment_sets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(settings.os, "environ", environment)
    compiled.keep_in(None)
    (tmp_path / "open" / "torchinductor").mkdir(parents=True)
    (tmp_path / "open" / "torchinductor").chmod(0o777)
    compiled.keep_in(tmp_path / "open")  # other users may write there, and its files are executed
    assert environment == {}
    compiled.keep_in(tmp_path)
    compiled.keep_in(tmp_path / "other")
    assert environment == {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torchinductor")}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("mode", COMPILE_MODES)
def test_on_cuda_every_mode_answers_from_every_thread(file: ModelFile, mode: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    backend = EagerBackend.open(file, BackendOptions(device="cuda", use_compile=True, compile_mode=mode))
    assert backend.warnings == ()
    batches = [inputs(rows, 4) for rows in (1, 2, 3, 8)] * 4
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(backend.run, batches))
    plain = EagerBackend.open(file, BackendOptions(device="cuda"))
    for batch, answer in zip(batches, answers, strict=True):
        np.testing.assert_allclose(answer["y"], plain.run(batch)["y"], rtol=1e-3, atol=1e-4)
