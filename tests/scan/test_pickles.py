"""Pickles are analysed without being run, and those that hide their operations are refused."""

from __future__ import annotations

import collections
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from crafted import Payload, changed, evil_pickle
from hypothesis import given
from hypothesis import strategies as st
from torch._weights_only_unpickler import _get_allowed_globals

from penstock.scan.findings import Refused
from penstock.scan.pickles import WEIGHTS, Name, names_of
from penstock.scan.scanner import scan_bytes, scan_file


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def state() -> dict[str, torch.Tensor]:
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).state_dict()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_a_pickle_would_call_is_named_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "marker"
    names = names_of(pickle.dumps([Payload(marker)], protocol=protocol))
    assert names == {Name("posix", "system")}
    assert not marker.exists()


def test_the_payload_of_these_tests_runs_if_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pickle.loads(evil_pickle(marker))
    assert marker.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_is_data(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(saved(state(), _use_new_zipfile_serialization=not legacy))
    report = scan_file(path, "pytorch")
    assert (report.tier, report.findings) == ("data", ())


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_runs_a_command_needs_trust(tmp_path: Path, legacy: bool) -> None:
    path, marker = tmp_path / "m.pt", tmp_path / "marker"
    content = {"weight": torch.ones(2), "more": Payload(marker)}
    path.write_bytes(saved(content, _use_new_zipfile_serialization=not legacy))
    report = scan_file(path, "pytorch")
    assert report.tier == "code"
    assert "posix.system" in report.findings[0].what
    assert not marker.exists()


def test_a_whole_module_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(saved(torch.nn.Linear(2, 2)))
    assert scan_file(path, "pytorch").tier == "code"


@pytest.mark.parametrize("name", ["extra/data.pkl", "DATA.PKL", "evil.pkl", "code.py", "inner.zip"])
def test_a_checkpoint_holds_one_pickle_and_nothing_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.pt"
    content = changed(saved(state()), **{name.replace("/", "__").replace(".", "_dot_"): evil_pickle(tmp_path / "x")})
    path.write_bytes(content)
    assert scan_file(path, "pytorch").refused


def test_the_names_allowed_for_weights_are_those_pytorch_looks_up() -> None:
    known = set(_get_allowed_globals()) | {"__builtin__.bytearray", "__builtin__.complex", "__builtin__.set"}
    known |= {name for name in WEIGHTS if name.startswith("torch.cuda.Q")}
    assert known >= WEIGHTS - newer_than_this_pytorch(known)


def newer_than_this_pytorch(known: set[str]) -> set[str]:
    """Small number types differ between versions; none of them can be called."""
    return {
        name for name in WEIGHTS - known if name.startswith(("torch.float8", "torch.float4", "torch.int", "torch.uint"))
    }


GLOBAL = b"cposix\nsystem\n"


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("a command before a broken end", b"\x80\x02" + GLOBAL + b"X\x04\x00\x00\x00true\x85R\xff\xff"),
        ("a command before a missing end", b"\x80\x02" + GLOBAL + b"X\x04\x00\x00\x00true\x85R"),
        ("an empty stack", b"\x80\x02R."),
        ("a registered extension", b"\x80\x02\x82\x01."),
        ("a name from a call", b"\x80\x04\x8c\x05posix\x8c\x03sys\x8c\x03tem\x86\x93."),
        ("a name from a persistent id", b"\x80\x04\x8c\x05posix\x8c\x01x\x51\x93."),
        ("a memo that was never filled", b"\x80\x02h\x05."),
        ("a mark as a value", b"\x80\x02(."),
        ("values left behind", b"\x80\x02NN."),
        ("an empty module", b"\x80\x04\x8c\x00\x8c\x06system\x93."),
        ("no text as a module", b"\x80\x04K\x01K\x02\x93."),
    ],
)
def test_a_pickle_with_names_computed_at_run_time_is_refused(what: str, data: bytes) -> None:
    with pytest.raises(Refused, match="its pickle"):
        names_of(data)


def test_a_name_assembled_from_the_memo_is_found() -> None:
    data = b"\x80\x04\x8c\x06system\x940\x8c\x05posix\x940h\x01h\x00\x93."  # both noted, dropped, and fetched again
    assert names_of(data) == {Name("posix", "system")}


@pytest.mark.parametrize("first", [b"\x80\x02N.", b"\x80\x02]."])
def test_a_second_pickle_after_a_harmless_one_is_found(first: bytes, tmp_path: Path) -> None:
    assert names_of(first + evil_pickle(tmp_path / "x")) == {Name("posix", "system")}


def test_a_class_from_a_mark_is_found() -> None:
    assert names_of(b"(iposix\nsystem\n.") == {Name("posix", "system")}
    assert names_of(b"(cposix\nsystem\nNo.") == {Name("posix", "system")}


def test_a_deeper_attribute_of_an_allowed_module_needs_trust() -> None:
    data = b"\x80\x04\x8c\x05torch\x8c\x10_utils.os.system\x93."
    report = scan_bytes(memoryview(data), Path("m.pt"), "pytorch")
    assert report.tier == "code"


def test_a_tar_archive_is_refused(tmp_path: Path) -> None:
    import tarfile

    path = tmp_path / "m.pt"
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "pickle")
    report = scan_file(path, "pytorch")
    assert report.refused
    assert "tar" in report.findings[0].what


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(min_size=1),
    lambda inner: st.lists(inner)
    | st.dictionaries(st.text(), inner)
    | st.tuples(inner, inner)
    | st.sets(st.integers()),
    max_leaves=12,
)


@given(PLAIN, st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_plain_values_need_only_the_names_that_weights_need(value: Any, protocol: int) -> None:
    names = {str(name) for name in names_of(pickle.dumps(collections.OrderedDict(a=value), protocol=protocol))}
    assert names <= WEIGHTS


@given(st.binary(max_size=200))
def test_any_bytes_are_scanned_or_refused(data: bytes) -> None:
    scan_bytes(memoryview(data), Path("m.pkl")).to_json()


@given(st.data())
def test_no_change_of_bytes_makes_the_scan_fail(data: st.DataObject) -> None:
    content = bytearray(saved(state(), _use_new_zipfile_serialization=False))[:800]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    scan_bytes(memoryview(content), Path("m.pt"), "pytorch").to_json()
