from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_forms
import zoo
from torch import nn

from penstock.backends.base import BackendOptions, ModelFile
from penstock.backends.torch.exported import ExportedBackend
from penstock.errors import InferenceError, IntegrityError, ModelLoadError, UnsupportedFormat
from penstock.scan.scanner import kind_of_file
from penstock.tensors import Signature, TensorSpec

FREE = torch.export.Dim.DYNAMIC


class Named(nn.Module):
    """Two inputs by place, one by keyword, and outputs by name."""

    def forward(self, left: torch.Tensor, right: torch.Tensor, *, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"second": left * scale, "first": left - right}


class Listed(nn.Module):
    def forward(self, pair: list[torch.Tensor]) -> torch.Tensor:
        return pair[0] + pair[1]


class Runs:
    """A pickle that creates a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small MLP."""
    return torch_forms.write_pt2(zoo.MLP, tmp_path_factory.mktemp("pt2") / "mlp.pt2")


def save(model: nn.Module, arguments: tuple[Any, ...], path: Path, free: Any, **keywords: torch.Tensor) -> Path:
    torch.export.save(torch.export.export(model.eval(), arguments, keywords, dynamic_shapes=free), path)
    return path


def open_program(path: Path, signature: Signature | None = None, **options: Any) -> ExportedBackend:
    return ExportedBackend.open(ModelFile(path, signature), BackendOptions(**{"device": "cpu", **options}))


