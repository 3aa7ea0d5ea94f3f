from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.artifacts.artifact import Artifact, Golden, VariantSource
from penstock.errors import IntegrityError, InvalidInput
from penstock.tensors import Signature, TensorSpec

Write = Callable[..., Artifact]
ONNX = "variants/onnx-fp32/model.onnx"
TORCH = "variants/pytorch-fp32/model.safetensors"
FILES = ["manifest.json", ONNX, TORCH, "golden.safetensors", "card.md"]


def _edit(artifact: Artifact, edit: Callable[[dict[str, Any]], None]) -> None:
    path = artifact.path / "manifest.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def test_a_written_artifact_is_complete(write: Write, golden: Golden) -> None:
    artifact = write("m", "v1", b"weights", metrics={"accuracy": 0.5}, lineage={"seed": 0})
    again = Artifact.open(artifact.path)
    again.verify()
    assert again == artifact
    assert (again.ref, again.manifest.metrics, again.manifest.lineage) == ("m:v1", {"accuracy": 0.5}, {"seed": 0})
    assert sorted(p.relative_to(again.path).as_posix() for p in again.path.rglob("*") if p.is_file()) == sorted(FILES)
    assert again.size_bytes == sum((again.path / file).stat().st_size for file in FILES[1:])
    assert again.card_text() == "# A model\n"
    torch = again.manifest.variant("pytorch-fp32")
    assert (torch.architecture, torch.architecture_args) == ("a.b:C", {"hidden": 3})
    assert again.variant_path(torch).read_bytes().endswith(b"weights")
    samples = again.golden()
    assert samples is not None
    np.testing.assert_array_equal(samples.inputs["x"], golden.inputs["x"])
    np.testing.assert_array_equal(samples.outputs["y"], golden.outputs["y"])
    assert (samples.rows, samples.atol, samples.rtol) == (3, golden.atol, golden.rtol)


def test_golden_samples_and_card_may_be_absent(write: Write) -> None:
    artifact = write(golden=None, card="")
    artifact.verify()
    assert artifact.golden() is None
    assert artifact.card_text() == ""


def test_the_same_content_has_the_same_digest(write: Write) -> None:
    assert write().digest == write().digest != write(content=b"other").digest


def test_files_a_model_refers_to_keep_their_names(write: Write, tmp_path: Path) -> None:
    model, data = tmp_path / "net.onnx", tmp_path / "net.onnx.data"
    model.write_bytes(b"graph")
    data.write_bytes(b"numbers")
    artifact = write(variants=[VariantSource("onnx", "fp32", model, companions=[data])])
    artifact.verify()
    main = artifact.variant_path(artifact.variants[0])
    assert main.with_name("net.onnx.data").read_bytes() == b"numbers"


def test_a_directory_that_exists_is_not_overwritten(write: Write) -> None:
    artifact = write()
    with pytest.raises(InvalidInput, match="already exists"):
        _rewrite(artifact.path)
    artifact.verify()


def _rewrite(directory: Path) -> Artifact:
    from penstock.artifacts.artifact import TaskEntry, write_artifact

    signature = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 2)),))
    source = directory.parent / "0.onnx"
    return write_artifact(
        directory, name="m", version="v1", task=TaskEntry(kind="tensor"), signature=signature,
        variants=[VariantSource("onnx", "fp32", source)], golden=None, card="",
    )  # fmt: skip


def test_an_empty_directory_is_filled(write: Write) -> None:
    empty = write().path.parent / "empty"
    empty.mkdir()
    _rewrite(empty).verify()


