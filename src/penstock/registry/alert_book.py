"""The alerts of servers and the messages about them, in the registry's database.

Each server has a lease of its own: of its processes one decides. What it decides and the messages about it are one
transaction, so that a restart neither repeats nor forgets one. A message stays until its receiver has taken it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, delete, func, insert, inspect, select, update

from penstock.registry.database import leases
from penstock.registry.database.leases import Lease
from penstock.registry.database.store import Store
from penstock.registry.database.tables import ALERTS, LEASE, OUTBOX

T = TypeVar("T")

ABANDONED_S = 300.0
"""After so long without its lease a server does not send its messages any more; another one does."""
_MOST = 1000
"""Messages that are read at once."""


class StoredAlert(NamedTuple):
    """An alert that is pending or firing. `state` is a JSON value of `penstock.monitor.alerts`."""

    fingerprint: str
    server: str
    name: str
    state: Mapping[str, Any]
    looked_at: float


class NewMessage(NamedTuple):
    """A message for every receiver: one with the same `key` that waits already is the same."""

    fingerprint: str
    key: str
    payload: str


class Message(NamedTuple):
    """A message that one receiver has not taken yet. `due_s` is the time until it should be sent, `age_s` its age."""

    id: int
    receiver: str
    fingerprint: str
    key: str
    payload: str
    attempts: int
    age_s: float
    due_s: float


class Decided(NamedTuple):
    """The alerts that there are now, of those that were shown, and what is to be told."""

    alerts: Sequence[StoredAlert]
    messages: Sequence[NewMessage]


Work = Callable[[float, Sequence[StoredAlert]], Decided]
"""What decides, from the time and the stored alerts."""


class AlertBook:
    """The alerts of one database. Every method raises ConfigError if the database cannot be used."""

    def __init__(self, url: str) -> None:
        self._store = Store(url)

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self._store.close()

    def alerts(self) -> list[StoredAlert]:
        """The alerts of all servers."""
        return self._read(ALERTS.name, lambda connection: _alerts(connection, ALERTS.c.server != ""), [])

    def waiting(self, server: str | None = None) -> int:
        """How many messages no receiver has taken yet, of all servers or one."""
        count = select(func.count()).select_from(OUTBOX)
        if server is not None:
            count = count.where(OUTBOX.c.server == server)
        return self._read(OUTBOX.name, lambda connection: int(connection.execute(count).scalar_one()), 0)

    # The process that decides

    def lease(self, server: str, holder: str, seconds: float) -> Lease | None:
        """Take or renew the lease of a server; None while another process has it."""
        name = _lease_name(server)
        if not self._store.read(lambda connection: leases.may_take(connection, name, holder), True):
            return None  # most processes only look, which locks nothing
        return self._store.write(lambda connection: leases.take(connection, name, holder, seconds))

    def release(self, server: str, lease: Lease) -> None:
        """Give the lease up, so that another process need not wait until it ends."""
        self._store.write(lambda connection: leases.release(connection, _lease_name(server), lease))

    def decide(self, server: str, lease: Lease, work: Work, receivers: Collection[str], forget_s: float) -> bool:
        """Do what `work` decides. False if the lease was lost: nothing is done.

        It is shown the alerts of this server, and those of others that have not been looked at for `forget_s`.
        """

        def done(connection: Connection) -> bool:
            if not leases.holds(connection, _lease_name(server), lease):
                return False
            now = leases.clock(connection)
            shown = _alerts(connection, (ALERTS.c.server == server) | (ALERTS.c.looked_at < now - forget_s))
            decided = work(now, shown)
            _replace(connection, shown, decided.alerts)
            for receiver in receivers:
                _put(connection, server, receiver, decided.messages, now)
            _adopt(connection, server, receivers, now)
            return True

        return self._store.write(done)

    # The process that sends

    def messages(self, server: str, receiver: str) -> list[Message]:
        """What waits for a receiver, the oldest first."""
        return self._read(OUTBOX.name, lambda connection: _messages(connection, server, receiver), [])

    def taken(self, message: int) -> None:
        """Forget a message: its receiver has it, or never will."""
        self._store.write(lambda connection: connection.execute(delete(OUTBOX).where(OUTBOX.c.id == message)))

    def again(self, message: int, after_s: float) -> None:
        """Send a message again, later."""

        def done(connection: Connection) -> None:
            due_at = leases.clock(connection) + after_s
            values = {"attempts": OUTBOX.c.attempts + 1, "due_at": due_at}
            connection.execute(update(OUTBOX).where(OUTBOX.c.id == message).values(values))

        self._store.write(done)

    def _read(self, table: str, work: Callable[[Connection], T], default: T) -> T:
        """What is read, unless the tables are of an older release."""
        return self._store.read(
            lambda connection: work(connection) if inspect(connection).has_table(table) else default, default
        )


def _lease_name(server: str) -> str:
    return f"alerts {server}"[:200]


def _alerts(connection: Connection, where: Any) -> list[StoredAlert]:
    query = select(ALERTS).where(where).order_by(ALERTS.c.name, ALERTS.c.fingerprint)
    return [
        StoredAlert(row.fingerprint, row.server, row.name, json.loads(row.state), row.looked_at)
        for row in connection.execute(query)
    ]


def _replace(connection: Connection, before: Sequence[StoredAlert], after: Sequence[StoredAlert]) -> None:
    known, kept = {alert.fingerprint: alert for alert in before}, {alert.fingerprint for alert in after}
    if gone := known.keys() - kept:
        connection.execute(delete(ALERTS).where(ALERTS.c.fingerprint.in_(gone)))
    for alert in after:
        row = {**alert._asdict(), "state": json.dumps(alert.state)}
        if alert.fingerprint not in known:
            connection.execute(insert(ALERTS).values(row))
        elif alert != known[alert.fingerprint]:
            connection.execute(update(ALERTS).where(ALERTS.c.fingerprint == alert.fingerprint).values(row))


def _put(connection: Connection, server: str, receiver: str, messages: Sequence[NewMessage], now: float) -> None:
    for message in messages:
        same = select(OUTBOX.c.id).where(OUTBOX.c.receiver == receiver, OUTBOX.c.key == message.key)
        if connection.execute(same).first() is None:
            times = {"attempts": 0, "created_at": now, "due_at": now}
            row = {**message._asdict(), "server": server, "receiver": receiver, **times}
            connection.execute(insert(OUTBOX).values(row))


def _adopt(connection: Connection, server: str, receivers: Collection[str], now: float) -> None:
    """Take over the messages of servers that are gone."""
    others = select(OUTBOX.c.server).where(OUTBOX.c.server != server, OUTBOX.c.receiver.in_(receivers)).distinct()
    for other in connection.execute(others).scalars().all():
        until = connection.execute(select(LEASE.c.until).where(LEASE.c.name == _lease_name(other))).scalar()
        if until is None or until < now - ABANDONED_S:
            these = (OUTBOX.c.server == other, OUTBOX.c.receiver.in_(receivers))
            connection.execute(update(OUTBOX).where(*these).values(server=server))


def _messages(connection: Connection, server: str, receiver: str) -> list[Message]:
    now = leases.clock(connection)
    these = (OUTBOX.c.server == server, OUTBOX.c.receiver == receiver)
    columns = (OUTBOX.c.id, OUTBOX.c.receiver, OUTBOX.c.fingerprint, OUTBOX.c.key, OUTBOX.c.payload, OUTBOX.c.attempts)
    query = select(*columns, OUTBOX.c.created_at, OUTBOX.c.due_at).where(*these).order_by(OUTBOX.c.id).limit(_MOST)
    return [Message(*row[:6], now - row.created_at, row.due_at - now) for row in connection.execute(query)]
