"""Reads and writes what servers follow besides routes: the Deployment and the API keys, each in one statement."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Text, cast, delete, insert, inspect, literal, select, union_all, update

from penstock.artifacts.manifest import utc_now
from penstock.registry.audit import actor
from penstock.registry.database.tables import ALIASES, DEPLOYMENT, KEYS, KEYS_REVISION, REVISION
from penstock.registry.deployment import Deployment, stored_deployment, stored_fields

_EMPTY = cast(literal(""), Text)
_REVISION = select(cast(literal("revision"), Text), cast(REVISION.c.value, Text), _EMPTY, _EMPTY)
_ALIASES = select(
    cast(literal("alias"), Text),
    *(cast(c, Text) for c in (ALIASES.c.name, ALIASES.c.alias)),
    cast(ALIASES.c.version, Text),
)
_DOCUMENT = select(cast(literal("document"), Text), DEPLOYMENT.c.document, _EMPTY, _EMPTY)

_KEYS_REVISION = select(cast(literal(""), Text), cast(literal("{}"), Text), KEYS_REVISION.c.value)
_KEYS = select(cast(KEYS.c.id, Text), KEYS.c.record, literal(0))


def read_deployment(connection: Connection) -> Deployment:
    """The current value. Tables of an older release that could not be upgraded hold aliases only."""
    parts = [_REVISION, _ALIASES]
    if inspect(connection).has_table(DEPLOYMENT.name):
        parts.append(_DOCUMENT)
    revision, document = 0, "{}"
    aliases: dict[str, dict[str, str]] = {}
    for kind, first, alias, version in connection.execute(union_all(*parts)):
        if kind == "revision":
            revision = int(first)
        elif kind == "document":
            document = first
        else:
            aliases.setdefault(first, {})[alias] = version
    return stored_deployment(revision, aliases, document)


def write_deployment(connection: Connection, deployment: Deployment) -> None:
    """Store the value. Fields of the row that this release does not know are kept."""
    found = connection.execute(select(DEPLOYMENT.c.document)).scalar()
    document = stored_fields(found or "{}") | deployment.to_document()
    connection.execute(delete(DEPLOYMENT))
    connection.execute(insert(DEPLOYMENT).values(id=1, document=json.dumps(document), updated_at=utc_now()))


def key_rows(connection: Connection) -> list[tuple[Any, ...]]:
    """Of every key its id, its record as JSON and 0, and one row with the revision of all and an empty id."""
    if not inspect(connection).has_table(KEYS.name):  # tables of an older release that could not be upgraded
        return []
    return [tuple(row) for row in connection.execute(union_all(_KEYS_REVISION, _KEYS))]


def keys_revision(connection: Connection) -> int:
    """A counter that every change of a key increases."""
    if not inspect(connection).has_table(KEYS.name):
        return 0
    return connection.execute(select(KEYS_REVISION.c.value)).scalar() or 0


def put_key(connection: Connection, key: str, record: Mapping[str, Any]) -> None:
    """Store a key in place of the one with its id, as a change by the current `actor`."""
    connection.execute(delete(KEYS).where(KEYS.c.id == key))
    row = {"id": key, "record": json.dumps(record), "updated_at": time.time_ns() // 1_000_000}
    connection.execute(insert(KEYS).values(row | {"updated_by": actor().who}))
    if not connection.execute(update(KEYS_REVISION).values(value=KEYS_REVISION.c.value + 1)).rowcount:
        connection.execute(insert(KEYS_REVISION).values(id=1, value=1))
