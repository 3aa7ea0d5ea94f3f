from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from penstock.backends.torch import architecture
from penstock.errors import ModelLoadError, UnsupportedFormat, Untrusted

MODEL = Path("m.safetensors")
CALLED: list[str] = []
"""What was called that must not be."""
BODY = """
from pathlib import Path
from torch import nn
Path(__file__).with_suffix(".ran").touch()
class Net(nn.Module): pass
"""


class NotAModule:
    def __init__(self) -> None:
        CALLED.append("NotAModule")


def factory() -> nn.Module:
    CALLED.append("factory")
    return nn.Identity()


instance = nn.Identity()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `someones_models` that writes a file when it is imported."""
    (tmp_path / "someones_models.py").write_text(BODY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(architecture, "_allowed", set())
    yield tmp_path / "someones_models.ran"
    sys.modules.pop("someones_models", None)


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """What is installed, as a list to add to."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(architecture, "entry_points", lambda group: [p for p in points if p.group == group])
    architecture._registered.cache_clear()
    yield points
    architecture._registered.cache_clear()


def test_an_unregistered_package_is_refused_before_it_is_imported(package: Path) -> None:
    with pytest.raises(Untrusted) as caught:
        architecture.build(MODEL, "someones_models:Net", {})
    assert not package.exists()
    assert "someones_models" not in sys.modules
    assert str(caught.value) == (
        "m.safetensors: the package someones_models of the architecture someones_models:Net is not registered for "
        "models (entry point group penstock.architectures), and importing it runs its code; register it, or allow "
        'this with trust="code"'
    )


@pytest.mark.parametrize("trust", ["code", "native"])
def test_a_model_that_may_run_code_may_name_any_package(package: Path, trust: str) -> None:
    assert isinstance(architecture.build(MODEL, "someones_models:Net", {}, trust=trust), nn.Module)
    assert package.exists()


def test_a_registered_package_is_imported(package: Path, entry_points: list[EntryPoint]) -> None:
    entry_points.append(EntryPoint("anything", "someones_models", "penstock.architectures"))
    assert isinstance(architecture.build(MODEL, "someones_models:Net", {}), nn.Module)


def test_a_package_registered_for_something_else_is_not(package: Path, entry_points: list[EntryPoint]) -> None:
    entry_points.append(EntryPoint("anything", "someones_models", "console_scripts"))
    with pytest.raises(Untrusted):
        architecture.build(MODEL, "someones_models:Net", {})


def test_a_package_can_be_allowed_in_this_process(package: Path) -> None:
    architecture.allow("someones_models")
    assert isinstance(architecture.build(MODEL, "someones_models:Net", {}), nn.Module)


def test_the_digits_model_is_registered() -> None:
    assert isinstance(architecture.build(MODEL, "penstock_digits.model:DigitsCNN", {}), nn.Module)


def test_the_standard_library_is_refused_with_every_trust(entry_points: list[EntryPoint]) -> None:
    entry_points.append(EntryPoint("anything", "os", "penstock.architectures"))
    with pytest.raises(UnsupportedFormat, match=r"is not a class of torch\.nn\.Module"):
        architecture.build(MODEL, "os:system", {}, trust="native")


def test_a_class_itself_needs_no_registration() -> None:
    assert architecture.build(MODEL, nn.Linear, {"in_features": 2, "out_features": 3}).out_features == 3


@pytest.mark.parametrize("wrong", [dict, Path])
def test_a_class_that_is_not_a_module_is_refused(wrong: Any) -> None:
    with pytest.raises(UnsupportedFormat, match=rf"the architecture {wrong.__name__} is not a class of torch\.nn\.Mod"):
        architecture.build(MODEL, wrong, {})


def test_recorded_arguments_are_used_where_the_class_takes_them() -> None:
    recorded = {"out_features": 3, "lr": 0.1, "in_features": 9}
    model = architecture.build(MODEL, nn.Linear, {"in_features": 2}, recorded=recorded)
    assert (model.in_features, model.out_features) == (2, 3)


def test_arguments_the_caller_gives_must_be_taken() -> None:
    with pytest.raises(ModelLoadError, match="Linear could not be built with the arguments"):
        architecture.build(MODEL, nn.Linear, {"lr": 1}, recorded={"in_features": 2, "out_features": 3})


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "subprocess:Popen",
        "builtins:exec",
        "antigravity:fly_hash",
        "torch:load",
        "torch.nn:functional",
        "numpy:ndarray",
        "torch.nn:NoSuchLayer",
        "torch.nn:Linear.no_such_attribute",
        "no_such_package.models:Net",
        "torch.no_such_module:Net",
        "",
        ":",
        "torch.nn.Linear",
        "torch.nn:Linear:x",
        "torch.nn:",
        ":Linear",
        "../model:Net",
        "/tmp/model.py:Net",
        "torch nn:Linear",
        "torch.nn:Linear()",
        "torch.nn:Linear\n",
        f"{__name__}:NotAModule",
        f"{__name__}:factory",
        f"{__name__}:instance",
    ],
)
def test_a_target_that_is_not_a_module_class_is_refused_and_never_called(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    CALLED.clear()
    for module, function in ((os, "system"), (subprocess, "Popen"), (torch, "load")):
        monkeypatch.setattr(module, function, lambda *_, **__: CALLED.append("a tripwire"))
    with pytest.raises(UnsupportedFormat) as caught:
        architecture.build(MODEL, name, {}, trust="code")
    assert not CALLED
    assert str(caught.value).startswith("m.safetensors: ")
    assert "\n" not in str(caught.value)


def test_a_standard_library_module_is_not_even_imported() -> None:
    sys.modules.pop("antigravity", None)
    with pytest.raises(UnsupportedFormat, match=r"not a class of torch\.nn\.Module"):
        architecture.build(MODEL, "antigravity:fly_hash", {}, trust="code")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import not_installed_here", "not_installed_here, which is not installed"),
        ("1 / 0", "division"),
        ("exit(3)", "3"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    (tmp_path / "broken_model.py").write_text(f"{body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_model", raising=False)
    with pytest.raises(ModelLoadError, match=f"the .*architecture broken_model:Net .*{says}"):
        architecture.build(MODEL, "broken_model:Net", {}, trust="code")


def test_a_registered_package_gives_no_access_to_classes_of_others(package: Path) -> None:
    architecture.allow("someones_models")
    with pytest.raises(Untrusted, match=r"someones_models:nn\.Linear is a class of the package torch, which"):
        architecture.build(MODEL, "someones_models:nn.Linear", {"in_features": 1, "out_features": 1})
    built = architecture.build(MODEL, "someones_models:nn.Linear", {"in_features": 1, "out_features": 1}, trust="code")
    assert isinstance(built, nn.Linear)
