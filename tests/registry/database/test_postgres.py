"""Properties of a database server: passwords, privileges, locks between hosts, limits, and outages."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from postgres import PASSWORD, Server
from waiting import LONG_S, wait_until

from penstock.artifacts.artifact import Artifact
from penstock.errors import ConfigError
from penstock.registry.database import postgres as module
from penstock.registry.database.store import Store
from penstock.registry.migrations import VERSION_TABLE
from penstock.registry.registry import Registry

Write = Callable[..., Artifact]


@pytest.fixture
def address(postgres: Server) -> str:
    return postgres.new_database()


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    store = Store(address)
    yield store
    store.close()


def _sentence(use: Callable[[], object]) -> str:
    """What a ConfigError says, one line without the password."""
    with pytest.raises(ConfigError) as caught:
        use()
    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


# What is wrong, and what to do


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        (("/d", "/nowhere-d"), "does not exist", "create it with createdb"),
        (("penstock:", "nobody:"), "password authentication failed", "check user and password"),
        ((PASSWORD, "wrong"), "password authentication failed", "check user and password"),
        ((f":{PASSWORD}", ""), "no password supplied", "check user and password"),
        (("127.0.0.1", "nowhere.invalid"), "resolve host", "check the host"),
        (("127.0.0.1:", "127.0.0.1:1"), "", "start it, or check host and port"),
    ],
)
def test_a_refused_connection_is_one_sentence_with_the_fix(
    address: str, change: tuple[str, str], words: str, hint: str
) -> None:
    if change[0] == "127.0.0.1:":
        head, _, name = address.rpartition(":")
        wrong = f"{head}:1/{name.rpartition('/')[2]}"
    else:
        wrong = address.replace(*change)
    message = _sentence(Store(wrong).revision)
    assert words in message
    assert hint in message


def test_an_option_that_the_driver_does_not_know_is_named(address: str) -> None:
    assert "remove that option" in _sentence(Store(f"{address}?schema=public").revision)


def test_missing_privileges_are_named_with_the_grant(postgres: Server, address: str) -> None:
    """Since PostgreSQL 15, a new user may not create tables in the schema public."""
    role = f"r{address.rpartition('/')[2]}"
    postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    store = Store(address.replace("penstock:", f"{role}:"))
    assert store.aliases("m") == {}
    assert "GRANT USAGE, CREATE ON SCHEMA public" in _sentence(store.prepare)
    store.close()


def test_a_database_that_is_read_only_can_be_read(store: Store, postgres: Server, address: str) -> None:
    store.set_alias("m", "champion", "v1")
    postgres.execute(f"ALTER DATABASE {address.rpartition('/')[2]} SET default_transaction_read_only = on")
    store.close()
    assert store.aliases("m") == {"champion": "v1"}
    assert "name the primary" in _sentence(lambda: store.set_alias("m", "champion", "v2"))


def test_a_database_from_the_future_is_named_without_its_password(store: Store, postgres: Server, address: str) -> None:
    store.prepare()
    postgres.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'", address)
    message = _sentence(lambda: store.set_alias("m", "champion", "v1"))
    assert f"penstock:***@127.0.0.1:{postgres.port}" in message
    assert "newer Penstock" in message


# Several hosts


def test_writers_wait_for_each_other_and_no_change_is_lost(address: str) -> None:
    """Hosts with separate connections and without existing tables; every change is counted once."""
    stores = [Store(address) for _ in range(6)]

    def write(number: int) -> None:
        for round_ in range(10):
            stores[number].set_alias("m", f"a{round_}", f"v{number}")
            stores[number].adopt(f"m{round_}", "v1", str(number) * 64)

    with ThreadPoolExecutor(len(stores)) as pool:
        list(pool.map(write, range(len(stores))))
    assert stores[0].revision() == 6 * 10 + 10
    assert len(stores[0].aliases("m")) == len(stores[0].digests()) == 10
    for store in stores:
        store.close()


def test_the_isolation_level_of_the_database_has_no_effect(postgres: Server, address: str) -> None:
    postgres.execute(f"ALTER DATABASE {address.rpartition('/')[2]} SET default_transaction_isolation = 'serializable'")
    test_writers_wait_for_each_other_and_no_change_is_lost(address)


def test_hosts_without_shared_lock_files_exclude_each_other_by_the_database(
    tmp_path: Path, write: Write, address: str
) -> None:
    """One directory through two mounts: each host has its own lock file, the models are the same."""
    source = write()
    with Registry(tmp_path / "one", address) as here, Registry(tmp_path / "two", address) as there:
        inside, go_on = threading.Event(), threading.Event()
        move_in = here._move_in

        def slowly(artifact: Artifact, slot: Path) -> None:
            inside.set()
            assert go_on.wait(LONG_S)
            move_in(artifact, slot)

        here._move_in = slowly  # type: ignore[method-assign]
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(here.publish, source.path)
            assert inside.wait(LONG_S)
            second = pool.submit(there.publish, source.path)
            time.sleep(0.3)
            assert not second.done()
            assert not (there.path / "m").exists()
            go_on.set()
            assert first.result(LONG_S).digest == second.result(LONG_S).digest


def test_a_lock_that_is_never_freed_is_one_sentence(
    store: Store, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.2)
    store.set_alias("m", "champion", "v1")
    with psycopg.connect(address) as holder:
        holder.execute(f"SELECT pg_advisory_xact_lock({module._WRITING})".encode())
        assert store.aliases("m") == {"champion": "v1"}
        assert "another process holds the lock" in _sentence(lambda: store.set_alias("m", "champion", "v2"))
    store.set_alias("m", "champion", "v2")
    assert store.aliases("m") == {"champion": "v2"}


def test_an_oserror_while_the_lock_is_held_is_not_reported_as_a_database_error(store: Store) -> None:
    with pytest.raises(OSError, match="No space left"), store.exclusive():
        raise OSError(28, "No space left on device")


# Connections


def _connections(postgres: Server, address: str) -> int:
    name = address.rpartition("/")[2]
    rows = postgres.execute(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'")
    return int(rows[0][0])


def test_a_process_keeps_few_connections_with_many_threads(store: Store, postgres: Server, address: str) -> None:
    store.prepare()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: (store.aliases("m"), store.set_alias("m", f"a{number % 3}", "v1")), range(64)))
    assert 1 <= _connections(postgres, address) <= module.POOL_SIZE
    store.close()
    wait_until(lambda: not _connections(postgres, address))


def test_a_registry_that_is_not_closed_leaves_no_connection(tmp_path: Path, postgres: Server, address: str) -> None:
    registry = Registry(tmp_path / "registry", address)
    registry.revision()
    assert _connections(postgres, address) == 1
    del registry
    wait_until(lambda: not _connections(postgres, address))


FORKED = """
import os, sys
from penstock.registry.database.store import Store
store = Store(sys.argv[1])
store.set_alias("m", "a", "v")
with store.exclusive():  # in the middle of a transaction, too
    if os.fork() == 0:
        os._exit(0)
    os.wait()
