"""`penstock optimize`: its exit codes, its JSON, and one sentence for what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searched_models import published, reference, rows

from penstock.registry.registry import Registry

Penstock = Callable[..., Any]


@pytest.fixture(autouse=True)
def model(tmp_path: Path) -> None:
    with Registry(tmp_path / "registry") as registry:
        published(registry, tmp_path / "source")
    x = rows()
    np.savez("calib.npz", x=x, y=reference(x).argmax(axis=1))
    Path("static.json").write_text(json.dumps({"format": "onnx", "techniques": [{"kind": "quantize-static"}]}))
    Path("same.toml").write_text('format = "onnx"\ntechniques = []\n')


def test_a_smaller_form_is_published_and_its_report_passes_the_check(penstock: Penstock) -> None:
    asked = ("optimize", "mlp", "--data", "calib.npz", "--labels", "y", "--target", "size", "--recipe", "static.json")
    done = penstock(
        *asked, "--max-accuracy-drop", "0.1", "--time-budget", "5m", "--version", "v2", "--report", "out", "--json"
    )
    assert done.code == 0, done.err
    document = done.json()
    assert (document["ref"], document["chosen"]) == ("mlp:v2", "onnx-int8-static")
    assert document["baseline"]["name"] == "onnx-fp32"
    assert document == json.loads(Path("out/report.json").read_text())
    assert Path("out/report.html").is_file()
    checked = penstock("optimize", "mlp:v2", "--check", "out/report.json", "--data", "calib.npz", "--labels", "y")
    assert checked.code == 0, checked.out
    assert checked.out.endswith("mlp:v2 is as its report says\n")
    document["published"]["variants"]["onnx-fp32"]["files"] = {"variants/onnx-fp32/model.onnx": "0" * 64}
    Path("out/report.json").write_text(json.dumps(document))
    failed = penstock("optimize", "mlp:v2", "--check", "out/report.json", "--json")
    assert failed.code == 1
    wrong = [finding for finding in failed.json()["findings"] if not finding["ok"]]
    assert [(finding["variant"], finding["what"]) for finding in wrong] == [("onnx-fp32", "files")]


def test_exit_code_3_says_that_nothing_is_better(penstock: Penstock) -> None:
    done = penstock("optimize", "mlp", "--data", "calib.npz", "--recipe", "same.toml", "--time-budget", "5m")
    assert done.code == 3, done.err
    assert done.out.endswith("nothing was published: nothing is better than onnx-fp32 of mlp:v1.0\n")
    assert "its file is the same as that of onnx-fp32" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--data", "nothing.npz"), "data: nothing.npz: there is no such file"),
        (("--data", "same.toml"), "same.toml cannot be read as an .npz file"),
        (("--data", "calib.npz", "--labels", "z"), "labels: the data has no array 'z'; it has x, y"),
        (("--target", "speed"), "target: 'speed' is not one of p99, throughput, size, memory"),
        (("--time-budget", "soon"), "time_budget: 'soon' is no time of at least 10 s"),
        (("--recipe", "nothing.json"), "recipe: nothing.json cannot be read"),
        (("--max-accuracy-drop", "7"), "max_accuracy_drop: 7.0 is no share from 0 to 1"),
        (("--check", "same.toml"), "check: same.toml cannot be read"),
    ],
)
def test_what_is_refused_is_one_sentence(penstock: Penstock, arguments: tuple[str, ...], sentence: str) -> None:
    done = penstock("optimize", "mlp", *arguments)
    assert done.code == 1
    assert sentence in done.err
    assert done.err.count("penstock: ") == 1
    assert "Traceback" not in done.err
