"""`penstock models publish --reference`: rows that drift is measured from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import FEATURES, weights

from penstock.artifacts.artifact import Artifact
from penstock.registry.registry import Registry

Penstock = Callable[..., Any]
RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((300, FEATURES)).astype(np.float32)


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., Path]:
    def save(**arrays: Any) -> Path:
        np.savez(tmp_path / "rows.npz", **arrays)
        return tmp_path / "rows.npz"

    return save


def published(ref: str = "linear") -> Artifact:
    with Registry("registry", os.environ.get("DATABASE_URL")) as registry:
        return registry.get(ref)


def test_a_file_is_published_with_the_distributions_of_rows_and_answers(
    penstock: Penstock, onnx_file: Path, rows: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\nc\n", encoding="utf-8")
    options = ("--labels", tmp_path / "labels.txt", "--reference", rows(x=ROWS))
    assert penstock("models", "publish", onnx_file, *options).code == 0
    artifact = published()
    artifact.verify()
    reference = artifact.reference()
    assert reference is not None
    assert [one.name for one in reference.features] == ["x[0]", "x[1]", "x[2]", "x[3]", "class", "confidence"]
    classes = np.bincount((ROWS @ weights(0)).argmax(axis=1), minlength=3)
    assert reference.features[4].labels == ("a", "b", "c")
    assert reference.features[4].counts[5:] == tuple(classes.tolist())
    assert "300 rows" in penstock("models", "show", "linear").out


def test_the_reference_is_part_of_the_digest(penstock: Penstock, onnx_file: Path, rows: Callable[..., Path]) -> None:
    penstock("models", "publish", onnx_file, "--registry", "plain")
    penstock("models", "publish", onnx_file, "--reference", rows(x=ROWS))
    with Registry("plain") as plain:
        other = plain.get("linear")
    assert other.digest != published().digest
    assert (other.manifest.schema_version, published().manifest.schema_version) == ("1.2", "1.3")
    again = penstock("models", "publish", onnx_file, "--reference", rows(x=ROWS))
    assert again.code == 0, "the same rows make the same version"
    refused = penstock("models", "publish", onnx_file, "--reference", rows(x=ROWS + 1))
    assert "already exists with other content" in refused.err


def test_an_artifact_directory_gets_a_reference_and_stays_as_it_is(
    penstock: Penstock, onnx_file: Path, rows: Callable[..., Path]
) -> None:
    penstock("models", "publish", onnx_file, "--registry", "plain")
    source = Path("plain/linear/v1.0")
    before = Artifact.open(source).digest
    assert penstock("models", "publish", source, "--reference", rows(x=ROWS)).code == 0
    assert published().manifest.reference is not None
    assert Artifact.open(source).digest == before
    Artifact.open(source).verify()


def test_python_takes_arrays(penstock: Penstock, onnx_file: Path) -> None:
    penstock("models", "publish", onnx_file, "--registry", "plain")
    with Registry("here") as registry:
        artifact = registry.publish("plain/linear/v1.0", reference={"x": ROWS})
    assert artifact.manifest.reference is not None
    assert artifact.manifest.reference.rows == 300


@pytest.mark.parametrize("bad", [np.full_like(ROWS, np.nan), np.zeros_like(ROWS), ROWS * 5e37])
def test_columns_without_variation_and_without_numbers_are_no_obstacle(
    penstock: Penstock, onnx_file: Path, rows: Callable[..., Path], bad: np.ndarray
) -> None:
    assert penstock("models", "publish", onnx_file, "--reference", rows(x=bad)).code == 0
    reference = published().reference()
    assert reference is not None
    assert reference.rows == 300


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"y": ROWS}, "its arrays are y, the inputs of the model are x"),
        ({"x": ROWS, "y": ROWS}, "its arrays are x, y, the inputs of the model are x"),
        ({}, "its arrays are none"),
        ({"x": ROWS[:20]}, "20 rows are too few"),
        ({"x": ROWS[:, :2]}, "reference: x: "),
        ({"x": ROWS.astype(str)}, "reference: x: "),
        ({"x": np.array([{}], dtype=object)}, "is not an .npz file of plain arrays"),
    ],
)
def test_rows_that_do_not_fit_are_one_sentence(
    penstock: Penstock, onnx_file: Path, rows: Callable[..., Path], arrays: dict[str, Any], said: str
) -> None:
    done = penstock("models", "publish", onnx_file, "--reference", rows(**arrays))
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert said in done.err
    assert not Path("registry/linear/v1.0").exists()


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 broken", b"x = 1"])
def test_a_file_of_something_else_is_one_sentence(
    penstock: Penstock, onnx_file: Path, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "rows.npz"
    if content is not None:
        file.write_bytes(content)
    done = penstock("models", "publish", onnx_file, "--reference", file)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "rows.npz" in done.err


def test_a_single_array_says_how_to_name_it(penstock: Penstock, onnx_file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    done = penstock("models", "publish", onnx_file, "--reference", tmp_path / "rows.npy")
    assert "np.savez(" in done.err


def test_bundled_models_have_their_own(penstock: Penstock, rows: Callable[..., Path]) -> None:
    done = penstock("models", "publish", "--bundled", "--reference", rows(x=ROWS))
    assert done.code == 2
    assert "--reference belongs to one model" in done.err
