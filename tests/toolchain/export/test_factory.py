"""`module:factory` from the working directory, with its weights."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from penstock.errors import InvalidInput, ModelLoadError, PenstockError, Untrusted
from penstock.tensors import TensorSpec
from penstock.toolchain.export.factory import load_source

CODE = """
import torch
from torch import nn
import exportable_helper

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(width, 3)

    def forward(self, x):
        return self.layer(x)

def make():
    return Net()

def with_example():
    return Net(), torch.ones(2, 4)

def raises():
    value = 1
    raise ValueError("the data is gone")

def leaves():
    raise SystemExit(3)

def asks(width, depth):
    return Net(width)

def nothing():
    pass

def pair():
    return 1, 2

async def later():
    return Net()

def a_class():
    return Net

SOME = 3
READY = Net()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a user's module."""
    (tmp_path / "exportable_user.py").write_text(CODE)
    (tmp_path / "exportable_helper.py").write_text("")
    (tmp_path / "exportable_broken.py").write_text("import torch\n\nx = 1 / 0\n")
    (tmp_path / "exportable_syntax.py").write_text("def f(:\n")
    (tmp_path / "exportable_needs.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "exportable_reads.py").write_text("import torch\n\ntorch.no_such_thing\n")
    (tmp_path / "colorsys.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("exportable_") and name != "exportable_models"]:
        del sys.modules[name]


X = torch.ones(2, 4)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("target", ["make", "Net", "READY"])
def test_a_factory_a_class_or_a_module_is_found_in_the_working_directory(target: str) -> None:
    source = load_source(f"exportable_user:{target}", example=X)
    assert type(source.module).__name__ == "Net"
    assert source.name == "Net"


@pytest.mark.usefixtures("here")
def test_a_factory_may_return_its_example() -> None:
    assert load_source("exportable_user:with_example").example["x"].tolist() == X.tolist()
    assert load_source("exportable_user:with_example", example=2 * X).example["x"].tolist() == (2 * X).tolist()


@pytest.mark.usefixtures("here")
def test_inputs_that_are_described_need_no_example() -> None:
    source = load_source("exportable_user:make", inputs=(TensorSpec("x", "FP32", (-1, 4)),))
    assert source.example["x"].shape == (2, 4)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("exportable_user", "'exportable_user' names no model; give module:factory"),
        ("exportable_user:", "names no model; give module:factory"),
        ("exportable_usr:make", "there is no module exportable_usr, neither in"),
        ("exportable_user.more:make", "there is no module exportable_user.more"),
        ("exportable_user:mak", "the module exportable_user has no mak; did you mean make?"),
        ("exportable_user:raises", r"raises raised ValueError: the data is gone \(exportable_user.py, line 22\)"),
        ("exportable_user:leaves", "leaves raised SystemExit: 3"),
        ("exportable_user:asks", "asks asks for width, depth; name a function that takes no arguments"),
        ("exportable_user:nothing", "nothing returned None; it returns a torch.nn.Module"),
        ("exportable_user:pair", "pair returned a tuple; it returns"),
        ("exportable_user:later", "later returned a coroutine"),
        ("exportable_user:a_class", "a_class returned the class Net"),
        ("exportable_user:SOME", "SOME is a int, not a function or class"),
        ("exportable_broken:make", r"cannot be imported: ZeroDivisionError: division by zero .*broken.py, line 3\)"),
        ("exportable_syntax:make", r"cannot be imported: .* \(exportable_syntax.py, line 1\)"),
        ("exportable_needs:make", "it needs not_installed_anywhere, which is not installed"),
        ("exportable_reads:make", "cannot be imported: AttributeError: module 'torch' has no attribute"),
    ],
)
def test_what_is_no_factory_is_refused_in_one_sentence(target: str, says: str) -> None:
    with pytest.raises((InvalidInput, ModelLoadError), match=says) as caught:
        load_source(target, example=X)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("here")
def test_a_file_named_as_a_module_of_python_that_is_imported_already_is_named() -> None:
    import colorsys  # noqa: F401

    with pytest.raises(ModelLoadError, match=r"has the name of one that is imported already .*rename the file"):
        load_source("colorsys:make", example=X)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """Weights that fit."""
    return {"layer.weight": torch.full((3, 4), 0.5), "layer.bias": torch.zeros(3)}


def test_weights_come_from_safetensors_or_a_checkpoint(here: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, here / "w.safetensors")
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}, "epoch": 3}, here / "w.pt")
    for file in ("w.safetensors", "w.pt"):
        source = load_source("exportable_user:make", here / file, example=X)
        assert source.module.state_dict()["layer.weight"].tolist() == weights["layer.weight"].tolist()


def test_keys_that_do_not_match_are_named(here: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file({"layer.weight": weights["layer.weight"], "head.bias": torch.zeros(3)}, here / "w.safetensors")
    with pytest.raises(ModelLoadError, match=r"do not fit Net: missing layer.bias; unexpected head.bias") as caught:
        load_source("exportable_user:make", here / "w.safetensors", example=X)
    assert "\n" not in str(caught.value)
    save_file({**weights, "layer.bias": torch.zeros(7)}, here / "w.safetensors")
    with pytest.raises(ModelLoadError, match=r"size mismatch for layer.bias.*; the factory builds it with other sizes"):
        load_source("exportable_user:make", here / "w.safetensors", example=X)


def test_a_pickle_that_holds_more_than_weights_needs_trust(here: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save({"state_dict": weights, "args": Namespace(lr=1.0)}, here / "w.pt")
    with pytest.raises(Untrusted, match=r'it holds more than weights.*trust="code"'):
        load_source("exportable_user:make", here / "w.pt", example=X)
    source = load_source("exportable_user:make", here / "w.pt", example=X, trust="code")
    assert float(source.module.state_dict()["layer.weight"][0, 0]) == 0.5


def test_a_pickle_of_a_whole_module_needs_trust(here: Path) -> None:
    module = nn.ModuleDict({"layer": nn.Linear(4, 3)})
    torch.save(module, here / "w.pt")
    with pytest.raises(Untrusted):
        load_source("exportable_user:make", here / "w.pt", example=X)
    source = load_source("exportable_user:make", here / "w.pt", example=X, trust="code")
    assert torch.equal(source.module.state_dict()["layer.bias"], module["layer"].bias)


def test_weights_that_are_not_there_or_damaged_are_refused(here: Path) -> None:
    (here / "w.pt").write_bytes(b"no archive")
    for file, says in (("none.pt", "there is no file"), ("w.pt", "damaged")):
        with pytest.raises(PenstockError, match=says):
            load_source("exportable_user:make", here / file, example=X)
