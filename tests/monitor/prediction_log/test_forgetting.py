"""Records of a key are removed, whatever happens meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from waiting import wait_until

from penstock.errors import ConfigError
from penstock.monitor.prediction_log import forgetting
from penstock.monitor.prediction_log.forgetting import forget
from penstock.monitor.prediction_log.reading import LogReader
from penstock.monitor.prediction_log.records import Record, line_of
from penstock.monitor.prediction_log.segments import OpenSegment, compress, segments
from penstock.monitor.prediction_log.writing import Caps, SegmentWriter


def line(number: int, key: str | None) -> bytes:
    return line_of(Record(at=1.7e9, request_id=f"r{number}", model="m", version="1", outcome="ok", key=key))


def written(directory: Path, start: int, *keys: str | None, packed: bool = False) -> Path:
    path = directory / f"predictions.1.{start}.jsonl"
    path.write_bytes(b"".join(line(start * 100 + index, key) for index, key in enumerate(keys)))
    os.utime(path, (1.6e9, 1.6e9))
    return compress(path) if packed else path


def keys(directory: Path) -> list[str | None]:
    return [record.key for record in LogReader(directory)]


def is_mine(record: Record) -> bool:
    return record.key == "mine"


def test_every_segment_loses_the_records_of_the_key_and_no_other(tmp_path: Path) -> None:
    plain, packed = written(tmp_path, 1, "mine", "other", None), written(tmp_path, 2, "other", "mine", packed=True)
    untouched, gone = written(tmp_path, 3, "other", packed=True), written(tmp_path, 4, "mine", "mine", packed=True)
    before = untouched.stat().st_ino
    assert forget(tmp_path, is_mine) == (4, 0, 3)
    assert keys(tmp_path) == ["other", None, "other", "other"]
    assert untouched.stat().st_ino == before
    assert not gone.exists()
    assert {path.stat().st_mtime for path in (plain, packed)} == {1.6e9}  # retention counts from the records' time
    assert forget(tmp_path, is_mine) == (0, 0, 0)
    assert b"mine" not in plain.read_bytes()


def test_damaged_lines_go_as_well(tmp_path: Path) -> None:
    path = written(tmp_path, 1, "other", "other")
    path.write_bytes(path.read_bytes() + b'{"v":1,"key":"mi')
    cut = written(tmp_path, 2, *["other"] * 50, packed=True)
    cut.write_bytes(cut.read_bytes()[:-20])
    assert forget(tmp_path, is_mine).damaged == 2
    reader = LogReader(tmp_path)
    assert {record.key for record in reader} == {"other"}
    assert reader.warning is None


def test_a_server_that_writes_completes_its_segment_first(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, Caps(2**30, 30))
    writer.begin()
    assert writer.write([line(1, "mine"), line(2, "other")])
    ending = threading.Event()

    def serve() -> None:
        while not ending.wait(0.01):
            writer.tend()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert forget(tmp_path, is_mine).records == 1
    finally:
        ending.set()
        thread.join()
    assert writer.write([line(3, "other")])
    writer.close()
    assert keys(tmp_path) == ["other", "other"]


def test_a_server_that_does_not_answer_is_named_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "COMPLETE_S", 0.1)
    written(tmp_path, 1, "mine")
    segment = OpenSegment(tmp_path)
    segment.append(line(5, "mine"))
    with pytest.raises(ConfigError, match=r"does not complete it; nothing was removed"):
        forget(tmp_path, is_mine)
    segment.close()
    assert keys(tmp_path) == ["mine", "mine"]


SLOWLY = """
import sys, time
from pathlib import Path
from penstock.monitor.prediction_log.forgetting import forget
seen = 0
def goes(record):
    global seen
    seen += 1
    if seen % 40 == 0:
        Path(sys.argv[1], "progress").write_text(str(seen))
        time.sleep(0.01)
    return record.key == "mine"
forget(Path(sys.argv[1]), goes)
"""


def test_a_log_is_whole_after_a_kill_in_the_middle_and_forgets_at_the_next_time(tmp_path: Path) -> None:
    for start in range(1, 9):
        written(tmp_path, start, *["mine", "other", "third"] * 30, packed=bool(start % 2))
    for pause in (40, 200, 500, 900):
        with subprocess.Popen([sys.executable, "-c", SLOWLY, str(tmp_path)]) as process:
            progress = tmp_path / "progress"
            wait_until(
                lambda: process.poll() is not None
                or (progress.exists() and int(progress.read_text() or 0) >= pause)  # noqa: B023
            )
            os.kill(process.pid, signal.SIGKILL)
        progress.unlink(missing_ok=True)
        reader = LogReader(tmp_path)
        found = [record.key for record in reader]
        assert reader.warning is None
        assert found.count("other") == found.count("third") == 240
        assert found.count("mine") % 30 == 0  # a segment has them all, or none
    forget(tmp_path, is_mine)
    assert keys(tmp_path).count("mine") == 0
    assert len(keys(tmp_path)) == 480
    assert len(list(tmp_path.glob("*.new"))) == 0
    assert len(segments(tmp_path)) == 8
