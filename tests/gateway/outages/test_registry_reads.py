"""Replies about models while the database of the registry is lost, or does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_servers import Live
from served_models import build_registry
from sqlalchemy import create_engine, text
from waiting import LONG_S, wait_until

from penstock.errors import ConfigError, ModelNotFound
from penstock.gateway.outages.registry_reads import FROM_MEMORY, RegistryReads, RememberedModels
from penstock.registry.deployment import Deployment
from penstock.settings import Settings

Database = Callable[[Path], str]


async def test_a_read_that_hangs_is_given_up_and_the_next_ones_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.gateway.outages.registry_reads.LATE_S", 0.02)
    reads, gate = RegistryReads(), threading.Event()
    try:
        with pytest.raises(ConfigError, match=r"did not answer within 0\.02 s"):
            await reads.read(lambda: gate.wait(LONG_S))
        monkeypatch.setattr("penstock.gateway.outages.registry_reads.LATE_S", LONG_S)
        with pytest.raises(ConfigError, match="does not answer"):
            await reads.read(lambda: "never read")
        gate.set()
        late = reads._late
        assert late is not None
        late.result(LONG_S)
        assert await reads.read(lambda: "read again") == "read again"
    finally:
        gate.set()
        reads.close()


def test_what_is_remembered_is_as_the_registry_would_say() -> None:
    known = RememberedModels(
        {"m": ["1.0.0", "2.0.0", "3.0.0-rc1"], "n": ["v1", "v2"]},
        Deployment(7, {"n": {"champion": "v1", "beta": "v2"}}),
    )
    assert known.list() == ["m", "n"]
    assert known.resolve("m") == ("m", "2.0.0")
    assert known.resolve("n") == ("n", "v1")
    assert known.aliases("n") == {"beta": "v2", "champion": "v1"}
    assert known.aliases("m") == {}
    with pytest.raises(ModelNotFound, match="there is no model x"):
        known.resolve("x")


@pytest.fixture
def server(tmp_path: Path, database: Database) -> Iterator[Live]:
    """A server with a registry of its own, which knows what is in it."""
    path = build_registry(tmp_path)
    settings = Settings(registry=path, database_url=database(path), threads=1)
    with Live("h1", settings, ("vec",)) as live:
        wait_until(lambda: "raw" in live.service.known_versions)
        yield live


def without_remark(body: Any) -> Any:
    return {**body, "remark": None}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_lost_database_leaves_the_list_of_models_as_it_was_known(server: Live) -> None:
    paths = ("/models", "/models/vec")
    before = [server.http.get(path).json() for path in paths]
    assert [body["remark"] for body in before] == [None, None]
    database = Path(str(server.service.engine.registry.database_url).removeprefix("sqlite:///"))
    database.rename(database.with_name("away"))
    for path, expected in zip(paths, before, strict=True):
        reply = server.http.get(path)
        assert reply.status_code == 200, reply.text
        assert reply.json()["remark"] == FROM_MEMORY
        assert without_remark(reply.json()) == expected
    assert server.http.get("/models/none").status_code == 404
    assert server.http.get("/models/vec/versions/v2.0").json()["loaded"]  # it is loaded, so it is known
    database.with_name("away").rename(database)
    assert server.http.get("/models").json() == before[0]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_database_that_does_not_answer_delays_no_reply_for_long(server: Live) -> None:
    """It accepts what is asked and says nothing, as when it is frozen: here a lock keeps the answers back."""
    before = server.http.get("/models").json()
    engine = create_engine(str(server.service.settings.database_url).replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE penstock_aliases IN ACCESS EXCLUSIVE MODE"))
        began = time.monotonic()
        replies = [server.http.get("/models") for _ in range(5)]
        assert time.monotonic() - began < 8  # the first waits for a second, none for the time-outs of the database
        assert [reply.status_code for reply in replies] == [200] * 5
        assert {reply.json()["remark"] for reply in replies} == {FROM_MEMORY}
        assert without_remark(replies[0].json()) == before
    engine.dispose()
    wait_until(lambda: server.http.get("/models").json() == before)
