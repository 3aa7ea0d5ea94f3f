"""Reads and writes routes and the audit log, inside a transaction of the caller."""

from __future__ import annotations

import json
import time
from typing import Any

from sqlalchemy import (
    Connection,
    RowMapping,
    Text,
    cast,
    delete,
    desc,
    insert,
    inspect,
    literal,
    select,
    union_all,
    update,
)

from penstock.registry.audit import Entry, actor
from penstock.registry.database.tables import AUDIT, ROUTES, ROUTES_REVISION
from penstock.registry.routes import Route, Routes, StoredRoute, stored_routes

_NONE = cast(literal(""), Text)
_REVISION = select(
    cast(literal(""), Text), cast(literal("{}"), Text), ROUTES_REVISION.c.value, ROUTES_REVISION.c.value, _NONE
)
_ROUTES = select(*(ROUTES.c[name] for name in ("name", "record", "revision", "updated_at", "updated_by")))


def read(connection: Connection) -> Routes:
    """Every route. Tables of an older release that could not be upgraded hold none."""
    return stored_routes(rows(connection))


def rows(connection: Connection) -> list[tuple[Any, ...]]:
    """Every route, as `stored_routes` takes them."""
    if not inspect(connection).has_table(ROUTES.name):
        return []
    return [tuple(row) for row in connection.execute(union_all(_REVISION, _ROUTES))]


def revision(connection: Connection) -> int:
    """A counter that every change of a route increases."""
    if not inspect(connection).has_table(ROUTES.name):
        return 0
    return connection.execute(select(ROUTES_REVISION.c.value)).scalar() or 0


def put(connection: Connection, route: Route, what: str) -> StoredRoute:
    """Store a route in place of the one of its name, counted and audited as a change by the current `actor`."""
    before, now = read(connection).get(route.name), _count(connection)
    connection.execute(delete(ROUTES).where(ROUTES.c.name == route.name))
    stored = StoredRoute(route, now, _milliseconds(), actor().who)
    row = {
        "name": route.name,
        "record": json.dumps(route.to_record()),
        "revision": now,
        "updated_at": stored.updated_at,
        "updated_by": stored.updated_by,
    }
    connection.execute(insert(ROUTES).values(row))
    _log_route(connection, what, before, route)
    return stored


def drop(connection: Connection, name: str, what: str) -> bool:
    """Remove a route, also one that cannot be read; False if there is none."""
    before = read(connection).get(name)
    found = connection.execute(delete(ROUTES).where(ROUTES.c.name == name))
    if found.rowcount:
        _count(connection)
        _log_route(connection, what, before, None)
    return found.rowcount > 0


def log(connection: Connection, what: str, before: Any, after: Any) -> None:
    """Add a change by the current `actor` to the audit log. `before` and `after` are JSON values."""
    who, why = actor()
    row = {"at": _milliseconds(), "who": who, "what": what[:200], "why": why}
    values = {"before": json.dumps(before), "after": json.dumps(after)}
    connection.execute(insert(AUDIT).values(row | values))


def entries(connection: Connection, limit: int, prefix: str = "") -> list[Entry]:
    """The newest entries of the audit log, the newest first; only those whose `what` begins with the prefix."""
    if not inspect(connection).has_table(AUDIT.name):
        return []
    query = select(AUDIT).order_by(desc(AUDIT.c.id)).limit(limit)
    if prefix:
        query = query.where(AUDIT.c.what.startswith(prefix, autoescape=True))
    return [_entry(row) for row in connection.execute(query).mappings()]


def _entry(row: RowMapping) -> Entry:
    before, after = json.loads(row["before"]), json.loads(row["after"])
    return Entry(row["at"], row["who"], row["what"], row["why"], before, after)


def _log_route(connection: Connection, what: str, before: StoredRoute | None, after: Route | None) -> None:
    old = None if before is None else before.route.to_record()
    log(connection, what, old, None if after is None else after.to_record())


def _count(connection: Connection) -> int:
    """Count up the revision of the routes; its new value."""
    if not connection.execute(update(ROUTES_REVISION).values(value=ROUTES_REVISION.c.value + 1)).rowcount:
        connection.execute(insert(ROUTES_REVISION).values(id=1, value=1))
    return int(connection.execute(select(ROUTES_REVISION.c.value)).scalar_one())


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