def test_a_directory_that_cannot_be_created_is_named(write: Write) -> None:
    file = write().path / "card.md"
    with pytest.raises(InvalidInput, match=r"card\.md/out cannot be written"):
        _rewrite(file / "out")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"name": "../m"}, r"^name: '\.\./m' is not a name"),
        ({"version": ""}, "^version: '' is not a version"),
        ({"variants": []}, "variants"),
        ({"variants": [VariantSource("onnx", "fp32", Path("/nowhere/model.onnx"))]}, "/nowhere/model.onnx"),
        ({"variants": [VariantSource("../../x", "fp32", Path(__file__))]}, "is not a name of a variant"),
        ({"variants": [VariantSource("on-nx", "fp32", Path(__file__))]}, "format"),
        ({"variants": [VariantSource("onnx", "fp32", Path(__file__))] * 2}, "two variants have the name 'onnx-fp32'"),
        ({"variants": [VariantSource("onnx", "int8", Path(__file__), name="in/side")]}, "is not a name of a variant"),
        ({"variants": [VariantSource("onnx", "int8", Path(__file__), name="")]}, "is not a name of a variant"),
        ({"variants": [VariantSource("onnx", "fp32", Path(__file__).parent)]}, "cannot be read"),
        ({"metrics": {"loss": float("nan")}}, "NaN|nan"),
        ({"created_at": "now"}, "created_at"),
    ],
)
def test_an_invalid_artifact_is_refused_by_field_and_leaves_no_files(
    write: Write, tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    with pytest.raises(InvalidInput, match=fault):
        write(**changes)
    assert [path.name for path in (tmp_path / "sources").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"inputs": {}}, "x: this input is missing"),
        ({"inputs": {"x": np.zeros((3, 5), np.float32)}}, "shape"),
        ({"outputs": {"z": np.zeros((3, 2), np.float32)}}, "y"),
        ({"outputs": {"y": np.zeros((2, 2), np.float32)}}, "2 rows for 3"),
        ({"outputs": {"y": np.full((3, 2), np.nan, np.float32)}}, "NaN"),
        ({"inputs": {"x": np.zeros((0, 4), np.float32)}, "outputs": {"y": np.zeros((0, 2), np.float32)}}, "no rows"),
        ({"atol": -1.0}, "atol"),
        ({"rtol": float("nan")}, "rtol"),
    ],
)
def test_golden_samples_that_do_not_fit_are_refused(
    write: Write, golden: Golden, change: dict[str, Any], fault: str
) -> None:
    with pytest.raises(InvalidInput, match=fault):
        write(golden=replace(golden, **change))


def test_golden_samples_of_text_are_refused(write: Write, golden: Golden) -> None:
    signature = Signature((TensorSpec("x", "BYTES", (-1,)),), (TensorSpec("y", "FP32", (-1, 2)),))
    texts = Golden({"x": np.array(["a", "b", "c"], object)}, golden.outputs)
    with pytest.raises(InvalidInput, match="text"):
        write(signature=signature, golden=texts)


@pytest.mark.parametrize("file", FILES)
def test_one_altered_bit_in_any_file_is_found_and_named(write: Write, file: str) -> None:
    artifact = write()
    path = artifact.path / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=file):
        artifact.verify()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("cut", [lambda data: data[:-1], lambda data: data + b" ", lambda data: data[:0]])
def test_a_file_of_another_length_is_found_and_named(write: Write, file: str, cut: Callable[[bytes], bytes]) -> None:
    artifact = write()
    path = artifact.path / file
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(IntegrityError, match=file):
        artifact.verify()


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(write: Write, file: str) -> None:
    artifact = write()
    (artifact.path / file).unlink()
    with pytest.raises(IntegrityError, match=f"{file} is missing"):
        artifact.verify()


@pytest.mark.parametrize("extra", ["extra.txt", "variants/onnx-fp32/extra.data", "deep/er/x", ".hidden"])
def test_a_file_that_is_not_listed_is_named(write: Write, extra: str) -> None:
    artifact = write()
    (artifact.path / extra).parent.mkdir(parents=True, exist_ok=True)
    (artifact.path / extra).touch()
    with pytest.raises(IntegrityError, match=f"{extra} is not listed"):
        artifact.verify()


def test_an_empty_directory_is_named(write: Write) -> None:
    artifact = write()
    (artifact.path / "variants/openvino-fp32").mkdir()
    with pytest.raises(IntegrityError, match="openvino-fp32 is not listed"):
        artifact.verify()


@pytest.mark.parametrize("file", FILES)
def test_a_link_instead_of_a_file_is_refused_even_to_the_same_bytes(write: Write, tmp_path: Path, file: str) -> None:
    artifact = write()
    shutil.move(artifact.path / file, tmp_path / "moved")
    (artifact.path / file).symlink_to(tmp_path / "moved")
    with pytest.raises(IntegrityError, match=f"{file} is a symbolic link"):
        artifact.verify()


