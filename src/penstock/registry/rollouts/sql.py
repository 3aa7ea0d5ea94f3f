"""Reads and writes canaries, their evidence, the decisions and the lease, inside a transaction of the caller."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, desc, insert, inspect, select, update

from penstock.artifacts.manifest import utc_now
from penstock.errors import InvalidInput
from penstock.registry.database import leases, routes
from penstock.registry.database.leases import Lease
from penstock.registry.database.tables import ALIASES, CANARIES, DECISIONS, EVIDENCE, REVISION
from penstock.registry.rollouts.canaries import DecisionRecord, EvidenceRow, Move, StoredCanary
from penstock.registry.routes import Canary, Route, parse_record

CHAMPION = "champion"
_DECISIONS_KEPT = 1000
"""Decisions about one route that are kept."""
LEASE = "canaries"
"""The name of the lease of the process that decides about canaries."""


# Canaries


def live(connection: Connection) -> list[StoredCanary]:
    """Every canary that is watched. Tables of an older release hold none."""
    if not inspect(connection).has_table(CANARIES.name):
        return []
    rows = connection.execute(select(CANARIES).where(CANARIES.c.live == 1).order_by(CANARIES.c.started_at))
    return [_canary(row) for row in rows.mappings()]


def newest(connection: Connection, route: str) -> StoredCanary | None:
    """The newest canary of a route."""
    if not inspect(connection).has_table(CANARIES.name):
        return None
    query = select(CANARIES).where(CANARIES.c.route == route).order_by(desc(CANARIES.c.started_at)).limit(1)
    row = connection.execute(query).mappings().first()
    return None if row is None else _canary(row)


def rejected(connection: Connection, route: str, digest: str) -> str:
    """When and why a digest is not taken, as a predicate: the newest canary with it on this route was rolled back."""
    if not inspect(connection).has_table(CANARIES.name):
        return ""
    where = (CANARIES.c.route == route, CANARIES.c.digest == digest)
    query = select(CANARIES).where(*where).order_by(desc(CANARIES.c.started_at)).limit(1)
    row = connection.execute(query).mappings().first()
    if row is None or row["phase"] != "rolled_back":
        return ""
    at = datetime.fromtimestamp(row["checked_at"], UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"was rolled back before, {at} ({row['sentence']})"


def start(connection: Connection, canary: StoredCanary, route: Route, again: bool) -> StoredCanary:
    """Begin a canary, whose route gets it at share 0."""
    running = newest(connection, canary.route)
    if running is not None and running.live:
        raise InvalidInput(
            f"{canary.route} has a canary already, {running.to}, which is {running.phase}; "
            f"`penstock routes rollback {canary.route}` or `promote` ends it",
            field="to",
        )
    if not again and (why := rejected(connection, canary.route, canary.digest)):
        raise InvalidInput(f"{canary.route}:{canary.to} {why}; again=True tries it once more", field="to")
    found = routes.read(connection).get(canary.route)
    if canary.before != (None if found is None else found.route.to_record()):
        raise InvalidInput(f"the route {canary.route} was changed meanwhile; start the canary again", field="route")
    now = leases.clock(connection)
    canary = replace(canary, started_at=now, entered_at=now, checked_at=now)
    connection.execute(insert(CANARIES).values(_row(canary)))
    routes.put(connection, route, f"route {canary.route}: start canary {canary.to}")
    _log(connection, canary, Move(action="hold", sentence=canary.sentence, phase=canary.phase, step=canary.step), now)
    return canary


def change(connection: Connection, canary: StoredCanary, move: Move, lease: Lease | None) -> bool:
    """Do what was decided, unless the canary was changed meanwhile or the lease is lost."""
    if lease is not None and not leases.holds(connection, LEASE, lease):
        return False
    now = leases.clock(connection)
    values: dict[str, Any] = {
        "phase": move.phase,
        "step": move.step,
        "live": int(move.live),
        "sentence": move.sentence,
        "verdicts": json.dumps(move.verdicts),
        "checked_at": now,
        "changes": canary.changes + 1,
        "token": 0 if lease is None else lease.token,
    }
    if move.entered:
        values["entered_at"] = now
    if move.threshold_ms is not None:
        values["threshold_ms"] = json.dumps(move.threshold_ms)
    this = (CANARIES.c.id == canary.id, CANARIES.c.changes == canary.changes)
    if not connection.execute(update(CANARIES).where(*this).values(values)).rowcount:
        return False
    _change_route(connection, canary, move)
    _log(connection, canary, move, now)
    if not move.live:
        _forget_evidence(connection, canary)
    return True


def watched(connection: Connection, canary: StoredCanary, move: Move, lease: Lease) -> bool:
    """Record the newest figures of a canary that stays where it is."""
    if not leases.holds(connection, LEASE, lease):
        return False
    values = {
        "sentence": move.sentence,
        "verdicts": json.dumps(move.verdicts),
        "checked_at": leases.clock(connection),
        "token": lease.token,
    }
    if move.threshold_ms is not None:
        values["threshold_ms"] = json.dumps(move.threshold_ms)
    this = (CANARIES.c.id == canary.id, CANARIES.c.changes == canary.changes)
    return connection.execute(update(CANARIES).where(*this).values(values)).rowcount > 0


def _change_route(connection: Connection, canary: StoredCanary, move: Move) -> None:
    found = routes.read(connection).get(canary.route)
    what = f"route {canary.route}: {move.action} canary {canary.to}"
    if move.route == "keep":
        return
    if move.route == "restore":
        _restore(connection, canary, found.route if found else None, what)
    elif found is None:
        return  # removed by a person: the aliases say which version answers
    elif move.route == "share":
        salt = found.route.canary.salt if found.route.canary is not None else canary.id
        routes.put(connection, replace(found.route, canary=Canary(canary.to, move.share, salt)), what)
    elif move.route == "promote":
        routes.put(connection, replace(found.route.switched(canary.to), canary=None), what)
        _set_champion(connection, canary.route, canary.to)
    elif canary.before is None:
        routes.drop(connection, canary.route, what)
    else:
        kept = tuple(arm for arm in found.route.arms if arm.version != canary.stable)
        routes.put(connection, replace(found.route, arms=kept), what)


def _restore(connection: Connection, canary: StoredCanary, now: Route | None, what: str) -> None:
    """The route as it was before the canary, and its alias if the canary has moved that."""
    if _champion(connection, canary.route) == canary.to != canary.champion:
        _set_champion(connection, canary.route, canary.champion)
    if canary.before is not None:
        routes.put(connection, parse_record(canary.route, canary.before), what)
    elif now is not None:
        routes.drop(connection, canary.route, what)


def _champion(connection: Connection, name: str) -> str | None:
    query = select(ALIASES.c.version).where(ALIASES.c.name == name, ALIASES.c.alias == CHAMPION)
    version: str | None = connection.execute(query).scalar()
    return version


def _set_champion(connection: Connection, name: str, version: str | None) -> None:
    """Point the alias at a version, None: remove it; counted and audited."""
    before = _champion(connection, name)
    connection.execute(delete(ALIASES).where(ALIASES.c.name == name, ALIASES.c.alias == CHAMPION))
    if version is not None:
        row = {"name": name, "alias": CHAMPION, "version": version, "updated_at": utc_now()}
        connection.execute(insert(ALIASES).values(row))
    if not connection.execute(update(REVISION).values(value=REVISION.c.value + 1)).rowcount:
        connection.execute(insert(REVISION).values(id=1, value=1))
    routes.log(connection, f"set alias {name}@{CHAMPION}", before, version)


def _row(canary: StoredCanary) -> dict[str, Any]:
    threshold = None if canary.threshold_ms is None else json.dumps(canary.threshold_ms)
    return {
        **vars(canary),
        "spec": json.dumps(canary.spec),
        "before": None if canary.before is None else json.dumps(canary.before),
        "threshold_ms": threshold,
        "verdicts": json.dumps(canary.verdicts),
        "live": int(canary.live),
        "token": 0,
    }


def _canary(row: RowMapping) -> StoredCanary:
    values = {name: value for name, value in row.items() if name != "token"}
    threshold = row["threshold_ms"]
    return StoredCanary(
        **values
        | {
            "spec": json.loads(row["spec"]),
            "before": None if row["before"] is None else json.loads(row["before"]),
            "threshold_ms": None if threshold is None else tuple(json.loads(threshold)),
            "verdicts": json.loads(row["verdicts"]),
            "live": bool(row["live"]),
        }
    )


# Decisions


def decisions(connection: Connection, route: str, limit: int) -> list[DecisionRecord]:
    """The newest decisions about a route, newest first."""
    if not inspect(connection).has_table(DECISIONS.name):
        return []
    query = select(DECISIONS).where(DECISIONS.c.route == route).order_by(desc(DECISIONS.c.id)).limit(limit)
    return [_decision(row) for row in connection.execute(query).mappings()]


def _decision(row: RowMapping) -> DecisionRecord:
    verdicts: Mapping[str, Any] = json.loads(row["verdicts"])
    return DecisionRecord(row["at"], row["canary"], row["step"], row["action"], row["sentence"], verdicts)


def _log(connection: Connection, canary: StoredCanary, move: Move, now: float) -> None:
    row = {"canary": canary.id, "route": canary.route, "step": move.step, "action": move.action}
    row |= {"at": int(now * 1000), "sentence": move.sentence, "verdicts": json.dumps(move.verdicts)}
    connection.execute(insert(DECISIONS).values(row))
    old = select(DECISIONS.c.id).where(DECISIONS.c.route == canary.route).order_by(desc(DECISIONS.c.id))
    last = connection.execute(old.offset(_DECISIONS_KEPT).limit(1)).scalar()
    if last is not None:
        connection.execute(delete(DECISIONS).where(DECISIONS.c.route == canary.route, DECISIONS.c.id <= last))


# Evidence


def put_evidence(connection: Connection, canary: str, rows: Sequence[EvidenceRow]) -> None:
    """Store the counters of a process in place of its older ones."""
    now = leases.clock(connection)
    for row in rows:
        where = (EVIDENCE.c.canary == canary, EVIDENCE.c.step == row.step, EVIDENCE.c.arm == row.arm)
        where = (*where, EVIDENCE.c.process == row.process)  # type: ignore[assignment]
        values = {"counters": json.dumps(row.counters), "updated_at": now}
        if not connection.execute(update(EVIDENCE).where(*where).values(values)).rowcount:
            key = {"canary": canary, "step": row.step, "arm": row.arm, "process": row.process}
            connection.execute(insert(EVIDENCE).values(key | values))


def put_split(connection: Connection, split: str, prefix: str, rows: Sequence[EvidenceRow]) -> None:
    """Store the counters of a process about the arms of a route, and drop those about arms that it had before.

    The ids of one route grow; a process that is late drops nothing that is newer than its own.
    """
    put_evidence(connection, split, rows)
    known = select(EVIDENCE.c.canary).where(EVIDENCE.c.canary.startswith(prefix, autoescape=True)).distinct()
    older = [found for found in connection.execute(known).scalars() if found < split]
    if older:
        connection.execute(delete(EVIDENCE).where(EVIDENCE.c.canary.in_(older)))


def evidence(connection: Connection, canary: str) -> list[EvidenceRow]:
    """The counters of all processes."""
    if not inspect(connection).has_table(EVIDENCE.name):
        return []
    now = leases.clock(connection)
    rows = connection.execute(select(EVIDENCE).where(EVIDENCE.c.canary == canary)).mappings()
    return [_evidence(row, now) for row in rows]


def _evidence(row: RowMapping, now: float) -> EvidenceRow:
    counters = json.loads(row["counters"])
    return EvidenceRow(row["step"], row["arm"], row["process"], counters, now - row["updated_at"])


def _forget_evidence(connection: Connection, canary: StoredCanary) -> None:
    """Drop the evidence of older canaries of the same route; that of the last one stays for a look back."""
    old = select(CANARIES.c.id).where(CANARIES.c.route == canary.route, CANARIES.c.id != canary.id)
    connection.execute(delete(EVIDENCE).where(EVIDENCE.c.canary.in_(old)))
