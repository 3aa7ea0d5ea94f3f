"""Quantization by pt2e and by NNCF: each run is slow, so that one run serves several tests."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import zoo
from recipe_models import DIGITS, answers, digits_artifact, digits_rows, furthest, materials, subject

from penstock.errors import InvalidInput, UnsupportedFormat
from penstock.toolchain.recipes.int8 import nncf, pt2e
from penstock.toolchain.recipes.int8.nncf import QuantizeNncf
from penstock.toolchain.recipes.int8.static import QuantizeStatic
from penstock.toolchain.recipes.making import Made, make
from penstock.toolchain.recipes.opening import subject_of
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.recipes.subject import Materials

NNCF = Recipe((QuantizeNncf(rows=128),), "openvino")
PT2E = Recipe((QuantizeStatic(engine="pt2e", rows=128),))


@pytest.fixture(scope="module", params=[NNCF, PT2E], ids=["nncf", "pt2e"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Made]:
    """The digits model quantized twice by one recipe."""
    digits = subject_of(digits_artifact())
    data = {"input": digits_rows("train").features}
    one, other = (
        make(request.param, digits, Materials(tmp_path_factory.mktemp(f"made{n}"), data=data)) for n in range(2)
    )
    return one, other


def test_digits_keep_their_accuracy(made: tuple[Made, Made]) -> None:
    rows = digits_rows()
    logits = answers(made[0].exported, {"input": rows.features})["logits"]
    assert (logits.argmax(axis=1) == rows.labels).sum() >= 357  # of 360, and of 358 in fp32
    assert made[0].exported.notes == ("4 of 4 quantizable operators run in int8",)
    assert made[0].exported.precision == "int8"


def test_the_same_recipe_gives_the_same_file(made: tuple[Made, Made]) -> None:
    assert made[0].digest == made[1].digest


def test_nncf_changes_nothing_in_the_process_that_uses_it(tmp_path: Path) -> None:
    code = f"""
import logging, pathlib, sys
import numpy as np
from penstock.artifacts.artifact import Artifact
from penstock.toolchain.recipes.int8.nncf import QuantizeNncf
from penstock.toolchain.recipes.subject import Materials, Subject
artifact = Artifact.open({str(DIGITS)!r})
subject = Subject("digits", artifact.signature, onnx=artifact.path / "variants/onnx-fp32/model.onnx")
data = {{"input": np.random.default_rng(0).random((32, 784), np.float32)}}
before = logging.getLoggerClass(), list(logging.root.handlers), logging.root.level
assert "nncf" not in sys.modules
QuantizeNncf(rows=32).apply(subject, Materials(pathlib.Path({str(tmp_path)!r}), data))
assert "nncf" in sys.modules and "openvino_telemetry" not in sys.modules
assert (logging.getLoggerClass(), list(logging.root.handlers), logging.root.level) == before
"""
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_operator_that_nncf_must_leave_out_is_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"quantize-nncf: exclude: the graph has no operator 'conv9'; it has .*Conv"):
        make(Recipe((QuantizeNncf(exclude=("conv9",)),), "openvino"), subject(zoo.CNN), materials(tmp_path, zoo.CNN))


def test_a_model_without_layers_is_refused_by_nncf(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="recipe: quantize-nncf: pair has no layers to quantize"):
        make(NNCF, subject(zoo.PAIR), materials(tmp_path, zoo.PAIR))


def test_a_result_of_nncf_is_for_openvino_only(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="recipe: the format onnx works on the ONNX file, and a technique before it"):
        make(Recipe((QuantizeNncf(rows=32),)), subject(zoo.CNN), materials(tmp_path, zoo.CNN))


def test_settings_that_pt2e_does_not_have_are_refused(tmp_path: Path) -> None:
    technique = QuantizeStatic(engine="pt2e", observer="entropy")
    with pytest.raises(InvalidInput, match='observer: engine = "pt2e" does not have this setting; leave it out'):
        make(Recipe((technique,)), subject(zoo.CNN, module=True), materials(tmp_path, zoo.CNN))


def test_pt2e_needs_the_module(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match='quantize-static with engine = "pt2e" changes the PyTorch module'):
        make(PT2E, subject(zoo.CNN), materials(tmp_path, zoo.CNN))


def test_a_module_without_layers_is_refused_by_pt2e(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="quantize-static: pair has no convolution or linear layer that pt2e quant"):
        make(PT2E, subject(zoo.PAIR, module=True), materials(tmp_path, zoo.PAIR))


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = nncf.importlib.util.find_spec
    monkeypatch.setattr(
        nncf.importlib.util, "find_spec", lambda name: None if name in ("nncf", "torchao") else find(name)
    )
    assert pt2e.importlib.util.find_spec("torchao") is None
    with pytest.raises(UnsupportedFormat, match=r"quantize-nncf needs nncf; pip install 'penstock\[nncf\]'"):
        make(NNCF, subject(zoo.CNN), materials(tmp_path, zoo.CNN))
    with pytest.raises(UnsupportedFormat, match=r"engine pt2e needs torchao; pip install 'penstock\[quantize\]'"):
        make(PT2E, subject(zoo.CNN, module=True), materials(tmp_path, zoo.CNN))


def test_other_networks_stay_close_under_nncf(tmp_path: Path) -> None:
    for model in (zoo.GRU, zoo.ENCODER):
        done = make(Recipe((QuantizeNncf(rows=32),), "openvino"), subject(model), materials(tmp_path, model))
        inputs = model.inputs(8, seed=5)
        assert 0 < furthest(answers(done.exported, inputs), model.expected(inputs)) < 0.06
    assert logging.getLoggerClass() is logging.Logger
