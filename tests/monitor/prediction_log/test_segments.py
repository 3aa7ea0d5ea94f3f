"""The files of a prediction log, after every kind of accident."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import wait_until

from penstock.monitor.prediction_log.reading import LogReader, lines_of
from penstock.monitor.prediction_log.records import Record, line_of
from penstock.monitor.prediction_log.segments import (
    OpenSegment,
    changing,
    clean,
    compress,
    prune,
    recover,
    replace,
    segments,
)


def record(number: int) -> Record:
    return Record(at=1.7e9 + number, request_id=f"r{number}", model="m", version="1", outcome="ok")


LINES = [line_of(record(number)) for number in range(3)]


def ids(path: Path) -> list[str]:
    return [each.request_id for each in LogReader(path)]


def abandoned(directory: Path, content: bytes) -> Path:
    """An open segment whose process has ended."""
    path = directory / "predictions.1.1700000000000.jsonl.open"
    path.write_bytes(content)
    return path


def test_what_is_written_can_be_read_at_once_and_after_it_is_complete(tmp_path: Path) -> None:
    segment = OpenSegment(tmp_path)
    segment.append(LINES[0] + LINES[1])
    assert ids(tmp_path) == ["r0", "r1"]
    complete = segment.close()
    assert complete is not None
    assert ids(tmp_path) == ["r0", "r1"]
    assert compress(complete).name.endswith(".jsonl.zst")
    assert ids(tmp_path) == ["r0", "r1"]
    assert len(segments(tmp_path)) == 1


def test_an_empty_segment_leaves_no_file(tmp_path: Path) -> None:
    assert OpenSegment(tmp_path).close() is None
    assert segments(tmp_path) == []


def test_a_segment_that_ends_anywhere_keeps_its_whole_lines(tmp_path: Path) -> None:
    for cut in range(len(b"".join(LINES)) + 1):
        content = b"".join(LINES)[:cut]
        path = abandoned(tmp_path, content)
        whole = [f"r{number}" for number in range(content.count(b"\n"))]
        assert ids(tmp_path) == whole
        assert recover(tmp_path) == 1
        assert segments(tmp_path) == [path.with_name(path.name.removesuffix(".open"))][: len(whole)]
        assert not whole or ids(tmp_path) == whole
        for left in segments(tmp_path):
            left.unlink()


@pytest.mark.parametrize("kind", ["", ".zst"])
def test_a_complete_segment_that_is_cut_off_gives_what_is_before(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "predictions.1.1.jsonl"
    many = [line_of(record(number)) for number in range(40 if kind else 3)]
    path.write_bytes(b"".join(many))
    if kind:
        path = compress(path)
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        reader = LogReader(path)
        found = [each.request_id for each in reader]
        assert found == [f"r{number}" for number in range(len(found))]
        if kind and cut:
            assert reader.cut_off == [path]
        elif not kind:
            whole = content[:cut].count(b"\n")
            assert len(found) in (whole, whole + 1)  # a line that lacks its end alone is whole


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=30), max_size=6))
def test_any_bytes_between_lines_are_skipped(garbage: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "predictions.1.1.jsonl"
        path.write_bytes(b"".join(b"\n" + each + b"\n" + LINES[0] for each in garbage) + LINES[1])
        assert [found for found in ids(path) if found == "r0"] == ["r0"] * len(garbage)
        assert ids(path)[-1] == "r1"


def test_the_segment_of_a_live_process_is_left_alone(tmp_path: Path) -> None:
    segment = OpenSegment(tmp_path)
    segment.append(LINES[0])
    assert recover(tmp_path) == 0
    segment.append(LINES[1])
    segment.close()
    assert ids(tmp_path) == ["r0", "r1"]


WRITER = """
import sys
import tempfile
from pathlib import Path
from penstock.monitor.prediction_log.segments import OpenSegment
segment = OpenSegment(Path(sys.argv[1]))
line = sys.argv[2].encode() + b"\\n"
while True:
    segment.append(line * 50)
"""


def test_a_log_is_valid_after_its_process_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), LINES[0].decode().strip()]
    with subprocess.Popen(command) as writer:
        wait_until(lambda: any(path.stat().st_size > 1000 for path in segments(tmp_path)))
        assert recover(tmp_path) == 0
        os.kill(writer.pid, signal.SIGKILL)
    assert recover(tmp_path) == 1
    reader = LogReader(tmp_path)
    assert set(ids(tmp_path)) == {"r0"}
    assert reader.warning is None


def test_of_a_segment_that_is_there_twice_after_a_crash_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "predictions.1.1.jsonl"
    path.write_bytes(b"".join(LINES))
    compress(path)
    path.write_bytes(b"".join(LINES))
    (tmp_path / "predictions.1.1.jsonl.zst.new").write_bytes(b"half")
    assert ids(tmp_path) == ["r0", "r1", "r2"]
    clean(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["predictions.1.1.jsonl.zst"]


def test_rewriting_that_fails_leaves_the_old_segment(tmp_path: Path) -> None:
    path = compress(_complete(tmp_path, 1))

    def pieces():
        yield LINES[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        replace(path, pieces(), path)
    assert ids(tmp_path) == ["r0", "r1", "r2"]
    assert len(list(tmp_path.iterdir())) == 1


def _complete(directory: Path, start: int) -> Path:
    path = directory / f"predictions.1.{start}.jsonl"
    path.write_bytes(b"".join(LINES))
    return path


def test_segments_that_are_too_old_or_too_many_are_removed_oldest_first(tmp_path: Path) -> None:
    paths = [_complete(tmp_path, start) for start in (1, 2, 3, 4)]
    now = 1_700_000_000.0
    for age, path in zip((40, 3, 2, 1), paths, strict=True):
        os.utime(path, (0, now - age * 86400))
    size = paths[0].stat().st_size
    assert prune(tmp_path, 10 * size, 30, now) == 1
    assert segments(tmp_path) == paths[1:]
    assert prune(tmp_path, 2 * size, 30, now) == 1
    assert segments(tmp_path) == paths[2:]


def test_segments_are_read_in_the_order_of_their_starts(tmp_path: Path) -> None:
    for start, number in ((10, 0), (9, 1)):
        (tmp_path / f"predictions.7.{start}.jsonl").write_bytes(LINES[number])
    (tmp_path / "predictions.notes.txt").write_text("no segment")
    assert ids(tmp_path) == ["r1", "r0"]


def test_the_lock_excludes_other_writers(tmp_path: Path) -> None:
    with changing(tmp_path) as mine, changing(tmp_path) as other:
        assert mine
        assert not other
    with changing(tmp_path) as mine:
        assert mine


def test_a_reader_finds_a_segment_that_was_compressed_meanwhile(tmp_path: Path) -> None:
    path = _complete(tmp_path, 1)
    reader = LogReader(tmp_path)
    compress(path)
    assert [each.request_id for each in reader] == ["r0", "r1", "r2"]
    assert list(lines_of(path)) == [line.strip() for line in LINES]
