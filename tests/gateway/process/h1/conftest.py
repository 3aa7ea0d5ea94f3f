"""The server that the tests of the built-in front share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from h1_server import connection_to, everything, server_with
from live_servers import Live


@pytest.fixture(scope="session")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with server_with(tmp_path_factory.mktemp("front")) as live:
        yield live


@pytest.fixture
def exchange(front: Live) -> Callable[..., bytes]:
    """Send bytes, and return all that comes until the server closes."""

    def run(sent: bytes) -> bytes:
        with connection_to(front) as connection:
            connection.sendall(sent)
            return everything(connection)

    return run
