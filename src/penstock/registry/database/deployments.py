"""Reads and writes the Deployment: one row of JSON, the aliases, and the revision, in one statement."""

from __future__ import annotations

import json

from sqlalchemy import Connection, Text, cast, delete, insert, inspect, literal, select, union_all

from penstock.artifacts.manifest import utc_now
from penstock.registry.database.tables import ALIASES, DEPLOYMENT, REVISION
from penstock.registry.deployment import Deployment, stored_deployment, stored_fields

_EMPTY = cast(literal(""), Text)
_REVISION = select(cast(literal("revision"), Text), cast(REVISION.c.value, Text), _EMPTY, _EMPTY)
_ALIASES = select(
    cast(literal("alias"), Text),
    *(cast(c, Text) for c in (ALIASES.c.name, ALIASES.c.alias)),
    cast(ALIASES.c.version, Text),
)
_DOCUMENT = select(cast(literal("document"), Text), DEPLOYMENT.c.document, _EMPTY, _EMPTY)


def read(connection: Connection) -> Deployment:
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


def write(connection: Connection, deployment: Deployment) -> None:
    """Store the value. Fields of the row that this release does not know are kept."""
    found = connection.execute(select(DEPLOYMENT.c.document)).scalar()
    document = stored_fields(found or "{}") | deployment.to_document()
    connection.execute(delete(DEPLOYMENT))
    connection.execute(insert(DEPLOYMENT).values(id=1, document=json.dumps(document), updated_at=utc_now()))