children = []
for number in range(3):
    children.append(os.fork())
    if children[-1] == 0:
        for round in range(30):
            store.set_alias("m", f"a{round}", f"v{number}")
            assert store.aliases("m")["a"] == "v"
        sys.exit(0)  # as multiprocessing leaves: with everything collected
for round in range(30):
    store.set_alias("m", "b", f"v{round}")
    assert store.aliases("m")["b"] == f"v{round}"
for child in children:
    assert os.waitpid(child, 0)[1] == 0
print(store.revision())
"""


def test_a_forked_process_opens_its_own_connections(address: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", FORKED, address], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{1 + 4 * 30}\n", "")


def test_a_restarted_server_is_used_again_without_an_error(tmp_path: Path) -> None:
    with Server() as server:
        store = Store(server.new_database())
        store.set_alias("m", "champion", "v1")
        server.crash()
        assert "start it, or check host and port" in _sentence(store.revision)
        server.start()
        assert store.aliases("m") == {"champion": "v1"}
        store.set_alias("m", "champion", "v2")
        assert store.revision() == 2
        store.close()


def test_a_query_is_repeated_when_the_server_closes_connections_one_by_one(
    store: Store, postgres: Server, address: str
) -> None:
    store.set_alias("m", "champion", "v1")
    name = address.rpartition("/")[2]
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    assert store.aliases("m") == {"champion": "v1"}
