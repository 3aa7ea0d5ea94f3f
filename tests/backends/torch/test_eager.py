from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from penstock.backends.base import BackendOptions, ModelFile
from penstock.backends.torch.eager import EagerBackend
from penstock.errors import InferenceError, IntegrityError, ModelLoadError, OutOfMemory, UnsupportedFormat
from penstock.tensors import Arrays, Signature, TensorSpec

Shape = tuple[int, ...]


class Linear(nn.Module):
    def __init__(self, features: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(features, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Pair(NamedTuple):
    twice: torch.Tensor
    thrice: torch.Tensor


class Returns(nn.Module):
    """Returns 2x and 3x in the configured structure."""

    HOW: Mapping[str, Callable[[torch.Tensor], Any]] = {
        "tuple": lambda x: (2 * x, 3 * x),
        "list": lambda x: [2 * x, 3 * x],
        "dict": lambda x: {"thrice": 3 * x, "unused": x, "twice": 2 * x},
        "namedtuple": lambda x: Pair(2 * x, 3 * x),
        "one": lambda x: 2 * x,
        "three": lambda x: (x, x, x),
        "other-names": lambda x: {"twice": 2 * x, "four times": 4 * x},
        "numbers": lambda x: (2 * x, 3),
        "whole": lambda x: (2 * x, x.long()),
        "double": lambda x: (2 * x.double(), 3 * x.half()),
        "scalars": lambda x: (x.sum(), x.sum()),
        "turned": lambda x: ((2 * x).T.contiguous().T, 3 * x),
    }

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> Any:
        return self.HOW[self.how](x)


class TwoInputs(nn.Module):
    """`forward` does not use the names of the signature."""

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return first - 2 * second


class Misbehaves(nn.Module):
    """What careless models do in `forward`."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        match self.what:
            case "writes its input":
                return x.mul_(2)
            case "returns its input":
                return x
            case "fails":
                raise ValueError("first line\nsecond line")
            case "eats memory":
                return torch.empty(1 << 50) + x
            case "drops":
                return self.dropout(x)
        return torch.full_like(x, float(torch.is_inference_mode_enabled() and not self.training))


class Convolution(nn.Module):
    """`view` after a convolution assumes the contiguous memory layout."""

    def __init__(self, end: str = "flatten") -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.end = end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.convolution(x)
        if self.end == "view":
            return maps.view(len(x), -1)
        if self.end == "stride":
            return maps.flatten(1) + maps.stride(1)
        return maps.flatten(1)


class Tied(nn.Module):
    """Two names share one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


class Runs:
    """A pickle that creates a directory when it is loaded without protection."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def named(architecture: Any) -> str:
    return f"{architecture.__module__}:{architecture.__qualname__}"


def signature(x: Shape = (-1, 3), y: Shape = (-1, 2), names: tuple[str, ...] = ("x",)) -> Signature:
    return Signature(tuple(TensorSpec(name, "FP32", x) for name in names), (TensorSpec("y", "FP32", y),))


TWO_OUTPUTS = Signature(
    (TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("twice", "FP32", (-1, 3)), TensorSpec("thrice", "FP32", (-1, 3)))
)


@pytest.fixture
def open_model(tmp_path: Path) -> Callable[..., EagerBackend]:
    """Write the weights of `make(**arguments)` and open them."""

    def open_(make: type[nn.Module], of: Signature, options: BackendOptions | None = None, **arguments: Any) -> Any:
        torch.manual_seed(3)
        save_model(make(**arguments), str(tmp_path / "m.safetensors"))
        file = ModelFile(tmp_path / "m.safetensors", of, named(make), arguments)
        return EagerBackend.open(file, options or BackendOptions(device="cpu", trust="code"))

    return open_


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Valid weights for `Linear`."""
    path = tmp_path / "m.safetensors"
    save_file(Linear().state_dict(), path)
    return path


def open_weights(path: Path, architecture: str = named(Linear), **arguments: Any) -> EagerBackend:
    return EagerBackend.open(
        ModelFile(path, signature(), architecture, arguments), BackendOptions(device="cpu", trust="code")
    )


def rows(*shape: int) -> Arrays:
    return {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


# --- what the model returns -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["tuple", "list", "dict", "namedtuple", "double", "turned"])
def test_outputs_are_mapped_to_their_names_and_datatypes(open_model: Any, how: str) -> None:
    inputs = rows(4, 3)
    outputs = open_model(Returns, TWO_OUTPUTS, how=how).run(inputs)
    assert list(outputs) == ["twice", "thrice"]
    for name, factor in (("twice", 2), ("thrice", 3)):
        assert outputs[name].dtype == np.float32
        assert outputs[name].flags.c_contiguous
        np.testing.assert_allclose(outputs[name], factor * inputs["x"], rtol=2e-3)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("one", "the model returned 1 outputs, its signature names 2"),
        ("three", "the model returned 3 outputs, its signature names 2"),
        ("other-names", "the model returned no output 'thrice', but twice, four times"),
        ("numbers", "the model's output 'thrice' is a int, not a tensor"),
        ("whole", "the model's output 'thrice' is torch.int64, its signature says FP32"),
    ],
)
def test_outputs_that_do_not_fit_the_signature_are_named(open_model: Any, how: str, says: str) -> None:
    with pytest.raises(InferenceError) as caught:
        open_model(Returns, TWO_OUTPUTS, how=how).run(rows(2, 3))
    assert str(caught.value) == says


def test_an_output_without_a_batch_axis_stays_a_single_value(open_model: Any) -> None:
    assert open_model(Returns, TWO_OUTPUTS, how="scalars").run(rows(1, 3))["twice"].shape == ()


def test_inputs_of_other_names_are_given_in_the_order_of_the_signature(open_model: Any) -> None:
    backend = open_model(TwoInputs, signature((-1, 2), (-1, 2), ("a", "b")))
    inputs = {"b": np.ones((1, 2), np.float32), "a": np.full((1, 2), 5, np.float32)}
    np.testing.assert_array_equal(backend.run(inputs)["y"], [[3, 3]])


def test_inputs_of_the_same_names_are_given_by_name(open_model: Any) -> None:
    backend = open_model(TwoInputs, signature((-1, 2), (-1, 2), ("second", "first")))
    inputs = {"second": np.ones((1, 2), np.float32), "first": np.full((1, 2), 5, np.float32)}
    np.testing.assert_array_equal(backend.run(inputs)["y"], [[3, 3]])


# --- how it is run --------------------------------------------------------------------------------------


def test_it_runs_in_inference_and_evaluation_mode_in_any_thread(open_model: Any) -> None:
    backend = open_model(Misbehaves, signature((-1, 3), (-1, 3)), what="tells its mode")
    with ThreadPoolExecutor(1) as pool:
        answers = [backend.run(rows(1, 3)), pool.submit(backend.run, rows(1, 3)).result()]
    assert all((answer["y"] == 1).all() for answer in answers)
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("what", ["writes its input", "returns its input"])
def test_a_model_cannot_reach_the_arrays_of_its_caller(open_model: Any, what: str) -> None:
    inputs = rows(2, 3)
    before = inputs["x"].copy()
    outputs = open_model(Misbehaves, signature((-1, 3), (-1, 3)), what=what).run(inputs)
    outputs["y"][:] = 0
    np.testing.assert_array_equal(inputs["x"], before)


def test_dropout_is_off(open_model: Any) -> None:
    inputs = rows(8, 3)
    backend = open_model(Misbehaves, signature((-1, 3), (-1, 3)), what="drops")
    np.testing.assert_array_equal(backend.run(inputs)["y"], inputs["x"])


def test_an_exception_in_the_model_is_an_inference_error_with_its_first_line(open_model: Any) -> None:
    with pytest.raises(InferenceError) as caught:
        open_model(Misbehaves, signature((-1, 3), (-1, 3)), what="fails").run(rows(1, 3))
    assert str(caught.value) == "the model could not run the batch: first line"


def test_memory_that_runs_out_is_out_of_memory(open_model: Any) -> None:
    with pytest.raises(OutOfMemory, match=r"^the batch does not fit into memory$"):
        open_model(Misbehaves, signature((-1, 3), (-1, 3)), what="eats memory").run(rows(1, 3))


@pytest.mark.parametrize(("end", "channels_last"), [("flatten", True), ("view", False), ("stride", False)])
@pytest.mark.parametrize("count", [1, 5])
def test_channels_come_last_only_where_the_model_holds_in_that_layout(
    open_model: Any, end: str, channels_last: bool, count: int
) -> None:
    backend = open_model(Convolution, signature((-1, 3, 6, 6), (-1, 64)), end=end)
    assert backend._channels_last is channels_last
    inputs = rows(count, 3, 6, 6)
    torch.manual_seed(3)
    with torch.inference_mode():
        expected = Convolution(end)(torch.from_numpy(inputs["x"])).numpy()
    np.testing.assert_allclose(backend.run(inputs)["y"], expected, rtol=1e-4, atol=1e-5)


def test_channels_stay_where_they_are_when_the_image_size_is_free(open_model: Any) -> None:
    backend = open_model(Convolution, signature((-1, 3, -1, -1), (-1, -1)))
    assert backend._channels_last is False
    assert backend.run(rows(2, 3, 7, 5))["y"].shape == (2, 4 * 5 * 3)


@pytest.fixture
def torch_threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_threads_are_set_as_requested(open_model: Any, torch_threads: int) -> None:
    open_model(Linear, signature(), BackendOptions(device="cpu", trust="code", threads=torch_threads + 2))
    assert torch.get_num_threads() == torch_threads + 2


def test_by_default_threads_are_at_most_the_usable_cores(open_model: Any, torch_threads: int) -> None:
    torch.set_num_threads(64)
    open_model(Linear, signature())
    assert torch.get_num_threads() <= (os.cpu_count() or 1)
    torch.set_num_threads(1)
    open_model(Linear, signature())
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_named_and_missing_is_refused(open_model: Any) -> None:
    with pytest.raises(UnsupportedFormat, match='device="cuda:0" cannot be used'):
        open_model(Linear, signature(), BackendOptions(device="cuda:0", trust="code"))
    assert open_model(Linear, signature(), BackendOptions(device="auto", trust="code")).device == "cpu"


def test_a_model_that_runs_as_python_code_warns_that_other_formats_are_faster(open_model: Any) -> None:
    (warning,) = open_model(Linear, signature()).warnings
    assert warning == "the model runs as Python code; exported to ONNX, or compiled, it is usually faster"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_cuda_the_answers_are_those_of_the_cpu(open_model: Any, precision: str) -> None:
    backend = open_model(Linear, signature(), BackendOptions(trust="code", device="cuda", precision=precision))
    assert backend.device == "cuda:0"
    expected = open_model(Linear, signature()).run(rows(3, 3))["y"]
    np.testing.assert_allclose(backend.run(rows(3, 3))["y"], expected, atol=1e-2)


# --- the architecture -----------------------------------------------------------------------------------


def test_arguments_build_the_class(tmp_path: Path) -> None:
    save_file(Linear(5).state_dict(), tmp_path / "m.safetensors")
    file = ModelFile(tmp_path / "m.safetensors", signature((-1, 5)), named(Linear), {"features": 5})
    backend = EagerBackend.open(file, BackendOptions(device="cpu", trust="code"))
    assert backend.run(rows(2, 5))["y"].shape == (2, 2)
    assert backend.num_parameters == 12


@pytest.mark.parametrize("arguments", [{"width": 5}, {"features": "many"}, {"features": -1}])
def test_arguments_the_class_does_not_take_are_named(weights: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ModelLoadError, match=rf"could not be built with the arguments .*{next(iter(arguments))}"):
        open_weights(weights, **arguments)


@pytest.mark.parametrize("what", ["architecture", "signature"])
def test_weights_alone_are_refused_with_the_fix(weights: Path, what: str) -> None:
    file = ModelFile(weights, signature(), None) if what == "architecture" else ModelFile(weights, None, named(Linear))
    remedy = 'architecture="module:Class"' if what == "architecture" else "penstock models import"
    with pytest.raises(ModelLoadError, match=remedy):
        EagerBackend.open(file, BackendOptions(device="cpu", trust="code"))


def test_text_is_not_a_tensor(weights: Path) -> None:
    text = Signature((TensorSpec("x", "BYTES", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 2)),))
    with pytest.raises(UnsupportedFormat, match=r"m\.safetensors: x is of type BYTES"):
        EagerBackend.open(ModelFile(weights, text, named(Linear)), BackendOptions(device="cpu", trust="code"))


