"""NumPy's files are parsed by NumPy's own reader: however an array of objects is written, it is found."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from crafted import evil_pickle, packed
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.scan.arrays import MAX_HEADER
from penstock.scan.findings import Report
from penstock.scan.scanner import scan_bytes


def written(header: str, values: bytes = bytes(8), version: int = 1) -> bytes:
    """A `.npy` file with a header of one's own."""
    text = header.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + values


def header(descr: str, shape: str = "(1,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def report(data: bytes, name: str = "m.npy") -> Report:
    return scan_bytes(memoryview(data), Path(name))


def saved(*arrays: object) -> bytes:
    buffer = io.BytesIO()
    for array in arrays:
        np.save(buffer, np.asarray(array), allow_pickle=True)
    return buffer.getvalue()


def zipped(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(array) for name, array in arrays.items()})
    return buffer.getvalue()


OBJECTS = [
    "'O'",
    "'|O'",
    "'O8'",
    "'object'",
    "'\\x7cO'",
    "'\\117'",
    "'\\N{LATIN CAPITAL LETTER O}'",
    "'' '|O'",
    "[('a', '<f4'), ('b', '|O')]",
    "[('a', [('b', [('c', 'O')])])]",
    "[('a', '|O', (2, 3))]",
    "('|O', (2,))",
    "'f4,O'",
    "'(2,)O'",
    "'T'",
]


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("descr", OBJECTS)
def test_an_array_of_objects_is_found_however_it_is_written(descr: str, version: int) -> None:
    for text in (header(descr), " " * 5000 + header(descr), header(" " * 5000 + descr)):
        found = report(written(text, evil_pickle(Path("marker")), version))
        assert found.tier == "code" or found.refused, text
    found = report(written(header(descr), version=version))
    assert (found.kind, found.tier, found.refused) == ("array", "code", False)


def test_an_array_of_objects_in_an_archive_is_found() -> None:
    for descr in OBJECTS:
        data = packed({"a.npy": saved([1.0]), "b.npy": written(header(descr))})
        found = report(data, "m.npz")
        assert (found.kind, found.tier, found.refused) == ("arrays", "code", False)
        assert found.findings[0].what.startswith("b.npy: ")


def test_an_array_of_objects_after_another_array_is_found() -> None:
    assert report(saved([1.0], np.array([{}], dtype=object))).tier == "code"
    assert not report(saved([1.0], [2.0, 3.0], "text")).findings


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u8", "?", "c16", "S5", "U3", "M8[ns]", "V4", "i4,f4"])
def test_arrays_of_plain_values_are_data(dtype: str) -> None:
    for shape in ((), (3,), (2, 0, 4), (2, 3)):
        array = np.zeros(shape, dtype)
        for order in (array, np.asfortranarray(array)):
            found = report(saved(order))
            assert (found.kind, found.tier, found.findings) == ("array", "data", ())
    assert report(zipped(a=np.zeros(3, dtype), b=np.zeros((2, 2), dtype)), "m.npz").findings == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (header("'<f8'", "(2,)"), "cut short"),
        (header("'<f8'", "(-1,)"), "no list of at most 64 lengths"),
        (header("'<f8'", "(True,)"), "no list of at most 64 lengths"),
        (header("'<f8'", f"({'1,' * 65})"), "no list of at most 64 lengths"),
        (header("'<f8'", "(9999999999999999999999,)"), "no list of at most 64 lengths"),
        (header("'<f8'")[:20], "damaged"),
        (header("__import__('os').system('touch marker')"), "damaged"),
        ("(" * 9000, "damaged"),
        ("-" * 9000 + "1", "damaged"),
        ("[" * 5000 + "]" * 5000, "damaged"),
        (" " * (MAX_HEADER + 1), "has 10001 bytes; at most 10000 are read"),
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_header_that_is_none_is_refused(text: str, says: str, version: int) -> None:
    found = report(written(text, version=version))
    assert found.refused
    assert says in found.findings[0].what
    inside = report(packed({"a.npy": written(text, version=version)}), "m.npz")
    assert inside.refused
    assert inside.findings[0].what.startswith("'a.npy'")


def test_an_array_that_is_none_is_refused() -> None:
    assert report(written(header("'<f8'"), version=9)).refused
    assert report(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100).refused
    assert report(b"plain text", "m.npy").refused
    assert report(packed({"a.npy": saved([1.0]) + b"more"}), "m.npz").refused
    assert report(packed({"a.npy": b"", "b.npy": saved([1.0])}), "m.npz").refused


DESCRIPTIONS = st.recursive(
    st.sampled_from(["|O", "O", "<f4", "object", "S3", "<i8", "T", "V0", "?"]),
    lambda inner: st.lists(st.tuples(st.sampled_from("abc"), inner), min_size=1, max_size=3)
    | st.tuples(inner, st.tuples(st.integers(0, 3))),
    max_leaves=6,
)


@given(DESCRIPTIONS, st.text("{}()[]'\"\\OPx7c|,:#\n ", max_size=8), st.sampled_from([1, 2, 3]))
@example("O", "", 3)
def test_what_numpy_refuses_without_pickles_is_never_data(descr: object, noise: str, version: int) -> None:
    text = repr({"descr": descr, "fortran_order": False, "shape": (1,)})
    place = len(text) * len(noise) // 9
    data = written(text[:place] + noise + text[place:] + "\n", bytes(64), version)
    if report(data).tier == "data" and not report(data).refused:
        np.load(io.BytesIO(data), allow_pickle=False)


@given(st.data())
def test_no_change_of_bytes_makes_the_scan_fail(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([saved([1.0, 2.0]), zipped(a=[1.0]), saved({"a": 1})])))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    report(bytes(content)).to_json()
