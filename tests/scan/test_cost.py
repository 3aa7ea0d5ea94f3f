"""What a scan costs is proportional to the file, in time and in memory. Work is counted, and no clock is read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from costly_files import FAMILIES, GRAPHS, MANIFESTS, YAML, onnx
from counted_work import CountingList, peak_bytes, work
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.artifacts.manifest import Manifest
from penstock.backends.onnx.cost import depends_on_rows_only
from penstock.backends.onnx.hints import read_hints
from penstock.backends.onnx.weights import weigh
from penstock.documents import read_yaml
from penstock.errors import InvalidInput, UnsupportedFormat
from penstock.scan import opcodes
from penstock.scan.findings import Refused
from penstock.scan.scanner import scan_bytes

SMALL, FACTOR = 2_000, 4
STEPS_PER_BYTE, BYTES_PER_BYTE = 100, 120
"""An opcode of one byte takes up to 100 lines."""
FREE_STEPS, FREE_BYTES = 4_000, 5_000_000
"""What has a fixed limit: NumPy's headers, nodes of YAML, the first faults of a manifest."""


def require_linear(make: Callable[[int], Callable[[], object]], size: Callable[[int], int]) -> None:
    """Four times the file costs four times as much and not more, and each byte costs little."""
    make(SMALL)()  # what is imported and compiled on the first call
    small, large = work(make(SMALL)), work(make(SMALL * FACTOR))
    assert large.steps <= (FACTOR + 0.5) * small.steps + FREE_STEPS
    assert large.steps <= STEPS_PER_BYTE * size(SMALL * FACTOR) + FREE_STEPS
    assert large.peak_bytes <= BYTES_PER_BYTE * size(SMALL * FACTOR) + FREE_BYTES


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scan_is_linear_in_the_file(family: str) -> None:
    def make(n: int) -> Callable[[], object]:
        name, data = FAMILIES[family](n)
        return lambda: scan_bytes(memoryview(data), Path(name))

    require_linear(make, lambda n: len(FAMILIES[family](n)[1]))


@pytest.mark.parametrize("family", MANIFESTS)
def test_reading_a_manifest_is_linear_in_it(family: str) -> None:
    def make(n: int) -> Callable[[], object]:
        data = MANIFESTS[family](n)

        def read() -> None:
            with contextlib.suppress(InvalidInput):
                assert Manifest.from_bytes(data).to_bytes()

        return read

    require_linear(make, lambda n: len(MANIFESTS[family](n)))


@pytest.mark.parametrize("family", YAML)
def test_reading_yaml_is_linear_in_it(family: str, tmp_path: Path) -> None:
    def make(n: int) -> Callable[[], object]:
        path = tmp_path / f"{n}.yaml"
        path.write_text(YAML[family](n))

        def read() -> None:
            with contextlib.suppress(UnsupportedFormat):
                assert repr(read_yaml(path))

        return read

    make(SMALL)()
    small, large = work(make(SMALL)), work(make(SMALL * FACTOR))
    assert large.steps <= (FACTOR + 0.5) * small.steps + FREE_STEPS  # each byte takes PyYAML more steps than the limit
    assert large.peak_bytes <= BYTES_PER_BYTE * SMALL * FACTOR + FREE_BYTES


@pytest.mark.parametrize("family", ["ONNX: nodes", "ONNX: nodes in nodes", "pickle: many", "text: as pickles"])
def test_what_is_read_is_not_kept(family: str) -> None:
    name, data = FAMILIES[family](100_000)
    assert peak_bytes(lambda: scan_bytes(memoryview(data), Path(name))) < len(data)


@pytest.mark.parametrize("read", [depends_on_rows_only, read_hints, weigh])
@pytest.mark.parametrize("family", GRAPHS)
def test_reading_an_onnx_graph_is_linear_in_it(family: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    def make(n: int) -> Callable[[], object]:
        path = tmp_path / f"{n}.onnx"
        path.write_bytes(onnx(GRAPHS[family](n))[1])
        return lambda: read(path)

    require_linear(make, lambda n: len(GRAPHS[family](n)))


def test_no_value_on_the_stack_of_a_pickle_is_looked_at_again_and_again() -> None:
    data = b"N" * 2000 + b"(t" * 1000 + b"(NNNt" * 500 + b"."
    stack = CountingList()
    steps = opcodes.Steps(opcodes.Source(data))
    steps._stack = stack
    with pytest.raises(Refused, match="leaves values"):
        steps.run()
    assert stack.touched < 2 * len(data)


FRAGMENTS = st.sampled_from(
    [
        b"N",
        b"(",
        b"t",
        b"l",
        b"]",
        b"a",
        b"e",
        b"2",
        b"0",
        b"\x94",
        b"q\0",
        b"h\0",
        b"K\1",
        b"\x85",
        b"\x86",
        b"}",
        b"s",
    ]
)


@settings(max_examples=40)
@given(st.lists(FRAGMENTS, max_size=4), st.lists(FRAGMENTS, min_size=1, max_size=5))
def test_no_repetition_of_opcodes_costs_more_the_longer_it_is(before: list[bytes], repeated: list[bytes]) -> None:
    def make(times: int) -> bytes:
        return b"\x80\x04" + b"".join(before) + b"".join(repeated) * times + b"."

    def touched(data: bytes) -> int:
        steps = opcodes.Steps(opcodes.Source(data))
        steps._stack = stack = CountingList()
        with contextlib.suppress(Refused):
            steps.run()
        return stack.touched

    assert touched(make(400)) <= 4 * len(make(400))


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("pickle", b"N" + b"\x94" * (opcodes.MAX_MEMO + 1)),
        ("opcodes", b"N0" * (opcodes.MAX_OPCODES // 2 + 1)),
    ],
)
def test_a_pickle_beyond_a_budget_is_refused(what: str, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opcodes, "MAX_MEMO", 1000)
    monkeypatch.setattr(opcodes, "MAX_OPCODES", 2000)
    short = data[:2002]
    for name in ("m.pkl", "m.txt"):
        report = scan_bytes(memoryview(short), Path(name))
        assert report.refused
        assert "more than" in report.findings[0].what


def test_a_large_file_is_not_copied() -> None:
    """The storages after the pickles of an old checkpoint are never read."""
    old = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.\x80\x02}.\x80\x02]."
    data = old + bytes(32 * 2**20)
    assert peak_bytes(lambda: scan_bytes(memoryview(data), Path("m.pt"), "pytorch")) < 2**20
    assert not scan_bytes(memoryview(data), Path("m.pt"), "pytorch").findings
