"""The number and order of source files that one warm prediction crosses in the running server."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from live_servers import Live

import penstock
from penstock.settings import Settings

SOURCE = str(Path(penstock.__file__).parent)
MOST_FILES = 14
MOST_CHANGES = 45
REQUESTS = 9


@contextmanager
def calls_recorded() -> Iterator[list[tuple[str, str]]]:
    """The file and function of every call into the source, in every thread that starts from now on."""
    calls: list[tuple[str, str]] = []

    def hook(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            calls.append((frame.f_code.co_filename.removeprefix(SOURCE).lstrip("/"), frame.f_code.co_name))

    threading.setprofile(hook)
    sys.setprofile(hook)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def shown(calls: list[tuple[str, str]]) -> str:
    return "\n".join(
        f"{file}: {' '.join(name for _, name in group)}" for file, group in groupby(calls, lambda call: call[0])
    )


def test_a_warm_prediction_crosses_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with calls_recorded() as calls, Live("h1", Settings(), ("digits",)) as live:
        request = {"input_data": [0.0] * 784}
        for _ in range(20):
            assert live.http.post("/inference/predict", json=request).status_code == 200
        ways = []
        for _ in range(REQUESTS):
            calls.clear()
            assert live.http.post("/inference/predict", json=request).status_code == 200
            ways.append([call for call in list(calls) if call[0]])
    way = min(ways, key=len)
    files = {file for file, _ in way}
    changes = sum(1 for _ in groupby(way, lambda call: call[0])) - 1
    with capsys.disabled():
        print(f"\n{len(files)} files, {changes} changes of file:\n{shown(way)}")
    assert len(files) <= MOST_FILES
    assert changes <= MOST_CHANGES
