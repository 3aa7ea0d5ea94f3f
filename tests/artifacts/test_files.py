"""Files that are written whole or not at all."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from full_disks import full
from small_disks import small_disk

from penstock.artifacts.files import replacing
from penstock.backends.row_independence import RowProof
from penstock.engine.batching.row_proofs import write_proof
from penstock.engine.loading.selection_cache import SelectionResult, write_selection
from penstock.errors import not_written


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def test_a_full_disk_leaves_the_file_that_was_there_and_nothing_else(disk: Path) -> None:
    file = disk / "report.html"
    file.write_text("before")
    with full(disk), pytest.raises(OSError) as caught, replacing(file) as new:  # noqa: PT011  its sentence is below
        new.write_text("after" * 10_000)
    assert not_written(caught.value, file) == f"the disk that holds {file} is full; free space on it"
    assert [path.name for path in disk.iterdir()] == ["report.html"]
    assert file.read_text() == "before"
    with replacing(file) as new:
        new.write_text("after")
    assert file.read_text() == "after"


def test_a_pipe_is_written_itself(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with replacing(pipe) as new:
        new.write_text("through")
    reader.join()
    assert read == ["through"]
    assert pipe.is_fifo()


def test_caches_on_a_full_disk_say_so_and_leave_nothing(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    cache = disk / "cache"
    cache.mkdir()
    with full(disk):
        write_proof(cache / "proof.json", RowProof(True, 0.0, 0.0, "measured"))
        write_selection(cache / "selection.json", "digest", [SelectionResult("onnx", True, "fastest")], thorough=True)
    assert [record.getMessage() for record in caplog.records] == [
        f"{what} is not kept: the disk that holds {cache} is full; free space on it"
        for what in ("the proof that rows are independent", "the selection of a variant")
    ]
    assert list(cache.iterdir()) == []
