"""The requests of keys with a quota, by day or month, as all servers of a registry have counted them together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

from sqlalchemy import Connection, delete, insert, inspect, select, update

from penstock.registry.access.quota import Period
from penstock.registry.database.tables import KEY_USAGE

KEPT_S = 400 * 86400
"""How long the figures of a period that is over are kept."""

Counted: TypeAlias = tuple[str, Period]
"""A key and a period of its quota."""


def add(connection: Connection, counts: Mapping[Counted, int]) -> None:
    """Add requests to those that are counted."""
    for (key, period), count in counts.items():
        this = (KEY_USAGE.c.key == key, KEY_USAGE.c.period == period.name)
        if connection.execute(update(KEY_USAGE).where(*this).values(used=KEY_USAGE.c.used + count)).rowcount:
            continue
        old = (KEY_USAGE.c.key == key, KEY_USAGE.c.ends_at < period.ends_at - KEPT_S)
        connection.execute(delete(KEY_USAGE).where(*old))
        row = {"key": key, "period": period.name, "ends_at": period.ends_at, "used": count}
        connection.execute(insert(KEY_USAGE).values(row))


def used(connection: Connection, wanted: Collection[Counted]) -> dict[Counted, int]:
    """The requests of these keys in these periods."""
    if not wanted or not inspect(connection).has_table(KEY_USAGE.name):  # of an older release, and not writable
        return dict.fromkeys(wanted, 0)
    query = select(KEY_USAGE.c.key, KEY_USAGE.c.period, KEY_USAGE.c.used)
    of_these = query.where(KEY_USAGE.c.period.in_({period.name for _, period in wanted}))
    found = {(key, period): int(count) for key, period, count in connection.execute(of_these)}
    return {(key, period): found.get((key, period.name), 0) for key, period in wanted}
