"""Live servers: the same suite runs against the built-in server (h1), Granian (RSGI) and Uvicorn (ASGI)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import burst_models
import httpx
import pytest
from live_servers import Live, Process
from served_models import build_registry
from waiting import LONG_S

from penstock.gateway.process.sockets import free_address
from penstock.settings import Settings

Database = Callable[[Path], str]


@pytest.fixture(scope="session")
def registry_path(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Path:
    root = tmp_path_factory.mktemp("served")
    return build_registry(root, database(root / "registry"))


@pytest.fixture(scope="session")
def base_settings(registry_path: Path, database: Database) -> Settings:
    """Small limits, which tests can reach quickly."""
    return Settings(
        registry=registry_path,
        database_url=database(registry_path),
        threads=1,
        max_body_bytes=200_000,
        max_queue_size=4,
        batch_size=4,
        request_timeout_ms=60_000,
        cors_origins="https://app.example",
    )


@pytest.fixture(scope="session")
def burst_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Models for bursts. One kind of database is enough: bundles do not touch it."""
    registry = burst_models.build_registry(tmp_path_factory.mktemp("bursts"))
    return Settings(registry=registry, threads=1, max_queue_size=1024, cors_origins="https://app.example")


@pytest.fixture(scope="session")
def live(base_settings: Settings) -> Iterator[Live]:
    """One server for all tests that do not change it: over h1 on SQLite, over ASGI on PostgreSQL.

    This covers each kind of server and each database, without every combination.
    """
    kind = "asgi" if str(base_settings.database_url).startswith("postgresql") else "h1"
    with Live(kind, base_settings) as server:
        yield server


@pytest.fixture
def http(live: Live) -> httpx.Client:
    return live.http


@pytest.fixture
def free_port() -> int:
    return free_address("127.0.0.1", 0)[1]


@pytest.fixture
def serve(tmp_path: Path, free_port: int, database: Database) -> Iterator[Callable[..., Process]]:
    """Start `penstock serve` on a free port, on the database that belongs to its registry."""
    started: list[Process] = []

    def start(*arguments: str, port: int = free_port, **environ: str) -> Process:
        place = arguments[arguments.index("--registry") + 1] if "--registry" in arguments else "registry"
        environ.setdefault("DATABASE_URL", database(tmp_path / place))
        started.append(Process(tmp_path, port, *arguments, **environ))
        return started[-1]

    yield start
    for process in started:
        process.end()


@contextmanager
def _raw(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=LONG_S) as connection:
        yield connection


@pytest.fixture
def raw_connection(live: Live) -> Callable[[], Any]:
    """A raw socket to the server, for requests that no client library sends."""
    return lambda: _raw(live.port)
