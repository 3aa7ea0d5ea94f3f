"""The canaries of a registry: where each is, what was decided, and the lease of the process that decides.

Each change is one transaction with the change of the route, the decision, and its entry in the audit log. A process
that decides holds the lease; a decision is dropped if another process has taken the lease over meanwhile, or if the
canary was changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.registry.database import feedback, leases
from penstock.registry.database.feedback import Total
from penstock.registry.database.leases import Lease
from penstock.registry.database.store import Store
from penstock.registry.rollouts import sql
from penstock.registry.rollouts.canaries import LEASE_S, DecisionRecord, EvidenceRow, Move, StoredCanary
from penstock.registry.routes import Route


class Canaries:
    """The canaries of a registry. Every method raises ConfigError if the database cannot be used."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def live(self) -> list[StoredCanary]:
        """Every canary that is watched."""
        return self._store.read(lambda connection: sql.live(connection), [])

    def clock(self) -> float:
        """The time of the database in seconds; 0 before there is one."""
        return self._store.read(lambda connection: leases.clock(connection), 0.0)

    def newest(self, route: str) -> StoredCanary | None:
        """The newest canary of a route, also one that has ended."""
        return self._store.read(lambda connection: sql.newest(connection, route), None)

    def decisions(self, route: str, limit: int = 100) -> list[DecisionRecord]:
        """The newest decisions about a route, newest first."""
        return self._store.read(lambda connection: sql.decisions(connection, route, limit), [])

    def rejected(self, route: str, digest: str) -> str:
        """When and why a digest was rolled back on a route, as a predicate. Empty if it is taken."""
        return self._store.read(lambda connection: sql.rejected(connection, route, digest), "")

    def start(self, canary: StoredCanary, route: Route, *, again: bool = False) -> StoredCanary:
        """Begin a canary. `route` is its route with the canary at share 0.

        Raises InvalidInput if the route has a canary already or was changed meanwhile, or if the digest was rolled back
        on it before and it is not to be tried `again`.
        """
        return self._store.write(lambda connection: sql.start(connection, canary, route, again))

    def change(self, canary: StoredCanary, move: Move, lease: Lease | None = None) -> bool:
        """Do what was decided. False if the canary was changed meanwhile, or if the lease was lost: nothing is done.

        Without a lease it is a person who decides.
        """
        return self._store.write(lambda connection: sql.change(connection, canary, move, lease))

    def watched(self, canary: StoredCanary, move: Move, lease: Lease) -> bool:
        """Record the figures of a look that changes nothing; False as of `change`."""
        return self._store.write(lambda connection: sql.watched(connection, canary, move, lease))

    def lease(self, holder: str, seconds: float = LEASE_S) -> Lease | None:
        """Take or renew the lease; None while another process has it."""
        if not self._store.read(lambda connection: leases.may_take(connection, sql.LEASE, holder), True):
            return None  # most processes only look, which locks nothing
        return self._store.write(lambda connection: leases.take(connection, sql.LEASE, holder, seconds))

    def release(self, lease: Lease) -> None:
        """Give the lease up, so that another process need not wait until it ends."""
        self._store.write(lambda connection: leases.release(connection, sql.LEASE, lease))

    def put_evidence(self, canary: str, rows: Sequence[EvidenceRow]) -> None:
        """Store the counters of one process, in place of those that it stored before."""
        self._store.write(lambda connection: sql.put_evidence(connection, canary, rows))

    def evidence(self, canary: str) -> list[EvidenceRow]:
        """The counters of all processes, also of those that have ended."""
        return self._store.read(lambda connection: sql.evidence(connection, canary), [])

    def put_split(self, split: str, prefix: str, rows: Sequence[EvidenceRow]) -> None:
        """Store the counters of one process for a split; those of older ones with the prefix are dropped."""
        self._store.write(lambda connection: sql.put_split(connection, split, prefix, rows))

    def labels(self, route: str, since: int) -> list[Total]:
        """Sums over the logged predictions of a route since a time (ms since 1970), by version and arm."""
        return self._store.read(lambda connection: feedback.totals(connection, route, since), [])
