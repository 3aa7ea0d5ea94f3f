"""Logged predictions in the registry's database, and the labels that arrive for them later."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from sqlalchemy import Connection, delete, func, insert, inspect, select, update

from penstock.registry.audit import acting
from penstock.registry.database import routes
from penstock.registry.database.store import Store
from penstock.registry.database.tables import FEEDBACK

AT_ONCE = 256
"""Rows of one transaction."""

Label: TypeAlias = int | str
Result: TypeAlias = Literal["new", "same", "replaced", "unknown", "several"]
"""What became of a label; `several`: the request had several predictions, and the label names none of them."""


class Prediction(NamedTuple):
    """One logged prediction: the `item` of a request. `predicted` is the number of its class, None without classes.

    `at` is in milliseconds since 1970. `class_name` is empty where the model has no names.
    """

    request_id: str
    item: int
    at: int
    model: str
    version: str
    route: str
    arm: str
    key_digest: str | None
    predicted: int | None
    class_name: str | None
    confidence: float | None


class Labelled(NamedTuple):
    """The right class of a prediction: its number, or its name. `item` None: the request's only one.

    `reaches` tells whether who gives it reaches a model, by name and version; None for every model.
    """

    request_id: str
    label: Label
    item: int | None = None
    reaches: Callable[[str, str], bool] | None = None


class Total(NamedTuple):
    """What is known about the predictions of one version in one arm. `judged` labels could be compared."""

    model: str
    version: str
    route: str
    arm: str
    recorded: int
    labelled: int
    judged: int
    correct: int


class FeedbackStore:
    """The table of one database. Every method raises ConfigError if the database cannot be used."""

    def __init__(self, url: str, *, known: bool = False) -> None:
        """`known`: the database was there before, and is not created anew where it is gone."""
        self._store = Store(url, lasting=True, known=known)

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self._store.close()

    def prepare(self) -> None:
        """Create or upgrade the tables if needed."""
        self._store.prepare()

    def add(self, predictions: Sequence[Prediction]) -> int:
        """Record predictions; how many there were already, of which the first stays."""
        return self._store.write(lambda connection: _add(connection, predictions))

    def label(self, labels: Sequence[Labelled], at: int) -> list[Result]:
        """Record labels, in order; what became of each."""
        with acting("a client", "feedback"):
            return self._store.write(lambda connection: [_label(connection, one, at) for one in labels])

    def totals(self) -> list[Total]:
        """Sums over what is recorded, sorted."""
        return self._store.read(totals, [])

    def forget(self, *, key_digest: str | None = None, request_id: str | None = None) -> int:
        """Delete the predictions of a key, or else those of a request: how many. A missing database has none."""
        known = FEEDBACK.c.request_id == request_id if key_digest is None else FEEDBACK.c.key_digest == key_digest
        if not self._store.read(
            lambda connection: connection.execute(select(FEEDBACK.c.at).where(known)).first(), None
        ):
            return 0
        return self._store.write(lambda connection: connection.execute(delete(FEEDBACK).where(known)).rowcount)

    def prune(self, before: int) -> int:
        """Delete what was predicted before a time: how many."""
        gone = delete(FEEDBACK).where(FEEDBACK.c.at < before)
        return self._store.write(lambda connection: connection.execute(gone).rowcount)


def _add(connection: Connection, predictions: Sequence[Prediction]) -> int:
    ids = {row.request_id for row in predictions}
    known = select(FEEDBACK.c.request_id, FEEDBACK.c.item).where(FEEDBACK.c.request_id.in_(ids))
    taken = {(request_id, item) for request_id, item in connection.execute(known)}
    new: dict[tuple[str, int], Prediction] = {}
    for row in predictions:
        if (row.request_id, row.item) not in taken:
            new.setdefault((row.request_id, row.item), row)
    if new:
        connection.execute(insert(FEEDBACK), [row._asdict() for row in new.values()])
    return len(predictions) - len(new)


def _label(connection: Connection, given: Labelled, at: int) -> Result:
    columns = (FEEDBACK.c.item, FEEDBACK.c.predicted, FEEDBACK.c.class_name, FEEDBACK.c.label)
    query = select(*columns, FEEDBACK.c.model, FEEDBACK.c.version).where(FEEDBACK.c.request_id == given.request_id)
    if given.item is not None:
        query = query.where(FEEDBACK.c.item == given.item)
    rows = connection.execute(query.limit(2)).all()
    if not rows or not (given.reaches is None or given.reaches(rows[0].model, rows[0].version)):
        return "unknown"
    if len(rows) > 1:
        return "several"
    (row,) = rows
    label = json.dumps(given.label)
    if row.label == label:
        return "same"
    connection.execute(
        update(FEEDBACK)
        .where(FEEDBACK.c.request_id == given.request_id, FEEDBACK.c.item == row.item)
        .values(label=label, labelled_at=at, correct=_correct(given.label, row))
    )
    if row.label is None:
        return "new"
    routes.log(connection, f"relabel {given.request_id}"[:200], json.loads(row.label), given.label)
    return "replaced"


def _correct(label: Label, row: Any) -> int | None:
    """1 or 0; None where there is no class to compare with. A text is a name, where the model has names."""
    if row.predicted is None:
        return None
    if isinstance(label, int):
        return int(label == row.predicted)
    return int(label == (row.class_name or str(row.predicted)))


def totals(connection: Connection, route: str | None = None, since: int = 0) -> list[Total]:
    """Sums over what is recorded, sorted; only of a route, and since a time in ms, where they are given."""
    if not inspect(connection).has_table(FEEDBACK.name):
        return []
    by = (FEEDBACK.c.model, FEEDBACK.c.version, FEEDBACK.c.route, FEEDBACK.c.arm)
    counts = (func.count(), func.count(FEEDBACK.c.label), func.count(FEEDBACK.c.correct), func.sum(FEEDBACK.c.correct))
    query = select(*by, *counts).group_by(*by)
    if route is not None:
        query = query.where(FEEDBACK.c.at >= since, FEEDBACK.c.route == route)
    rows = connection.execute(query).all()
    return sorted(Total._make((*row[:7], int(row[7] or 0))) for row in rows)
