"""`penstock models import` and `export` with directories of MLflow, which real MLflow wrote or loads."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear_models import weights
from mlflow_models import mlflow, mlflow_directories, mlp, quietly
from networks import Mlp, TwoInputs
from safetensors.torch import save_file

__all__ = ["mlflow", "mlflow_directories", "mlp"]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
Penstock = Callable[..., Any]
ROWS = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)


@pytest.fixture
def directory(mlflow_directories: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a directory that MLflow wrote, below the working directory."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(mlflow_directories / name, tmp_path / f"run-{name}"))

    return copied


def refused(done: Any, *parts: str) -> None:
    assert (done.code, done.out) == (1, ""), done
    assert (done.err.startswith("penstock: "), done.err.count("\n")) == (True, 1), done.err
    assert [part for part in parts if part not in done.err] == [], done.err


def answers(penstock: Penstock, ref: str) -> np.ndarray:
    (name,) = (one["name"] for one in shown(penstock, ref)["signature"]["inputs"])
    given = json.dumps({"inputs": {name: ROWS.tolist()}}).encode()
    done = penstock("predict", ref, "-", "--task", "tensor", stdin=given)
    assert done.code == 0, done.err
    (output,) = json.loads(done.out)["outputs"].values()
    return np.asarray(output, np.float32)


def shown(penstock: Penstock, ref: str) -> Any:
    return penstock("models", "show", ref, "--json").json()["manifest"]


# Import


@pytest.mark.parametrize("kind", ["pt2", "torchscript", "pickle"])
def test_a_pytorch_directory_is_imported_with_its_signature_if_trusted(
    penstock: Penstock, directory: Callable[[str], Path], mlp: Mlp, kind: str
) -> None:
    path = directory(kind)
    refused(penstock("models", "import", path, "--name", "net"), "--trust code")
    assert penstock("models", "list", "--json").json()["models"] == []
    done = penstock("models", "import", path, "--name", "net", "--trust", "code")
    assert done.code == 0, done.err
    manifest = shown(penstock, "net")
    assert manifest["signature"]["inputs"][0]["shape"] == [-1, 4]
    assert manifest["lineage"]["mlflow"]["flavor"] == "pytorch"
    assert manifest["lineage"]["mlflow"]["model_uuid"]
    assert manifest["golden"]["rows"] == 3  # the input example of MLflow
    np.testing.assert_allclose(answers(penstock, "net"), mlp(torch.from_numpy(ROWS)).detach(), rtol=1e-4, atol=1e-5)


def test_an_onnx_directory_needs_no_trust(penstock: Penstock, directory: Callable[[str], Path]) -> None:
    done = penstock("models", "import", directory("onnx"), "--name", "net")
    assert done.code == 0, done.err
    assert shown(penstock, "net")["golden"]["rows"] == 3
    np.testing.assert_allclose(answers(penstock, "net"), ROWS @ weights(0), rtol=1e-4, atol=1e-5)


def test_a_state_dict_of_mlflow_needs_the_class_that_it_fills(
    penstock: Penstock, directory: Callable[[str], Path], mlp: Mlp
) -> None:
    path = directory("pickle")
    (path / "data" / "model.pth").unlink()
    torch.save(mlp.state_dict(), path / "data" / "state_dict.pth")
    refused(penstock("models", "import", path, "--trust", "code"), "--architecture")
    arguments = ("--architecture", "networks:Mlp", "--architecture-args", '{"features": 4, "classes": 3}')
    done = penstock("models", "import", path, *arguments, "--trust", "code", "--name", "net")
    assert done.code == 0, done.err
    np.testing.assert_allclose(answers(penstock, "net"), mlp(torch.from_numpy(ROWS)).detach(), rtol=1e-4, atol=1e-5)


def test_what_the_user_says_comes_before_what_mlflow_recorded(
    penstock: Penstock, directory: Callable[[str], Path]
) -> None:
    path = directory("torchscript")
    done = penstock("models", "import", path, "--input", "rows:FP32:-1x4", "--trust", "code", "--name", "net")
    assert done.code == 0, done.err
    assert shown(penstock, "net")["signature"]["inputs"][0]["name"] == "rows"
    assert shown(penstock, "net")["golden"]["rows"] == 8


def test_an_example_that_does_not_fit_is_left_out(penstock: Penstock, directory: Callable[[str], Path]) -> None:
    path = directory("onnx")
    (path / "input_example.json").write_text('{"x": [[1.0, 2.0]]}')
    assert penstock("models", "import", path, "--name", "net").code == 0
    assert shown(penstock, "net")["golden"]["rows"] == 8


@pytest.fixture
def with_code(mlflow: Any, tmp_path: Path) -> Path:
    """A module that MLflow pickled with the file of its class, which is importable nowhere else."""
    code = tmp_path / "mlflow_own_net.py"
    code.write_text(
        "import torch\n\nclass OwnNet(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.out = torch.nn.Linear(4, 3)\n"
        "    def forward(self, x):\n        return self.out(x)\n"
    )
    sys.path.append(str(tmp_path))
    try:
        from mlflow.models import infer_signature

        net = importlib.import_module("mlflow_own_net").OwnNet().eval()
        signature = infer_signature(ROWS, net(torch.from_numpy(ROWS)).detach().numpy())
        quietly(mlflow.pytorch.save_model, net, tmp_path / "own", code_paths=[str(code)], signature=signature,
                input_example=ROWS, serialization_format="pickle", pip_requirements=["torch"])  # fmt: skip
        np.save(tmp_path / "expected.npy", net(torch.from_numpy(ROWS)).detach().numpy())
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["mlflow_own_net"]
    code.unlink()
    return tmp_path / "own"


def test_a_pickle_with_its_own_code_becomes_forms_that_need_neither(penstock: Penstock, with_code: Path) -> None:
    refused(penstock("models", "import", with_code, "--name", "net"), "trust")
    assert penstock("models", "list", "--json").json()["models"] == []
    done = penstock("models", "import", with_code, "--name", "net", "--trust", "code")
    assert done.code == 0, done.err
    shutil.rmtree(with_code)
    sys.modules.pop("mlflow_own_net", None)
    assert [variant["format"] for variant in shown(penstock, "net")["variants"]] == ["onnx", "pt2"]
    assert shown(penstock, "net")["lineage"]["mlflow"]["flavor"] == "pytorch"
    np.testing.assert_allclose(answers(penstock, "net"), np.load("expected.npy"), rtol=1e-4, atol=1e-5)


def edit(path: Path, old: str, new: str) -> None:
    text = (path / "MLmodel").read_text()
    assert old in text
    (path / "MLmodel").write_text(text.replace(old, new))


BROKEN: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "no model file": ("onnx", lambda path: (path / "model.onnx").unlink(), ("model.onnx", "missing")),
    "no data": ("pt2", lambda path: shutil.rmtree(path / "data"), ("model.pt2", "data")),
    "another flavor": ("onnx", lambda path: edit(path, "  onnx:", "  sklearn:"), ("sklearn", "onnx and pytorch")),
    "no flavors": ("onnx", lambda path: (path / "MLmodel").write_text("a: 1\n"), ("MLmodel", "names no flavors")),
    "not YAML": ("onnx", lambda path: (path / "MLmodel").write_text("a: [1\n"), ("MLmodel", "not YAML")),
    "no mapping": ("onnx", lambda path: (path / "MLmodel").write_text("- 1\n"), ("MLmodel", "not a YAML mapping")),
    "bytes": ("onnx", lambda path: (path / "MLmodel").write_bytes(b"\xff\x00"), ("MLmodel", "not UTF-8")),
    "a path outside": ("onnx", lambda path: edit(path, "data: model.onnx", "data: ../m.onnx"), ("not a path inside",)),
    "an absolute path": ("onnx", lambda path: edit(path, "data: model.onnx", "data: /m.onnx"), ("not a path inside",)),
    "a code object": (
        "onnx",
        lambda path: (path / "MLmodel").write_text("flavors: !!python/object/apply:os.getcwd []\n"),
        ("MLmodel", "not YAML"),
    ),
    "no signature": (
        "torchscript",
        lambda path: (path / "MLmodel").write_text("flavors:\n  pytorch: {model_data: data}\n"),
        ("no signature of tensors", "--input"),
    ),
    "a type of its own": ("torchscript", lambda path: edit(path, "float32", "complex64"), ("complex64",)),
    "an unknown type": ("torchscript", lambda path: edit(path, "float32", "float33"), ("signature cannot be read",)),
    "a truncated model": (
        "onnx", lambda path: (path / "model.onnx").write_bytes((path / "model.onnx").read_bytes()[:60]), ("model.onnx",)
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_directory_is_one_sentence_and_publishes_nothing(
    penstock: Penstock, directory: Callable[[str], Path], fault: str
) -> None:
    kind, damage, said = BROKEN[fault]
    path = directory(kind)
    damage(path)
    refused(penstock("models", "import", path, "--trust", "code"), *said)
    assert penstock("models", "list", "--json").json()["models"] == []


def test_a_model_file_that_is_a_link_out_of_the_directory_is_refused(
    penstock: Penstock, directory: Callable[[str], Path]
) -> None:
    path = directory("onnx")
    (path / "model.onnx").rename(path.parent / "elsewhere.onnx")
    (path / "model.onnx").symlink_to(path.parent / "elsewhere.onnx")
    refused(penstock("models", "import", path), "leaves the directory")


# Export


def test_a_version_with_an_onnx_variant_is_loaded_by_plain_mlflow(penstock: Penstock, onnx_file: Path,
                                                                   mlflow: Any) -> None:  # fmt: skip
    import pandas

    assert penstock("models", "import", onnx_file, "--name", "net").code == 0
    done = penstock("models", "export", "net", "out", "--json").json()
    assert (done["flavor"], done["variant"], done["ref"]) == ("onnx", "onnx-fp32", "net:v1.0")
    model = quietly(mlflow.pyfunc.load_model, "out")
    np.testing.assert_allclose(model.predict({"x": ROWS})["logits"], ROWS @ weights(0), rtol=1e-5)
    frame = pandas.DataFrame({"x": [list(row) for row in ROWS]})
    np.testing.assert_allclose(model.predict(frame)["logits"], ROWS @ weights(0), rtol=1e-5)
    assert [(one.name, one.type, one.shape) for one in model.metadata.signature.inputs] == [
        ("x", np.dtype("float32"), (-1, 4))
    ]
    assert model.input_example["x"].shape == (2, 4)
    assert model.metadata.metadata["penstock"]["ref"] == "net:v1.0"
    assert quietly(mlflow.onnx.load_model, "out").graph.name == "linear"
    with pytest.raises(mlflow.exceptions.MlflowException, match="Shape of input"):
        model.predict({"x": ROWS[:, :3]})


def test_what_was_exported_is_imported_again_with_the_same_content(penstock: Penstock, onnx_file: Path) -> None:
    assert penstock("models", "import", onnx_file, "--name", "net").code == 0
    assert penstock("models", "export", "net", "out").code == 0
    assert penstock("models", "import", "out", "--name", "again").code == 0
    first, second = shown(penstock, "net"), shown(penstock, "again")
    assert first["signature"] == second["signature"]
    assert first["variants"][0]["files"][0]["sha256"] == second["variants"][0]["files"][0]["sha256"]


def test_a_program_is_loaded_by_mlflow_without_any_pickle(
    penstock: Penstock, directory: Callable[[str], Path], mlp: Mlp, mlflow: Any
) -> None:
    assert penstock("models", "import", directory("pt2"), "--name", "net", "--trust", "code").code == 0
    assert penstock("models", "export", "net", "out", "--json").json()["flavor"] == "pytorch"
    expected = mlp(torch.from_numpy(ROWS)).detach().numpy()
    loaded = quietly(mlflow.pytorch.load_model, "out")
    np.testing.assert_allclose(loaded(torch.from_numpy(ROWS)).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    model = quietly(mlflow.pyfunc.load_model, "out")
    np.testing.assert_allclose(model.predict(ROWS), expected, rtol=1e-5, atol=1e-6)


def test_weights_are_exported_to_a_program_that_mlflow_loads(penstock: Penstock, mlp: Mlp, mlflow: Any) -> None:
    save_file(mlp.state_dict(), "weights.safetensors")
    arguments = ("--architecture", "networks:Mlp", "--architecture-args", '{"features": 4, "classes": 3}')
    assert penstock("models", "import", "weights.safetensors", *arguments, "--input", "x:FP32:-1x4", "--trust", "code",
                    "--name", "net").code == 0  # fmt: skip
    done = penstock("models", "export", "net", "out", "--json").json()
    assert (done["flavor"], done["variant"]) == ("pytorch", "pytorch-fp32")
    assert "exported to a program" in done["notes"][0]
    loaded = quietly(mlflow.pytorch.load_model, "out")
    expected = mlp(torch.from_numpy(ROWS)).detach()
    torch.testing.assert_close(loaded(torch.from_numpy(ROWS)).detach(), expected)


def test_torchscript_is_loaded_by_mlflow_where_it_may_unpickle(
    penstock: Penstock, directory: Callable[[str], Path], mlp: Mlp, mlflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert penstock("models", "import", directory("torchscript"), "--name", "net", "--trust", "code").code == 0
    done = penstock("models", "export", "net", "out")
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=true" in done.out
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    loaded = quietly(mlflow.pytorch.load_model, "out")
    expected = mlp(torch.from_numpy(ROWS)).detach()
    torch.testing.assert_close(loaded(torch.from_numpy(ROWS)).detach(), expected)


def test_a_plain_export_gives_the_files_back(penstock: Penstock, onnx_file: Path, mlp: Mlp) -> None:
    content = onnx_file.read_bytes()
    assert penstock("models", "import", onnx_file, "--name", "net").code == 0
    done = penstock("models", "export", "net", "plain", "--plain", "--json").json()
    assert done["files"] == ["model.onnx"]
    assert Path("plain/model.onnx").read_bytes() == content
    assert [path.name for path in Path("plain").iterdir()] == ["model.onnx"]
    save_file(mlp.state_dict(), "weights.safetensors")
    arguments = ("--architecture", "networks:Mlp", "--architecture-args", '{"features": 4, "classes": 3}')
    assert penstock("models", "import", "weights.safetensors", *arguments, "--input", "x:FP32:-1x4", "--trust", "code",
                    "--name", "mlp").code == 0  # fmt: skip
    done = penstock("models", "export", "mlp", "weights", "--plain", "--variant", "pytorch-fp32")
    assert "networks:Mlp" in done.out
    assert "--input x:FP32:-1x4" in done.out
    assert Path("weights/model.safetensors").read_bytes() == Path("weights.safetensors").read_bytes()


def test_external_data_stays_beside_its_model(penstock: Penstock, onnx_file: Path, mlflow: Any) -> None:
    import onnx

    Path("big").mkdir()
    onnx.save_model(onnx.load(onnx_file), "big/big.onnx", save_as_external_data=True, location="w.bin",
                    size_threshold=0)  # fmt: skip
    assert penstock("models", "import", "big/big.onnx", "--name", "net").code == 0
    assert penstock("models", "export", "net", "out").code == 0
    model = quietly(mlflow.pyfunc.load_model, "out")
    np.testing.assert_allclose(model.predict({"x": ROWS})["logits"], ROWS @ weights(0), rtol=1e-5)


def test_an_export_never_writes_over_anything(penstock: Penstock, published: str) -> None:
    Path("taken").mkdir()
    Path("taken/notes.txt").write_text("mine")
    refused(penstock("models", "export", published, "taken"), "taken", "exists")
    Path("file").write_text("mine")
    refused(penstock("models", "export", published, "file"), "file", "exists")
    assert [path.name for path in Path("taken").iterdir()] == ["notes.txt"]
    Path("empty").mkdir()
    assert penstock("models", "export", published, "empty").code == 0


def test_a_refused_export_leaves_nothing(penstock: Penstock, published: str) -> None:
    before = sorted(path.name for path in Path.cwd().iterdir())
    refused(penstock("models", "export", published, "out", "--variant", "onnx-int4"), "onnx-int4", "onnx-fp32")
    refused(penstock("models", "export", "unknown", "out"), "unknown")
    Path("registry/linear/v1.0/variants/onnx-fp32/model.onnx").write_bytes(b"altered")
    refused(penstock("models", "export", "linear:v1.0", "out"), "model.onnx")
    assert sorted(path.name for path in Path.cwd().iterdir()) == before


def test_models_of_several_inputs_keep_their_names(penstock: Penstock, mlflow: Any) -> None:
    batch = torch.export.Dim("batch")
    example = (torch.zeros(2, 4), torch.zeros(2, 4))
    program = torch.export.export(TwoInputs().eval(), example, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, "two.pt2")
    assert penstock("models", "import", "two.pt2", "--trust", "code").code == 0
    assert penstock("models", "export", "two", "out").code == 0
    info = quietly(mlflow.models.get_model_info, "out")
    assert [one.name for one in info.signature.inputs] == ["left", "right"]
    assert "python_function" not in info.flavors  # MLflow's wrapper of PyTorch passes one array on
