from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from manifest_documents import MANIFEST, SHA, encoded

from penstock.artifacts.manifest import MAX_BYTES, Manifest
from penstock.datatypes import DATATYPES
from penstock.errors import InvalidInput

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)
TENSORS = st.lists(
    st.fixed_dictionaries(
        {
            "name": TEXT.filter(bool),
            "dtype": st.sampled_from(sorted(DATATYPES)),
            "shape": st.lists(st.integers(-1, 10**9), max_size=4),
        }
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda tensor: str(tensor["name"]),
)


@given(inputs=TENSORS, outputs=TENSORS, config=OBJECTS, lineage=OBJECTS, metrics=OBJECTS)
@settings(deadline=None)
def test_a_manifest_is_read_as_it_was_written(
    inputs: Any, outputs: Any, config: Any, lineage: Any, metrics: Any
) -> None:
    data = MANIFEST | {
        "task": {"kind": "tensor", "config": config},
        "signature": {"inputs": inputs, "outputs": outputs},
        "lineage": lineage,
        "metrics": metrics,
    }
    manifest = Manifest.model_validate(data)
    assert manifest.signature.to_json() == data["signature"]
    written = manifest.to_bytes()
    assert Manifest.from_bytes(written) == manifest
    assert Manifest.from_bytes(written).to_bytes() == written


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b"9" * 5000)
@example(b'{"schema_version": NaN}')
@settings(deadline=None)
def test_any_bytes_are_a_manifest_or_invalid_input(data: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        Manifest.from_bytes(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "../x", "a/../../b", "a/..", "/etc/passwd", "//x", "a//b", "a/", "./a", ".", "", "a\\b", "..\\x", "C:/x", "C:x",
        "a\0b", "a\nb", "manifest.json", "x" * 256,
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["variants.0.files.0.path", "golden.file.path", "card.path"])
def test_a_path_that_could_leave_the_artifact_is_refused(where: str, path: str) -> None:
    with pytest.raises(InvalidInput, match=where.replace(".", r"\.")):
        Manifest.from_bytes(encoded({where: path}))


@pytest.mark.parametrize(
    ("where", "value", "fault"),
    [
        ("schema_version", 2, "schema_version"),
        ("schema_version", "1", "schema_version"),
        ("name", "../m", "name"),
        ("name", "m" * 101, "name"),
        ("version", "v 1", "version"),
        ("surprise", 1, "surprise"),
        ("variants", [], "variants"),
        ("variants.0.file", "variants/onnx-fp32/other.onnx", "main file"),
        ("variants.0.format", "on-nx", "format"),
        ("variants.0.format", "../x", "format"),
        ("variants.0.files.0.sha256", SHA.upper(), "sha256"),
        ("variants.0.files.0.sha256", SHA + "\n", "sha256"),
        ("variants.0.files.0.size", -1, "size"),
        ("variants.0.max_abs_error", -1, "max_abs_error"),
        ("variants", MANIFEST["variants"] * 2, "listed twice"),
        ("card.path", "golden.safetensors", "listed twice"),
        ("card.path", "variants", "as a directory"),
        ("golden.rows", 0, "rows"),
        ("golden.atol", -1, "atol"),
        ("created_at", "yesterday", "created_at"),
        ("created_at", "2026-01-31T12:00:00", "UTC"),
        ("created_at", "2026-01-31T12:00:00+02:00", "UTC"),
        ("signature.inputs", [], "signature"),
        ("signature.inputs.0.dtype", "FLOAT", "FLOAT"),
        ("signature.inputs.0.shape", [-2], "shape"),
        ("signature.inputs.0.shape", ["4"], "shape"),
        ("signature.inputs", MANIFEST["signature"]["inputs"] * 2, "listed twice"),
        ("signature.extra", [], "extra"),
        ("task.kind", "", "kind"),
    ],
)
def test_an_invalid_field_is_named(where: str, value: Any, fault: str) -> None:
    with pytest.raises(InvalidInput, match=fault) as caught:
        Manifest.from_bytes(encoded({where: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "half a \ud800 character", np.float32(1), object(), {1, object()}]
)
def test_a_value_that_json_does_not_have_is_refused_when_writing(value: object) -> None:
    manifest = Manifest.model_validate(MANIFEST | {"metrics": {"accuracy": value}})
    with pytest.raises(InvalidInput, match="JSON"):
        manifest.to_bytes()


def test_a_manifest_cannot_be_changed() -> None:
    manifest = Manifest.model_validate(MANIFEST)
    with pytest.raises(ValueError, match="frozen"):
        manifest.name = "other"  # type: ignore[misc]


def test_a_variant_is_found_by_its_name() -> None:
    manifest = Manifest.model_validate(MANIFEST)
    assert manifest.variant("onnx-fp32").file == "variants/onnx-fp32/model.onnx"
    with pytest.raises(InvalidInput, match="variants: onnx-fp32"):
        manifest.variant("onnx-int8")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b" " * (MAX_BYTES + 1), "at most 4194304 are read"),
        (encoded({"variants.0.files.0.path": "a/" * 600 + "b"}), "a path of 1201 characters is too long"),
        (encoded({"signature.inputs.0.shape": [1] * 65}), "at most 64 items"),
    ],
)
def test_a_manifest_beyond_a_limit_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        Manifest.from_bytes(data)
