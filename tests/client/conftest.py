"""A tiny real HTTP server that gives scripted responses."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from scripted_replies import Scripted


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as scripted:
        thread = threading.Thread(target=scripted.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield scripted
        scripted.shutdown()
        thread.join()