# --- the weights ----------------------------------------------------------------------------------------


def write(path: Path, state: Any) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer.bias": None}, r"do not fit Linear: missing layer\.bias$"),
        ({"layer.more": torch.zeros(1)}, r"do not fit Linear: unexpected layer\.more$"),
        ({"layer.bias": None, "bias": torch.zeros(2)}, r"do not fit Linear: missing layer\.bias; unexpected bias$"),
        ({"layer.bias": torch.zeros(7)}, r"do not fit Linear: size mismatch for layer\.bias: .*\[7\].*\[2\]"),
        (
            {f"extra{i}": torch.zeros(1) for i in range(9)},
            "unexpected extra0, extra1, extra2, extra3, extra4 and 4 more$",
        ),
    ],
    ids=["missing", "unexpected", "both", "shape", "many"],
)
def test_keys_that_do_not_fit_are_named(tmp_path: Path, suffix: str, change: dict[str, Any], says: str) -> None:
    state = {**Linear().state_dict(), **change}
    path = write(tmp_path / f"m{suffix}", {key: value for key, value in state.items() if value is not None})
    with pytest.raises(ModelLoadError, match=says) as caught:
        open_weights(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict"])
def test_the_weights_of_a_training_checkpoint_are_found(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "m.ckpt", {"epoch": 3, key: Linear().state_dict(), "optimizer": {"lr": 0.1}})
    assert open_weights(path).num_parameters == 8


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_under_two_names_are_loaded(tmp_path: Path, suffix: str) -> None:
    model, path = Tied(), tmp_path / f"m{suffix}"
    save_model(model, str(path)) if suffix == ".safetensors" else torch.save(model.state_dict(), path)
    file = ModelFile(path, signature((-1, 3), (-1, 3)), named(Tied))
    backend = EagerBackend.open(file, BackendOptions(device="cpu", trust="code"))
    assert backend.num_parameters == 9
    with torch.inference_mode():
        expected = model(torch.from_numpy(rows(2, 3)["x"])).numpy()
    np.testing.assert_allclose(backend.run(rows(2, 3))["y"], expected, rtol=1e-5)


@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, nested: bool) -> None:
    mark = tmp_path / "ran"
    evil: Any = Runs(str(mark))
    path = write(tmp_path / "m.pt", {**Linear().state_dict(), "evil": evil} if nested else evil)
    with pytest.raises(UnsupportedFormat, match=r"m\.pt: it holds more than weights \(posix\.mkdir\)") as caught:
        open_weights(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_a_plain_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "m.bin").write_bytes(pickle.dumps(Runs(str(mark)), protocol=2))
    with pytest.raises(ModelLoadError):
        open_weights(tmp_path / "m.bin")
    assert not mark.exists()


def test_a_pickled_model_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pth", nn.Linear(3, 2))
    with pytest.raises(UnsupportedFormat, match=r"save model\.state_dict\(\) as safetensors"):
        open_weights(path)


@pytest.mark.parametrize("content", [[1, 2], {"layer.weight": 3}, torch.zeros(3), {"state_dict": 5}, None])
def test_a_file_that_holds_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UnsupportedFormat, match="it has no state dict"):
        open_weights(write(tmp_path / "m.pt", content))


def test_weights_of_an_unknown_suffix_are_refused_with_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "m.h5").write_bytes(b"\x89HDF")
    with pytest.raises(UnsupportedFormat, match=r"m\.h5: weights are read from files named \.safetensors, \.pt"):
        open_weights(tmp_path / "m.h5")


def test_a_safetensors_file_under_a_pickle_suffix_is_damaged_and_not_guessed(weights: Path) -> None:
    renamed = weights.rename(weights.with_suffix(".pt"))
    with pytest.raises(IntegrityError, match=r"m\.pt: the file is damaged or not a PyTorch state dict"):
        open_weights(renamed)