def test_a_link_instead_of_a_directory_is_refused(write: Write, tmp_path: Path) -> None:
    artifact = write()
    shutil.move(artifact.path / "variants", tmp_path / "moved")
    (artifact.path / "variants").symlink_to(tmp_path / "moved")
    with pytest.raises(IntegrityError, match="variants is a symbolic link"):
        artifact.verify()


def test_a_link_to_the_whole_artifact_is_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(write().path)
    with pytest.raises(IntegrityError, match="link is a symbolic link"):
        Artifact.open(tmp_path / "link").verify()


@pytest.mark.parametrize("file", FILES)
def test_a_pipe_instead_of_a_file_is_refused_without_waiting(write: Write, file: str) -> None:
    artifact = write()
    (artifact.path / file).unlink()
    os.mkfifo(artifact.path / file)
    with pytest.raises(IntegrityError, match=f"{file} is not a plain file"):
        artifact.verify()


def test_one_variant_is_verified_without_reading_the_others(write: Write) -> None:
    artifact = write()
    file = artifact.path / TORCH
    file.write_bytes(file.read_bytes()[:-7] + b"altered")
    artifact.verify(artifact.manifest.variant("onnx-fp32"))
    with pytest.raises(IntegrityError, match=TORCH):
        artifact.verify(artifact.manifest.variant("pytorch-fp32"))


def test_golden_samples_and_card_are_checked_when_they_are_read(write: Write) -> None:
    artifact = write()
    (artifact.path / "card.md").write_text("# B model\n")
    with pytest.raises(IntegrityError, match=r"card\.md does not match"):
        artifact.card_text()
    (artifact.path / "golden.safetensors").write_bytes(b"short")
    with pytest.raises(IntegrityError, match=r"golden\.safetensors has 5 bytes"):
        artifact.golden()


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64])
def test_golden_samples_of_another_format_are_named(write: Write, content: bytes) -> None:
    artifact = _with_file(write(), "golden.safetensors", content)
    artifact.verify()
    with pytest.raises(IntegrityError, match=r"golden\.safetensors: it is not a safetensors file"):
        artifact.golden()


def test_golden_samples_of_another_model_are_named(write: Write, golden: Golden) -> None:
    other = Golden({"z": golden.inputs["x"]}, golden.outputs)
    artifact = _with_file(write(), "golden.safetensors", other.to_bytes())
    with pytest.raises(IntegrityError, match=r"golden\.safetensors: x: this input is missing"):
        artifact.golden()


def test_golden_samples_of_another_count_are_named(write: Write, golden: Golden) -> None:
    fewer = Golden({"x": golden.inputs["x"][:2]}, {"y": golden.outputs["y"][:2]})
    artifact = _with_file(write(), "golden.safetensors", fewer.to_bytes())
    with pytest.raises(IntegrityError, match=r"golden\.safetensors has 2 rows, not 3"):
        artifact.golden()


def test_a_card_that_is_not_text_is_named(write: Write) -> None:
    artifact = _with_file(write(), "card.md", b"\xff\xfe")
    with pytest.raises(IntegrityError, match=r"card\.md is not UTF-8"):
        artifact.card_text()


def _with_file(artifact: Artifact, file: str, content: bytes) -> Artifact:
    """The artifact with one changed file and a matching manifest."""
    from penstock.artifacts.files import sha256_of

    def edit(data: dict[str, Any]) -> None:
        entry = data["golden"]["file"] if file.startswith("golden") else data["card"]
        entry |= {"sha256": sha256_of(content), "size": len(content)}

    (artifact.path / file).write_bytes(content)
    _edit(artifact, edit)
    return Artifact.open(artifact.path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"schema_version": 2}'])
def test_an_invalid_manifest_is_refused_in_one_line(write: Write, content: bytes) -> None:
    path = write().path
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"manifest\.json: ") as caught:
        Artifact.open(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [Path.resolve, lambda path: path.mkdir(), lambda path: path.touch()])
def test_a_path_without_an_artifact_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    with pytest.raises(IntegrityError, match=r"x/manifest\.json"):
        Artifact.open(tmp_path / "x")


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "-a", "a\n", "x" * 101])
def test_a_faulty_name_of_a_variant_is_refused_by_name(write: Write, tmp_path: Path, name: str) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(b"model")
    with pytest.raises(InvalidInput, match=r"^variants: .* is not a name of a variant; use 1 to 100 letters"):
        write(variants=[VariantSource("onnx", "fp32", source, name=name)])