def specs(*tensors: tuple[str, str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(*tensor) for tensor in tensors)


def short(spec: TensorSpec) -> tuple[str, str, tuple[int, ...]]:
    return spec.name, spec.dtype, spec.shape


# --- the signature --------------------------------------------------------------------------------------


def test_a_bare_program_records_its_signature(program: Path) -> None:
    signature = open_program(program).signature
    assert [short(spec) for spec in signature.inputs] == [("x", "FP32", (-1, 12))]
    assert [short(spec) for spec in signature.outputs] == [("output", "FP32", (-1, 5))]


def test_inputs_by_keyword_and_outputs_by_name_keep_their_names(tmp_path: Path) -> None:
    left, right, scale = torch.ones(3, 3, 2).unbind()  # one tensor given twice would be exported as one
    free = {name: {0: FREE} for name in ("left", "right", "scale")}
    backend = open_program(save(Named(), (left, right), tmp_path / "named.pt2", free, scale=scale))
    assert [spec.name for spec in backend.signature.inputs] == ["left", "right", "scale"]
    assert [spec.name for spec in backend.signature.outputs] == ["second", "first"]
    inputs = {name: np.full((1, 2), value, np.float32) for name, value in (("scale", 5), ("right", 1), ("left", 2))}
    outputs = backend.run(inputs)
    np.testing.assert_array_equal(outputs["second"], [[10, 10]])
    np.testing.assert_array_equal(outputs["first"], [[1, 1]])


def test_a_manifest_may_name_inputs_otherwise_and_they_are_given_by_place(program: Path) -> None:
    signature = Signature(specs(("features", "FP32", (-1, 12))), specs(("logits", "FP32", (-1, 5))))
    inputs = zoo.MLP.inputs(3)
    answer = open_program(program, signature).run({"features": inputs["x"]})
    np.testing.assert_allclose(answer["logits"], zoo.MLP.expected(inputs)["logits"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "outputs", "says"),
    [
        ([("x", "FP32", (-1, 13))], [("y", "FP32", (-1, 5))], r"the inputs are x FP32 \[-1, 13\]; the file has x FP32"),
        ([("x", "INT64", (-1, 12))], [("y", "FP32", (-1, 5))], r"the inputs are x INT64"),
        ([("x", "FP32", (-1, -1))], [("y", "FP32", (-1, 5))], r"the inputs are x FP32 \[-1, -1\]"),
        ([("x", "FP32", (-1, 12))], [("y", "INT64", (-1,))], r"the outputs are y INT64 \[-1\]; the file has output"),
    ],
)
def test_a_manifest_that_does_not_fit_the_program_is_refused_with_both(
    program: Path, inputs: list[Any], outputs: list[Any], says: str
) -> None:
    with pytest.raises(ModelLoadError, match=says):
        open_program(program, Signature(specs(*inputs), specs(*outputs)))


def test_tensors_inside_an_argument_are_inputs_of_their_own(tmp_path: Path) -> None:
    pair = list(torch.ones(2, 3, 2).unbind())
    backend = open_program(save(Listed(), (pair,), tmp_path / "listed.pt2", ([{0: FREE}, {0: FREE}],)))
    one, two = (spec.name for spec in backend.signature.inputs)
    answer = backend.run({one: np.ones((1, 2), np.float32), two: np.full((1, 2), 2, np.float32)})
    np.testing.assert_array_equal(answer["output"], [[3, 3]])


def test_a_batch_above_what_the_program_was_exported_for_is_an_inference_error(tmp_path: Path) -> None:
    path = save(nn.Linear(3, 2), (torch.ones(2, 3),), tmp_path / "m.pt2", ({0: torch.export.Dim("rows", max=4)},))
    backend = open_program(path)
    assert backend.run({"input": np.ones((4, 3), np.float32)})["output"].shape == (4, 2)
    with pytest.raises(InferenceError):
        backend.run({"input": np.ones((5, 3), np.float32)})


def test_a_precision_it_was_not_exported_in_is_answered_with_a_warning(program: Path) -> None:
    (warning,) = open_program(program, precision="bf16").warnings
    assert warning == "bf16 was requested, but an exported program keeps the precision of its export"


# --- archives that would run code ------------------------------------------------------------------------

Change = Callable[[dict[str, bytes]], None]


@pytest.fixture
def crafted(program: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """The valid archive with changed members."""

    def craft(change: Change) -> Path:
        with zipfile.ZipFile(program) as archive:
            members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        change(members)
        path = tmp_path / "crafted.pt2"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(f"mlp/{name}", content)
        return path

    return craft


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A directory that must not exist at the end of the test."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


def nothing(_: dict[str, bytes]) -> None:
    """The harmless counterpart of all that follow."""


def test_the_archive_rewritten_as_it_was_still_answers(crafted: Any) -> None:
    inputs = zoo.MLP.inputs(2)
    answer = open_program(crafted(nothing), zoo.MLP.signature).run(inputs)
    np.testing.assert_allclose(answer["logits"], zoo.MLP.expected(inputs)["logits"], rtol=1e-4, atol=1e-6)


def test_example_inputs_are_never_unpickled(crafted: Any, mark: Path) -> None:
    path = crafted(lambda members: members.update({"data/sample_inputs/model.pt": pickle.dumps(Runs(mark))}))
    open_program(path, zoo.MLP.signature).run(zoo.MLP.inputs(2))


def config(members: dict[str, bytes], name: str) -> dict[str, Any]:
    return json.loads(members[f"data/{name}/model_{name}_config.json"])


def rewrite(members: dict[str, bytes], name: str, content: dict[str, Any]) -> None:
    members[f"data/{name}/model_{name}_config.json"] = json.dumps(content).encode()


@pytest.mark.parametrize("prefix", ["opaque_obj", "custom_obj"])
def test_an_object_among_the_constants_is_refused(crafted: Any, mark: Path, prefix: str) -> None:
    def change(members: dict[str, bytes]) -> None:
        members[f"data/constants/{prefix}_0"] = pickle.dumps(Runs(mark))
        entry = {"path_name": f"{prefix}_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        rewrite(members, "constants", {"config": {"evil": entry}})

    with pytest.raises(UnsupportedFormat, match=rf"it holds 'data/constants/{prefix}_0'"):
        open_program(crafted(change))


def test_an_object_under_the_name_of_a_tensor_is_refused(crafted: Any, mark: Path) -> None:
    def change(members: dict[str, bytes]) -> None:
        weights = config(members, "weights")
        name, entry = next(iter(weights["config"].items()))
        entry["use_pickle"] = True
        members[f"data/weights/{entry['path_name']}"] = pickle.dumps(Runs(mark))
        rewrite(members, "weights", {"config": {**weights["config"], name: entry}})

    with pytest.raises(UnsupportedFormat, match="is an object, not a plain tensor; it is not unpickled"):
        open_program(crafted(change))


@pytest.mark.parametrize("name", ["data/weights/model.pt", "data/constants/model.pt", "models/other.json", "evil.py"])
def test_a_member_that_is_not_part_of_a_plain_program_is_refused(crafted: Any, mark: Path, name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"it holds {name!r}, which is not part of a plain program"):
        open_program(crafted(lambda members: members.update({name: pickle.dumps(Runs(mark))})))


def test_native_code_is_not_opened_as_a_program(crafted: Any) -> None:
    path = crafted(lambda members: members.update({"data/aotinductor/model/m.wrapper.so": b"\x7fELF"}))
    with pytest.raises(UnsupportedFormat, match="it holds native code; its format is aoti, not pt2"):
        open_program(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff" * 9, b'{"config": 5}', b"[" * 100_000])
@pytest.mark.parametrize("name", ["models/model.json", "data/weights/model_weights_config.json"])
def test_descriptions_that_are_none_are_refused_in_one_line(crafted: Any, name: str, content: bytes) -> None:
    path = crafted(lambda members: members.update({name: content}))
    with pytest.raises(ModelLoadError) as caught:
        open_program(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_an_archive_of_another_kind_is_not_a_program(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt2"
    torch.save({"x": torch.ones(2)}, path)
    with pytest.raises(IntegrityError, match=r"the file is damaged or not a \.pt2 program"):
        open_program(path)


def test_archives_are_distinguished_by_their_members(program: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    torch.save({"x": torch.ones(2)}, weights)
    trace = torch_forms.write_trace(zoo.MLP, tmp_path / "m.pt")
    (tmp_path / "text.pt").write_text("no archive")
    found = [kind_of_file(path) for path in (program, trace, weights, tmp_path / "text.pt", tmp_path / "absent")]
    assert found == ["pt2", "torchscript", "checkpoint", "pickle", None]


class Halves(nn.Module):
    """A branch on the values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x / 2, (x,))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "lengths", "plain"),
    [(nn.Linear(4, 3), {0: FREE}, True), (nn.Linear(4, 3), {0: FREE, 1: FREE}, False), (Halves(), {0: FREE}, False)],
)
def test_only_a_program_without_branches_and_of_fixed_lengths_has_a_known_cost(
    tmp_path: Path, module: nn.Module, lengths: dict[int, Any], plain: bool
) -> None:
    shape = (2, 3, 4) if len(lengths) > 1 else (2, 4)
    program = torch.export.export(module.eval(), (torch.zeros(shape),), dynamic_shapes=(lengths,))
    torch.export.save(program, tmp_path / "program.pt2")
    backend = ExportedBackend.open(ModelFile(tmp_path / "program.pt2"), BackendOptions())
    assert backend.cost_depends_on_rows_only() is plain
