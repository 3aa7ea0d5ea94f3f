"""Our own server as a child process: one configuration of it on a free port of this machine, ended with the block."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import ConfigError, ModelLoadError, PenstockError, shortened
from penstock.settings import PREFIX, alias_of
from penstock.toolchain.tune.configuration import KEYS, Configuration
from penstock.toolchain.tune.settings_file import changed

HOST = "127.0.0.1"
START_S = 300.0
"""The longest a server may take to load its model."""
_GRACE_S = 10.0
_LOOK_S = 0.02
_TRIES = 3
_IN_USE = "is in use on"


OUTSIDE = ("alert_webhooks", "otlp_endpoint", "prediction_log", "rate_limit", "require_auth")
"""What a measurement must not do: send alerts and traces, write its load into the prediction log, be refused."""


@dataclass(frozen=True)
class Serving:
    """What is served: `name:version`, further arguments of `penstock serve`, and the directory where it starts."""

    ref: str
    arguments: tuple[str, ...]
    directory: Path


@contextmanager
def running(serving: Serving, configuration: Configuration, config: str) -> Iterator[str]:
    """A server that is ready, by its URL; `config` is its settings file.

    Raises ModelLoadError or ConfigError with the sentence of a server that does not start.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-tune-", ignore_cleanup_errors=True) as place:
        directory = Path(place)
        settings = directory / "penstock.toml"
        settings.write_text(changed(config, dict.fromkeys(OUTSIDE)), encoding="utf-8")
        process, url = _started(serving, configuration, settings, directory / "log")
        try:
            yield url
        finally:
            _stop(process)


def _started(
    serving: Serving, configuration: Configuration, settings: Path, log: Path
) -> tuple[subprocess.Popen[bytes], str]:
    """Start it, on another port when another process took the free one in the meantime."""
    for tries_left in reversed(range(_TRIES)):
        port = free_port()
        process = _popen(_command(serving, configuration, settings, port), serving.directory, log)
        try:
            _wait_until_ready(process, configuration.workers, log)
        except BaseException as error:
            _stop(process)
            if isinstance(error, PenstockError) and _IN_USE in str(error) and tries_left:
                continue
            raise
        return process, f"http://{HOST}:{port}"
    raise AssertionError("the last try raises")


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _command(serving: Serving, configuration: Configuration, settings: Path, port: int) -> list[str]:
    """The server without the variables that would take precedence over what is tuned, and without cached answers."""
    unset = [part for name in environment_names() for part in ("-u", name)]
    options = [
        f"--{key.replace('_', '-')}={value}" for key, value in configuration.settings().items() if value is not None
    ]
    command = [sys.executable, "-m", "penstock.cli.main", "serve", serving.ref, "--config", str(settings)]
    command += ["--host", HOST, "--port", str(port), "--log-format", "json", "--log-level", "info"]
    return [
        "env",
        *unset,
        f"{PREFIX}CACHE_SIZE=0",
        f"{PREFIX}REQUIRE_AUTH=false",
        *command,
        *options,
        *serving.arguments,
    ]


def environment_names() -> Iterator[str]:
    """The names in the environment of what is tuned, and of what would reach others."""
    for key in (*KEYS, *OUTSIDE):
        yield f"{PREFIX}{key.upper()}"
        alias = alias_of(key)
        if alias is not None:
            yield alias


def _popen(command: list[str], directory: Path, log: Path) -> subprocess.Popen[bytes]:
    guard = [sys.executable, "-m", "penstock.toolchain.tune.guard", str(_GRACE_S), str(log.parent)]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*guard, *command],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches tune alone, which ends it
        )


def _wait_until_ready(process: subprocess.Popen[bytes], workers: int, log: Path) -> None:
    """Return when every worker has loaded the model. Raises its sentence when it ends before."""
    ends = time.monotonic() + START_S
    while _ready(log) < workers:
        if process.poll() is not None:
            raise _failure(log)
        if time.monotonic() > ends:
            raise ModelLoadError(f"the server was not ready after {START_S:g} s; {_last_words(log)}")
        time.sleep(_LOOK_S)


def _ready(log: Path) -> int:
    return sum(line.get("event") == "ready" for line in _records(log))


def _records(log: Path) -> Iterator[dict[str, object]]:
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


def _failure(log: Path) -> PenstockError:
    words = _last_words(log)
    return ConfigError(words) if _IN_USE in words else ModelLoadError(words)


def _last_words(log: Path) -> str:
    """The sentence with which the server ended, or its last line."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("penstock: ")), None)
    if said is not None:
        return said.removeprefix("penstock: ")
    return f"the server ended while it started; its last line: {shortened(lines[-1]) if lines else 'nothing'}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and wait until it is gone."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(2 * _GRACE_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
