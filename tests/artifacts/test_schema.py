"""Schema versions of a manifest, and how a manifest of a newer one is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_documents import MANIFEST, SHA, changed, encoded

from penstock.artifacts.artifact import Artifact, VariantSource
from penstock.artifacts.manifest import Manifest
from penstock.artifacts.schema import CURRENT, WRITTEN, parse_version
from penstock.errors import IntegrityError, InvalidInput

Write = Callable[..., Artifact]

NEWER = f"{CURRENT.major}.{CURRENT.minor + 6}"
POLICIES = {
    "batching": {"max_batch_rows": 4},
    "padding": [{"axes": {"x": 1}, "buckets": [4, 8]}],
    "ranges": {"inputs": {"x": {"minimum": 0, "maximum": 1}}},
    "more_tasks": [{"kind": "vector-classification"}],
    "signature.inputs.0.shape": [-1, -1],
}
UNKNOWN = {
    "signatures": [{"keyid": "k", "sig": [1, 2]}],
    "variants.0.ancestry": {"steps": [{"quantize": {"per_channel": True}}]},
    "variants.0.files.0.compressed": "zstd",
    "task.revision": 2,
    "more_tasks.0.revision": None,
    "golden.cosine": 0.999,
    "golden.file.mirror": "https://example.org/golden",
    "card.language": "en",
    "batching.priority_rows": 8,
    "padding.0.side": "left",
    "ranges.on_drift": "warn",
    "ranges.inputs.x.quantiles": [0.1, 0.9],
    "signature.layout": "NCHW",
    "signature.inputs.0.scale": 0.5,
}


def test_a_version_is_major_and_minor_and_the_integer_of_the_first_releases_is_1_0() -> None:
    assert [str(parse_version(value)) for value in (1, "1.0", "1.1", "1.42")] == ["1.0", "1.0", "1.1", "1.42"]
    assert Manifest.from_bytes(encoded({})).schema_version == "1.0"
    without = {key: value for key, value in MANIFEST.items() if key != "schema_version"}
    assert Manifest.from_bytes(json.dumps(without).encode()).schema_version == "1.0"


@pytest.mark.parametrize(
    "value",
    [
        "1", "1.", ".1", "1.x", "1.1.1", "01.0", "1.01", " 1.0", "1.0\n", "1,0", "-1.0", "1.-1", "v1.0", "", "1.0e3",
        "１.0", "1." + "9" * 50, 10**40, 1.0, 1.5, 1e300, True, False, None, [], [1, 0], {"major": 1}, -1,
    ],
)  # fmt: skip
def test_an_invalid_schema_version_is_refused_in_one_sentence(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"^schema_version: .{1,130} is not a schema version; write") as caught:
        Manifest.from_bytes(encoded({"schema_version": value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, "0.0", "0.9"])
def test_a_version_before_the_first_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"^schema_version: there is no schema version 0\.\d; the first is 1\.0$"):
        Manifest.from_bytes(encoded({"schema_version": value}))


@pytest.mark.parametrize(("value", "shown"), [("2.0", "2.0"), (2, "2.0"), ("10.3", "10.3"), (999_999, "999999.0")])
def test_a_newer_major_version_is_refused_in_any_document(value: object, shown: str) -> None:
    expected = rf"^schema_version: schema version {shown} needs a newer Penstock; .*; upgrade Penstock$"
    for document in (changed({"schema_version": value}), {"schema_version": value, "models": {}}):
        with pytest.raises(InvalidInput, match=expected):
            Manifest.from_bytes(json.dumps(document).encode())


def test_an_artifact_of_a_newer_major_version_is_refused_by_file(write: Write) -> None:
    artifact = write()
    _edit(artifact, {"schema_version": "2.0"})
    with pytest.raises(IntegrityError, match=r"manifest\.json: schema_version: schema version 2\.0 needs a newer"):
        Artifact.open(artifact.path)


@pytest.mark.parametrize("version", [1, "1.0", str(CURRENT)])
@pytest.mark.parametrize("field", UNKNOWN)
def test_an_unknown_field_of_a_known_version_is_refused_by_name(version: object, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Manifest.from_bytes(encoded({**POLICIES, "schema_version": version, field: 1}))
    assert str(caught.value) == f"{field}: there is no such field"


def test_unknown_fields_of_a_newer_minor_version_are_kept_and_named() -> None:
    known = Manifest.from_bytes(encoded({**POLICIES, "schema_version": NEWER}))
    manifest = Manifest.from_bytes(encoded({**POLICIES, "schema_version": NEWER, **UNKNOWN}))
    assert sorted(manifest.unknown_fields) == sorted(UNKNOWN)
    assert manifest.model_dump() == known.model_dump()
    assert manifest.to_json() == changed(UNKNOWN, known.to_json())
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert Manifest.from_bytes(manifest.to_bytes()).to_bytes() == manifest.to_bytes()


def test_the_warning_names_the_fields_and_the_versions() -> None:
    few = Manifest.from_bytes(encoded({"schema_version": NEWER, "variants.0.ancestry": {}, "signatures": []}))
    warning = few.schema_warning
    assert warning is not None
    assert f"schema version {NEWER}, this Penstock knows {CURRENT}" in warning
    assert "variants.0.ancestry" in warning
    assert "signatures" in warning
    many = Manifest.from_bytes(encoded({"schema_version": NEWER, **{f"field{n:03}": n for n in range(200)}}))
    assert many.schema_warning is not None
    assert "field009 and 190 more" in many.schema_warning
    odd = Manifest.from_bytes(encoded({"schema_version": NEWER, "a\nb\x1b[31m": 1, "x" * 5000: 2}))
    assert odd.schema_warning is not None
    assert odd.schema_warning.isprintable()
    assert len(odd.schema_warning) < 500


@pytest.mark.parametrize("version", [1, str(CURRENT), NEWER])
def test_a_manifest_without_unknown_fields_has_no_warning(version: object) -> None:
    assert Manifest.from_bytes(encoded({"schema_version": version})).schema_warning is None


def test_a_known_field_is_checked_in_a_newer_version_as_well_and_the_error_names_the_version() -> None:
    faulty = encoded({"schema_version": NEWER, "golden.cosine": 1, "variants.0.format": 7, "lineage": []})
    with pytest.raises(
        InvalidInput, match=rf"variants|lineage.*schema version {NEWER} is newer than {CURRENT}, upgrade"
    ):
        Manifest.from_bytes(faulty)


@pytest.mark.parametrize("field", ["lineage", "signatures", "schema_version", "variants"])
def test_deep_nesting_does_not_crash(field: str) -> None:
    for depth in (50, 400, 950, 5000):
        nested = '{"a":' * depth + "1" + "}" * depth
        document = json.dumps(changed({"schema_version": NEWER, field: "NESTED"})).replace('"NESTED"', nested)
        with suppress(InvalidInput):  # and no other error
            Manifest.from_bytes(document.encode()).to_bytes()
            assert field in ("lineage", "signatures")


@given(st.dictionaries(st.text(min_size=1).filter(lambda key: key not in MANIFEST), st.integers(), min_size=1))
@settings(deadline=None, max_examples=30)
def test_any_unknown_field_is_written_again_as_it_was_read(extra: dict[str, int]) -> None:
    fields = {key: value for key, value in extra.items() if key not in Manifest.model_fields}
    document = {**MANIFEST, "schema_version": NEWER, **fields}
    data = json.dumps(document).encode()
    again = json.loads(Manifest.from_bytes(data).to_bytes())
    assert {key: again[key] for key in fields} == fields


def test_a_manifest_of_the_first_version_is_written_as_the_first_releases_read_it() -> None:
    again = json.loads(Manifest.from_bytes(encoded({})).to_bytes())
    assert again["schema_version"] == 1
    assert "name" not in again["variants"][0]
    assert {key: again[key] for key in MANIFEST} == MANIFEST | {"variants": again["variants"]}


def test_a_new_artifact_has_the_current_version_and_named_variants(write: Write) -> None:
    document = json.loads((write().path / "manifest.json").read_bytes())
    assert (
        document["schema_version"] == str(WRITTEN) == "1.2"
    ), "1.3 and 1.4 are those of manifests with a reference or log_inputs"
    assert [variant["name"] for variant in document["variants"]] == ["onnx-fp32", "pytorch-fp32"]


def test_an_unknown_field_adds_no_file_to_an_artifact(write: Write) -> None:
    artifact = write()
    (artifact.path / "extra.bin").write_bytes(b"abc")
    entry = {"path": "extra.bin", "sha256": SHA, "size": 3}
    _edit(artifact, {"schema_version": NEWER, "attachments": [entry], "variants.0.sources": [entry]})
    newer = Artifact.open(artifact.path)
    assert sorted(newer.manifest.unknown_fields) == ["attachments", "variants.0.sources"]
    with pytest.raises(IntegrityError, match=r"extra\.bin is not listed"):
        newer.verify()


def test_a_variant_of_a_newer_version_may_list_more_files(write: Write) -> None:
    from penstock.artifacts.files import sha256_of

    artifact = write()
    (artifact.path / "variants/onnx-fp32/engine.bin").write_bytes(b"abc")
    files = [entry.model_dump() for entry in artifact.variants[0].files]
    entry = {"path": "variants/onnx-fp32/engine.bin", "sha256": sha256_of(b"abc"), "size": 3, "kind": "engine"}
    _edit(artifact, {"schema_version": NEWER, "variants.0.files": [*files, entry]})
    newer = Artifact.open(artifact.path)
    newer.verify()
    assert newer.manifest.unknown_fields == [f"variants.0.files.{len(files)}.kind"]


# Names of variants


def test_variants_of_one_format_and_precision_differ_by_name(write: Write, tmp_path: Path) -> None:
    sources = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for number, source in enumerate(sources):
        source.write_bytes(bytes([number]))
    artifact = write(
        variants=[
            VariantSource("onnx", "int8", sources[0]),
            VariantSource("onnx", "int8", sources[1], name="onnx-int8-per-channel"),
        ]
    )
    artifact.verify()
    assert [(v.name, v.format, v.precision, v.file) for v in artifact.variants] == [
        ("onnx-int8", "onnx", "int8", "variants/onnx-int8/model.onnx"),
        ("onnx-int8-per-channel", "onnx", "int8", "variants/onnx-int8-per-channel/model.onnx"),
    ]
    per_channel = artifact.manifest.variant("onnx-int8-per-channel")
    assert artifact.variant_path(per_channel).read_bytes() == b"\1"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a b", "é", "a\n", "x" * 101, 7, None])
def test_an_invalid_variant_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^variants\.0\.name: "):
        Manifest.from_bytes(encoded({"variants.0.name": name}))


def test_two_variants_of_one_name_are_refused() -> None:
    other = changed({"variants.0.name": "onnx-fp32", "variants.0.precision": "int8"})["variants"][0]
    for entry in other["files"]:
        entry["path"] = other["file"] = "variants/other/model.onnx"
    with pytest.raises(InvalidInput, match="the variant 'onnx-fp32' is listed twice"):
        Manifest.from_bytes(encoded({"variants": [MANIFEST["variants"][0], other]}))


def _edit(artifact: Artifact, changes: dict[str, Any]) -> None:
    path = artifact.path / "manifest.json"
    path.write_text(json.dumps(changed(changes, json.loads(path.read_bytes()))))
