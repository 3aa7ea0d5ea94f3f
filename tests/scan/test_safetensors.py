"""Safetensors files that are incomplete, or have gaps or overlaps, are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from penstock.scan.findings import Report
from penstock.scan.scanner import scan_bytes, scan_file

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
B = {"dtype": "U8", "shape": [4], "data_offsets": [8, 12]}


def written(table: Mapping[str, Any] | str, size: int = 12) -> Report:
    text = (table if isinstance(table, str) else json.dumps(table)).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(size)
    return scan_bytes(memoryview(data), Path("m.safetensors"), "pytorch")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "uint8", "bool"])
def test_files_written_by_the_library_are_data(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": np.ones((2, 3), dtype), "b": np.ones((0, 4), dtype), "c": np.array(1, dtype)}, path, {"by": "me"})
    report = scan_file(path)
    assert (report.kind, report.tier, report.findings) == ("safetensors", "data", ())


def test_a_valid_table_written_by_hand_is_data() -> None:
    assert written({"a": A, "b": B}).findings == ()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"a": A}, "differs from that of the file"),
        ({"a": A, "b": B | {"data_offsets": [9, 13]}}, "gap"),
        ({"a": A, "b": B | {"data_offsets": [4, 8]}}, "overlaps"),
        ({"a": A, "b": B | {"shape": [5]}}, "entry of the tensor 'b'"),
        ({"a": A, "b": B | {"shape": [-4]}}, "entry of the tensor 'b'"),
        ({"a": A, "b": B | {"dtype": "OBJECT"}}, "entry of the tensor 'b'"),
        ({"a": A, "b": B | {"data_offsets": [8.0, 12.0]}}, "entry of the tensor 'b'"),
        ({"a": A, "b": {"dtype": "U8"}}, "entry of the tensor 'b'"),
        ({"a": A, "b": B, "__metadata__": {"x": [1]}}, "metadata"),
        (f'{{"a": {json.dumps(A)}, "a": {json.dumps(A)}}}', "a name twice"),
        ('{"a": ' + "[" * 100_000, "damaged"),
        ("{]", "damaged"),
    ],
)
def test_a_table_that_does_not_match_the_data_is_refused(table: Mapping[str, Any] | str, says: str) -> None:
    report = written(table)
    assert report.refused
    assert says in report.findings[0].what


def test_a_table_longer_than_its_file_is_refused() -> None:
    data = (2**40).to_bytes(8, "little") + b'{"a":1}'
    assert scan_bytes(memoryview(data), Path("m.safetensors")).refused


@given(st.data())
def test_no_change_of_bytes_makes_the_scan_fail(data: st.DataObject) -> None:
    content = bytearray(save({"a": np.ones(3), "b": np.ones(2)}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    scan_bytes(memoryview(content), Path("m.safetensors")).to_json()
