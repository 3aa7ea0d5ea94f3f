"""OpenVINO models: their weights are in the same directory and have the recorded length."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.scan.findings import Report
from penstock.scan.scanner import scan_file

LAYERS = """<?xml version="1.0"?>
<net name="m" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="?,4" element_type="f32"/></layer>
<layer id="1" name="w" type="Const" version="opset1"><data element_type="f32" offset="{o}" size="{s}"/></layer>
<layer id="2" name="m" type="{kind}" version="{version}"/>
</layers><edges/></net>"""


def scanned(
    tmp_path: Path, offset: str = "0", size: str = "64", kind: str = "MatMul", version: str = "opset1", start: str = ""
) -> Report:
    text = LAYERS.format(o=offset, s=size, kind=kind, version=version)
    path = tmp_path / "m.xml"
    path.write_text(text.replace("?>", f"?>{start}", 1))
    if not (tmp_path / "m.bin").exists():
        (tmp_path / "m.bin").write_bytes(bytes(64))
    return scan_file(path, "openvino")


def test_a_plain_model_is_data(tmp_path: Path) -> None:
    found = scanned(tmp_path)
    assert (found.kind, found.tier, found.findings) == ("openvino", "data", ())


@pytest.mark.parametrize(("offset", "size"), [("1", "64"), ("0", "65"), ("-1", "1"), ("9" * 19, "1"), ("x", "1")])
def test_weights_beyond_their_file_are_refused(tmp_path: Path, offset: str, size: str) -> None:
    assert scanned(tmp_path, offset, size).refused


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to"])
def test_weights_that_are_a_link_are_refused(tmp_path: Path, how: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    getattr(tmp_path / "m.bin", how)(tmp_path / "secret")
    assert scanned(tmp_path).refused


def test_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    scanned(tmp_path)
    (tmp_path / "m.bin").unlink()
    assert scan_file(tmp_path / "m.xml").refused


def test_operators_of_a_library_need_native_trust(tmp_path: Path) -> None:
    found = scanned(tmp_path, kind="Steal", version="extension")
    assert (found.tier, found.refused) == ("native", False)


@pytest.mark.parametrize(
    "start",
    [
        "<!DOCTYPE net>",
        '<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>',
        '<!DOCTYPE net [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
    ],
)
def test_entities_are_refused(tmp_path: Path, start: str) -> None:
    found = scanned(tmp_path, start=start)
    assert found.refused
    assert "entities" in found.findings[0].what


@pytest.mark.parametrize("encoding", ["utf-7", "idna", "rot13", "hex", "unicode_escape", "utf-16"])
def test_a_text_with_an_ambiguous_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "m.xml"
    own = encoding if encoding == "utf-16" else "ascii"
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?><net a="\u00e9"/>'.encode(own, "replace"))
    assert scan_file(path, "openvino").refused


@pytest.mark.parametrize("text", ["<net>", "<svg/>", "<net>" + "<a>" * 300, "<"])
def test_other_xml_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.xml").write_text(text)
    assert scan_file(tmp_path / "m.xml").refused
