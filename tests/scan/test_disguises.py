"""A file is what its content is: no name, and nothing around it, makes a pickle pass for data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from crafted import model, packed
from hostile_pickles import CALLS, FORMS, whole
from safetensors.numpy import save
from small_artifacts import Write

from penstock.errors import IntegrityError
from penstock.scan.findings import Report
from penstock.scan.gate import require_allowed, scan_artifact
from penstock.scan.scanner import scan_bytes, scan_file

NAMES = [
    "m.npy",
    "m.json",
    "m.md",
    "m.txt",
    "m.csv",
    "m.yaml",
    "m",
    "m.onnx",
    "m.safetensors",
    "m.xml",
    "m.npz",
    "m.pt",
]
WHOLE = whole()


def report(data: bytes, name: str) -> Report:
    return scan_bytes(memoryview(data), Path(name))


def passes(data: bytes, name: str) -> bool:
    """True for what a user without any trust may open."""
    return not report(data, name).against("data")


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_is_a_pickle_whatever_its_name(name: str) -> None:
    for form, data in FORMS.items():
        if form != "two":  # the first of two is all that is read of a file with another name
            assert not passes(data, name), form
    for called, data in CALLS.items():
        assert not passes(data, name), called


@pytest.mark.parametrize("name", [*NAMES, "m.pkl", "m.mar"])
def test_what_holds_a_pickle_is_no_data(name: str) -> None:
    assert [what for what, data in WHOLE.items() if passes(data, name)] == []


def test_the_report_says_which_name_a_hidden_pickle_looks_up() -> None:
    found = report(CALLS["os"], "labels.txt")
    assert [finding.what for finding in found.findings] == [
        "it is a pickle as well, which looks up 'os.system' and may call it"
    ]
    assert (found.kind, found.tier, found.refused) == ("data", "code", False)
    assert report(CALLS["os"], "m").kind == "pickle"


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nbird\n",
        "(in the beginning\nwas the word)\n",
        "(see below)\n",
        "I came\nI saw\n",
        "It is a model.\n",
        "N.B. this is a draft\n",
        "None\n",
        "]\n",
        "0.1,0.2\n",
        "class\nlabel\nRed\n",
        "café\nthé\n",
        "S'il vous plaît\n",
        "p12345678\n",
        "p\nq\nr\n",
        "rapid transit\n",
        "Vector of features\nthe end\n",
        '{"labels": ["cos", "sin"]}',
        "---\nlicense: mit\n---\n# A model\n",
        "",
    ],
)
def test_ordinary_text_is_data(text: str) -> None:
    content = (text or "x").encode()
    assert passes(content, "labels.txt")
    assert passes(content + b"more\nlines\n" * 100, "labels.txt")


def test_text_with_an_archive_at_its_end_is_refused() -> None:
    text = b"# A model\n"
    assert report(text + packed({"m/data.pkl": b"N."}), "card.md").refused
    assert passes(model(doc_string="an archive ends with PK\x05\x06" + "x" * 30).SerializeToString(), "m.onnx")


def test_what_is_not_text_is_not_taken_for_text() -> None:
    assert report(b"a\0b", "labels.txt").refused
    assert report(bytes(range(256)), "labels.json").refused
    assert passes("one\ntwo\n".encode("utf-16"), "labels.txt")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.onnx", model().SerializeToString()),
        ("m.safetensors", save({"w": np.ones((3, 3), np.float32)})),
        *((f"m{size}.safetensors", save({"w": np.ones(2)}, {"x": "y" * size})) for size in range(20, 44)),
    ],
)
def test_real_models_are_no_pickles(name: str, data: bytes) -> None:
    assert passes(data, name)


def test_a_model_that_is_a_pickle_as_well_is_found() -> None:
    """Protobuf skips unknown fields; the tag of this one is the opcode of a number in 4 bytes."""
    ignored = b"\x03\0\0\0" + b"0" + CALLS["os"]
    hidden = b"J" + bytes([len(ignored) - 1]) + ignored[1:] + model().SerializeToString()
    assert report(hidden, "m.onnx").kind == "onnx"
    assert "a pickle as well" in report(hidden, "m.onnx").findings[0].what


def test_archives_in_archives_are_refused_at_once() -> None:
    inner = packed({"MAR-INF/MANIFEST.json": b"{}"})
    for _ in range(3000):
        inner = packed({"MAR-INF/MANIFEST.json": b"{}", "i.mar": inner})
    found = report(inner, "m.mar")
    assert found.refused
    assert [finding.what for finding in found.findings] == ["i.mar: it is an archive in another"]


def test_the_other_files_of_an_artifact_are_looked_at_as_well(write: Write) -> None:
    artifact = write()
    for path, content in (("card.md", CALLS["os"]), ("card.md", b"\x7fELF\x02\x01\x01")):
        (artifact.path / path).write_bytes(content)
        (found,) = (each for each in scan_artifact(artifact) if each.findings)
        with pytest.raises(IntegrityError, match=r"card\.md: it is .*, which is not part of a model"):
            require_allowed(found, "native")
    (artifact.path / "card.md").write_text("# A model\n")
    assert all(not each.findings for each in scan_artifact(artifact))


def test_files_are_read_from_the_disk_in_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(CALLS["os"])
    assert scan_file(tmp_path / "labels.txt").tier == "code"
