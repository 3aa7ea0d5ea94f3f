"""The writer of a segment: rotation, retention, and disks that fail."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from small_disks import small_disk

from penstock.monitor.prediction_log.reading import LogReader
from penstock.monitor.prediction_log.records import Record, line_of
from penstock.monitor.prediction_log.segments import segments
from penstock.monitor.prediction_log.writing import RETRY_S, ROTATE, ROTATE_S, Caps, SegmentWriter

CAPS = Caps(2**30, 30)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def line(number: int, size: int = 0) -> bytes:
    return line_of(Record(at=1.7e9, request_id=f"r{number}", model="m" + "x" * size, version="1", outcome="ok"))


def ids(path: Path) -> list[str]:
    return [each.request_id for each in LogReader(path)]


def test_a_segment_is_completed_after_its_time_and_compressed(tmp_path: Path, clock: Clock) -> None:
    writer = SegmentWriter(tmp_path, CAPS, clock)
    writer.begin()
    assert writer.write([line(1)])
    clock.now += ROTATE_S
    writer.tend()
    assert writer.write([line(2)])
    writer.close()
    assert [path.name.partition(".jsonl")[2] for path in segments(tmp_path)] == [".zst", ""]
    assert ids(tmp_path) == ["r1", "r2"]


def test_the_log_stays_within_its_caps(tmp_path: Path, clock: Clock) -> None:
    caps = Caps(2**20, 30)
    writer = SegmentWriter(tmp_path, caps, clock)
    writer.begin()
    for number in range(300):
        assert writer.write([line(1000 * number + n) for n in range(80)])
        writer.tend()
        assert sum(path.stat().st_size for path in segments(tmp_path)) < 2**20 + 2 * caps.segment
    assert ids(tmp_path)[-1] == "r299079"
    writer.close()


def test_a_process_completes_its_segment_when_asked(tmp_path: Path, clock: Clock) -> None:
    writer = SegmentWriter(tmp_path, CAPS, clock)
    writer.begin()
    writer.write([line(1)])
    writer.tend()
    assert segments(tmp_path, opened=False) == []
    (tmp_path / ROTATE).touch()
    writer.tend()
    assert len(segments(tmp_path, opened=False)) == 1
    writer.close()


def test_a_full_disk_stops_the_log_until_there_is_room_again(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        writer = SegmentWriter(disk, CAPS, clock)
        writer.begin()
        written = 0
        while writer.write([line(written, 50_000)]):
            written += 1
        assert 10 < written < 25
        assert not writer.write([line(99)])
        clock.now += RETRY_S
        assert not writer.write([line(99, 50_000)])
        assert ids(disk) == [f"r{number}" for number in range(written)]
        assert LogReader(disk).warning is None
        ballast = disk / "predictions.1.1.jsonl"
        ballast.write_bytes(b"")
        clock.now += RETRY_S
        assert writer.write([line(100)])
        writer.close()
        assert ids(disk) == [*(f"r{number}" for number in range(written)), "r100"]
    messages = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(messages) == 2
    assert "the disk that holds it is full; free space on it" in messages[0]
    assert "is written again" in messages[1]


LIMITED = """
import resource, sys
from pathlib import Path
from penstock.monitor.prediction_log.reading import LogReader
from penstock.monitor.prediction_log.records import Record, line_of
from penstock.monitor.prediction_log.writing import Caps, SegmentWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
writer = SegmentWriter(Path(sys.argv[1]), Caps(2**30, 30))
writer.begin()
written = 0
while writer.write([line_of(Record(at=1.7e9, request_id=f"r{written}", model="m", version="1", outcome="ok"))] * 7):
    written += 7
print(written, len(list(LogReader(Path(sys.argv[1])))), writer.stopped)
"""


def test_a_write_that_fails_halfway_leaves_whole_lines(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    written, found, reason = done.stdout.split(maxsplit=2)
    assert int(written) == int(found) > 500
    assert reason.strip().startswith("a file on the disk that holds it would be larger than is allowed")


def test_a_log_that_is_removed_by_hand_begins_anew(tmp_path: Path, clock: Clock) -> None:
    writer = SegmentWriter(tmp_path / "log", CAPS, clock)
    writer.begin()
    assert writer.write([line(1)])
    for path in (tmp_path / "log").iterdir():
        path.unlink()
    (tmp_path / "log").rmdir()
    assert writer.write([line(2)])
    assert ids(tmp_path / "log") == ["r2"]
    writer.close()
