"""Leases: the right of one process to decide, until it ends. Inside a transaction of the caller.

A lease has a name, and a token that counts up when another process takes it over: what a process has begun to decide
is dropped if that happens meanwhile. The clock is the database's.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, insert, inspect, select, text, update

from penstock.registry.database.tables import LEASE

_CLOCKS = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
}


class Lease(NamedTuple):
    """The right to decide, until another process has taken it over: its token is higher then."""

    holder: str
    token: int


def clock(connection: Connection) -> float:
    """The time of the database in seconds since 1970."""
    return float(connection.execute(text(_CLOCKS[connection.dialect.name])).scalar_one())


def may_take(connection: Connection, name: str, holder: str) -> bool:
    """True unless another process has the lease."""
    if not inspect(connection).has_table(LEASE.name):
        return True
    row = connection.execute(select(LEASE.c.holder, LEASE.c.until).where(LEASE.c.name == name)).first()
    return row is None or row.holder == holder or row.until < clock(connection)


def take(connection: Connection, name: str, holder: str, seconds: float) -> Lease | None:
    """Take the lease if it is free, renew it if it is one's own."""
    now = clock(connection)
    this = LEASE.c.name == name
    row = connection.execute(select(LEASE.c.holder, LEASE.c.token, LEASE.c.until).where(this)).first()
    if row is None:
        connection.execute(insert(LEASE).values(name=name, holder=holder, token=1, until=now + seconds))
        return Lease(holder, 1)
    if row.holder == holder and row.until >= now:
        connection.execute(update(LEASE).where(this).values(until=now + seconds))
        return Lease(holder, row.token)
    if row.until >= now:
        return None
    connection.execute(update(LEASE).where(this).values(holder=holder, token=row.token + 1, until=now + seconds))
    return Lease(holder, row.token + 1)


def release(connection: Connection, name: str, lease: Lease) -> None:
    """Let the lease end now, if it is still the same."""
    connection.execute(update(LEASE).where(LEASE.c.name == name, LEASE.c.token == lease.token).values(until=0.0))


def holds(connection: Connection, name: str, lease: Lease) -> bool:
    """True while no other process has taken the lease over, and it has not ended."""
    this = (LEASE.c.name == name, LEASE.c.holder == lease.holder, LEASE.c.token == lease.token)
    until = connection.execute(select(LEASE.c.until).where(*this)).scalar()
    return until is not None and until >= clock(connection)
