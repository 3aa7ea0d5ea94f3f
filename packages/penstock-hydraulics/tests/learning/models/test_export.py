from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch

from penstock_hydraulics.learning.models.export import ATOL, example_inputs, onnx_answers
from penstock_hydraulics.learning.models.gnn import OUTPUTS, Diagnosis
from penstock_hydraulics.learning.training import saved_model
from penstock_hydraulics.signals.features import INPUTS


@pytest.fixture
def exported(training) -> tuple[Diagnosis, Path]:
    """The trained networks, and their exported file."""
    torch.set_num_threads(1)
    return saved_model.read(training.out).diagnosis(), training.out / saved_model.MODEL


@pytest.mark.parametrize(("batch", "nodes"), [(1, 8), (1, 1), (32, 8), (7, 16), (2, 64)])
def test_the_graph_agrees_with_pytorch_for_any_batch_and_number_of_components(exported, batch, nodes):
    diagnosis, path = exported
    inputs = example_inputs(batch, nodes, seed=9)
    with torch.inference_mode():
        wanted = diagnosis(*inputs)
    found = onnx_answers(path, {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)})
    for name, value in zip(OUTPUTS, wanted, strict=True):
        assert found[name] == pytest.approx(value.numpy(), abs=ATOL)


def test_only_batch_and_nodes_are_dynamic(exported):
    graph = onnx.load(exported[1]).graph
    shapes = {
        value.name: [part.dim_param or part.dim_value for part in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes["signals"] == ["batch", "nodes", 7, 60]
    assert shapes["adjacency"] == ["batch", "nodes", "nodes"]
    assert shapes["kinds"] == ["batch", "nodes"]
    assert shapes["levels"] == ["batch", "nodes", 14]
    assert shapes["health"] == ["batch"]


def test_the_file_contains_no_paths_of_the_build_machine(exported):
    content = exported[1].read_bytes()
    assert b"site-packages" not in content
    assert b"/home" not in content
    assert b".py" not in content


def test_serving_imports_neither_torch_nor_scikit_learn():
    modules = ("task", "routes", "engine", "fleet.fleet", "simulator", "learning.data.recordings", "cli.main")
    code = f"import sys, {', '.join(f'penstock_hydraulics.{module}' for module in modules)}\n"
    code += "print([name for name in ('torch', 'sklearn', 'onnx') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
