"""Alerts and messages in the database: decided once, kept until taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import text, update

from penstock.errors import ConfigError
from penstock.registry.alert_book import ABANDONED_S, AlertBook, Decided, Message, NewMessage, StoredAlert
from penstock.registry.database import leases
from penstock.registry.database.leases import Lease
from penstock.registry.database.store import Store, downgrade, upgrade
from penstock.registry.database.tables import LEASE, OUTBOX

SERVER = "host:1"
FORGET_S = 100.0
ONE = StoredAlert("f1", SERVER, "A", {"phase": "firing", "value": float("inf")}, 5.0)
NEWS = NewMessage("f1", "f1-t-firing", "{}")


@pytest.fixture
def address(tmp_path: Path, database: Callable[[Path], str]) -> str:
    return database(tmp_path)


@pytest.fixture
def book(address: str) -> Iterator[AlertBook]:
    opened = AlertBook(address)
    yield opened
    opened.close()


def lease(book: AlertBook, holder: str = "a", server: str = SERVER) -> Lease:
    found = book.lease(server, holder, 60.0)
    assert found is not None
    return found


def decide(
    book: AlertBook,
    alerts: Sequence[StoredAlert] = (),
    messages: Sequence[NewMessage] = (),
    *,
    server: str = SERVER,
    receivers: Sequence[str] = ("r1", "r2"),
) -> list[StoredAlert]:
    """Decide so; what there was before."""
    seen: list[StoredAlert] = []

    def work(now: float, stored: Sequence[StoredAlert]) -> Decided:
        assert now > 1.7e9
        seen.extend(stored)
        return Decided(alerts, messages)

    assert book.decide(server, lease(book, server, server), work, receivers, FORGET_S)
    return seen


def messages(book: AlertBook, receiver: str = "r1", server: str = SERVER) -> list[Message]:
    return book.messages(server, receiver)


def test_nothing_is_there_before_the_first_alert(book: AlertBook) -> None:
    assert (book.alerts(), book.waiting(), messages(book)) == ([], 0, [])


def test_alerts_are_what_was_decided_last(book: AlertBook) -> None:
    assert decide(book, [ONE]) == []
    assert book.alerts() == [ONE]
    changed = ONE._replace(state={"phase": "pending"}, looked_at=1e12)
    assert decide(book, [changed, changed._replace(fingerprint="f2")]) == [ONE]
    assert book.alerts() == [changed, changed._replace(fingerprint="f2")]
    decide(book)
    assert book.alerts() == []


def test_a_message_waits_for_every_receiver_until_it_is_taken(book: AlertBook) -> None:
    decide(book, [ONE], [NEWS])
    first, second = messages(book, "r1"), messages(book, "r2")
    assert [(m.key, m.payload, m.attempts, m.receiver) for m in first + second] == [
        ("f1-t-firing", "{}", 0, "r1"),
        ("f1-t-firing", "{}", 0, "r2"),
    ]
    assert first[0].due_s <= 0
    book.taken(first[0].id)
    assert (messages(book, "r1"), len(messages(book, "r2")), book.waiting()) == ([], 1, 1)
    assert (book.waiting(SERVER), book.waiting("host:2")) == (1, 0)


def test_a_message_that_waits_already_is_not_told_twice(book: AlertBook) -> None:
    decide(book, [ONE], [NEWS])
    decide(book, [ONE], [NEWS, NEWS._replace(key="f1-t-resolved")])
    assert [m.key for m in messages(book)] == ["f1-t-firing", "f1-t-resolved"]


def test_a_failed_message_is_due_again_later(book: AlertBook) -> None:
    decide(book, [ONE], [NEWS])
    book.again(messages(book)[0].id, 32.0)
    (message,) = messages(book)
    assert message.attempts == 1
    assert 20.0 < message.due_s <= 32.0


def test_one_process_of_a_server_decides_and_each_server_has_one(book: AlertBook) -> None:
    lease(book, "a")
    assert book.lease(SERVER, "b", 60.0) is None
    lease(book, "b", "host:2")
    book.release(SERVER, lease(book, "a"))
    assert lease(book, "b").token == 2


def test_what_is_decided_without_the_lease_is_dropped(book: AlertBook) -> None:
    old = lease(book, "a")
    book.release(SERVER, old)
    lease(book, "b")
    assert not book.decide(SERVER, old, lambda *_: Decided([ONE], [NEWS]), ["r1"], FORGET_S)
    assert (book.alerts(), book.waiting()) == ([], 0)


def test_an_error_while_deciding_changes_nothing(book: AlertBook) -> None:
    decide(book, [ONE], [NEWS])

    def fails(*_: object) -> Decided:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        book.decide(SERVER, lease(book, SERVER), fails, ["r1"], FORGET_S)
    assert (book.alerts(), book.waiting()) == ([ONE], 2)


def test_a_server_leaves_the_alerts_of_another_alone_while_that_looks_at_them(book: AlertBook) -> None:
    fresh, old = ONE._replace(looked_at=1e12), ONE._replace(fingerprint="f2", looked_at=5.0)
    decide(book, [fresh, old])
    assert decide(book, server="host:2") == [old]
    assert book.alerts() == [fresh]


def test_the_messages_of_a_server_that_is_gone_are_sent_by_another_with_the_same_receiver(
    book: AlertBook, address: str
) -> None:
    decide(book, [ONE], [NEWS])
    decide(book, server="host:2", receivers=["r1"])
    assert messages(book, "r1", "host:2") == []
    store = Store(address)
    store.write(
        lambda connection: connection.execute(update(LEASE).values(until=leases.clock(connection) - ABANDONED_S - 1))
    )
    store.close()
    decide(book, server="host:2", receivers=["r1"])
    assert ([m.key for m in messages(book, "r1", "host:2")], len(messages(book, "r2"))) == (["f1-t-firing"], 1)


def test_the_tables_of_the_release_before_hold_no_alerts_and_its_lease_goes_on(book: AlertBook, address: str) -> None:
    decide(book, [ONE], [NEWS])
    store = Store(address)
    with store._database.writer.begin() as connection:
        leases.take(connection, "canaries", "holder", 60.0)
        downgrade(connection, "0006")
        assert connection.execute(text("SELECT holder, token FROM penstock_lease")).all() == [("holder", 1)]
        upgrade(connection)
        assert leases.may_take(connection, "canaries", "other") is False
    store.close()
    assert (book.alerts(), book.waiting()) == ([], 0)


def test_a_database_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"no database" * 100)
    book = AlertBook(f"sqlite:///{tmp_path}/registry.db")
    with pytest.raises(ConfigError, match="cannot be used"):
        book.lease(SERVER, "a", 60.0)
    book.close()


def test_a_receiver_is_stored_without_its_address() -> None:
    assert {"url", "address"}.isdisjoint(OUTBOX.columns.keys())
