"""Files are recognized by their content, which must match their name or manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from crafted import evil_pickle, model, packed
from safetensors.numpy import save

from penstock.errors import IntegrityError
from penstock.scan.scanner import scan_file

ONNX = model().SerializeToString()
SAFETENSORS = save({"w": np.ones(2, np.float32)})


@pytest.mark.parametrize(
    ("name", "content", "kind", "tier"),
    [
        ("m.onnx", ONNX, "onnx", "data"),
        ("m", ONNX, "onnx", "data"),
        ("m.safetensors", SAFETENSORS, "safetensors", "data"),
        ("m.so", b"\x7fELF\x02\x01", "library", "native"),
        ("m.dll", b"MZ\x90", "library", "native"),
        ("weights.dat", b"\x7fELF\x02\x01", "library", "native"),
        ("m.plan", b"ftrt", "library", "native"),
        ("handler.py", b"import os\n", "program", "code"),
        ("labels.txt", b"one\ntwo\n", "data", "data"),
        ("README.md", b"<p align=center>a model</p>\n", "data", "data"),
        ("peaks.csv", b"MZ,intensity\n1,2\n", "data", "data"),
        ("labels.txt", "chat\nchien\n\xe9l\xe9phant\n".encode(), "data", "data"),
        ("labels.txt", "Stra\xdfe\n".encode("latin-1"), "data", "data"),
        ("run", b"#!/bin/sh\n", "program", "code"),
    ],
)
def test_the_kind_and_the_tier_of_a_file_are_found(
    tmp_path: Path, name: str, content: bytes, kind: str, tier: str
) -> None:
    (tmp_path / name).write_bytes(content)
    report = scan_file(tmp_path / name)
    assert (report.kind, report.tier, report.refused) == (kind, tier, False)


@pytest.mark.parametrize(
    ("name", "format", "content"),
    [
        ("m.onnx", "onnx", SAFETENSORS),
        ("m.onnx", None, SAFETENSORS),
        ("m.safetensors", "pytorch", ONNX),
        ("m.safetensors", None, b"\x80\x02N."),
        ("m.onnx", "onnx", packed({"m/data.pkl": b"\x80\x02N."})),
        ("m.pt2", "pt2", packed({"m/data.pkl": b"\x80\x02N."})),
        ("m.ts", "torchscript", packed({"m/data.pkl": b"\x80\x02N."})),
        ("m.xml", "openvino", ONNX),
        ("m.onnx", "onnx", b"\x7fELF\x02\x01"),
        ("m.onnx", "onnx", b""),
        ("m.h5", None, b"\x89HDF\r\n\x1a\n"),
        ("m.zip", None, packed({"what": b""})),
        ("m.pt", "pytorch", b"no pickle at all"),
    ],
)
def test_a_file_whose_content_does_not_match_its_name_is_refused(
    tmp_path: Path, name: str, format: str | None, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert scan_file(tmp_path / name, format).refused


def test_a_pickle_called_safetensors_is_not_unpickled(tmp_path: Path) -> None:
    path, marker = tmp_path / "m.safetensors", tmp_path / "marker"
    path.write_bytes(evil_pickle(marker))
    report = scan_file(path, "pytorch")
    assert (report.kind, report.tier) == ("pickle", "code")
    assert not marker.exists()


def test_every_member_of_a_torchserve_archive_is_scanned(tmp_path: Path) -> None:
    plain = {"MAR-INF/MANIFEST.json": b"{}", "model.onnx": ONNX, "labels.json": b"{}"}
    (tmp_path / "m.mar").write_bytes(packed(plain))
    assert scan_file(tmp_path / "m.mar").findings == ()
    (tmp_path / "m.mar").write_bytes(packed({**plain, "handler.py": b"import os"}))
    report = scan_file(tmp_path / "m.mar")
    assert (report.kind, report.tier) == ("mar", "code")
    assert "handler.py" in report.findings[0].what
    (tmp_path / "m.mar").write_bytes(packed({**plain, "inner.mar": packed(plain)}))
    assert scan_file(tmp_path / "m.mar").refused


def make_nothing(path: Path) -> None:
    pass


def make_directory(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [make_nothing, make_directory, make_pipe])
def test_a_path_that_is_not_a_file_is_an_error_that_names_it(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "m.onnx")
    with pytest.raises(IntegrityError, match=r"m\.onnx: "):
        scan_file(tmp_path / "m.onnx")


def test_a_report_as_json_holds_the_same_findings(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_bytes(b"1")
    assert scan_file(tmp_path / "m.py").to_json() == {
        "path": str(tmp_path / "m.py"),
        "kind": "program",
        "tier": "code",
        "refused": False,
        "findings": [{"needs": "code", "what": "it is a program"}],
    }
