"""Canaries in the database: one at a time, decided by the holder of the lease, together with their route."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.errors import ConfigError, InvalidInput
from penstock.registry.audit import acting
from penstock.registry.database import routes
from penstock.registry.database.leases import Lease
from penstock.registry.database.store import Store
from penstock.registry.rollouts.book import Canaries
from penstock.registry.rollouts.canaries import EvidenceRow, Move, StoredCanary
from penstock.registry.routes import Arm, Canary, Route

Database = Callable[[Path], str]

SPEC = {"stable": "v1.0", "to": "v2.0", "steps": [1, 50, 100]}
ROUTE = Route("m", (Arm("v1.0", 100),), canary=Canary("v2.0", 0.0, "salt"), salt="s")


@pytest.fixture
def address(tmp_path: Path, database: Database) -> str:
    (tmp_path / "registry").mkdir()
    return database(tmp_path / "registry")


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    opened = Store(address)
    yield opened
    opened.close()


@pytest.fixture
def canaries(store: Store) -> Canaries:
    return Canaries(store)


def canary(**changes: object) -> StoredCanary:
    made = StoredCanary(
        id="c1", route="m", spec=SPEC, digest="d" * 64, before=None, champion=None, phase="preparing", sentence="begun"
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def move(action: str, phase: str, step: int, **rest: object) -> Move:
    return Move(action=action, sentence=f"{action} {step}", phase=phase, step=step, **rest)  # type: ignore[arg-type]


def advance(step: int, share: float = 0.5) -> Move:
    return move("advance", "running", step, entered=True, route="share", share=share)


def lease(canaries: Canaries, holder: str = "a") -> Lease:
    found = canaries.lease(holder)
    assert found is not None
    return found


def newest(canaries: Canaries, route: str = "m") -> StoredCanary:
    found = canaries.newest(route)
    assert found is not None
    return found


def test_nothing_is_there_before_the_first_canary(canaries: Canaries) -> None:
    assert (canaries.live(), canaries.newest("m"), canaries.decisions("m"), canaries.evidence("c1")) == (
        [],
        None,
        [],
        [],
    )
    assert canaries.rejected("m", "d" * 64) == ""


def test_a_canary_begins_with_its_route_a_decision_and_an_entry_in_the_audit_log(
    canaries: Canaries, store: Store
) -> None:
    with acting("mara", "faster"):
        begun = canaries.start(canary(), ROUTE)
    assert canaries.live() == [begun] == [newest(canaries)]
    assert abs(begun.entered_at - time.time()) < 5
    route = store.routes().get("m")
    assert route is not None
    assert route.route.canary == Canary("v2.0", 0.0, "salt")
    entry = store.read(lambda connection: routes.entries(connection, 1), [])[0]
    assert (entry.who, entry.why, entry.what) == ("mara", "faster", "route m: start canary v2.0")
    assert [decision.sentence for decision in canaries.decisions("m")] == ["begun"]


def test_a_route_has_one_canary(canaries: Canaries) -> None:
    canaries.start(canary(), ROUTE)
    with pytest.raises(InvalidInput, match=r"m has a canary already, v2\.0, which is preparing"):
        canaries.start(canary(id="c2"), ROUTE)


def test_of_canaries_that_are_started_at_once_one_begins(canaries: Canaries) -> None:
    def start(number: int) -> bool:
        try:
            canaries.start(canary(id=f"c{number}"), ROUTE)
        except InvalidInput:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(start, range(8))) == 1


def test_a_canary_does_not_begin_on_a_route_that_was_changed_meanwhile(canaries: Canaries, store: Store) -> None:
    store.write(lambda connection: routes.put(connection, replace(ROUTE, canary=None), "set"))
    with pytest.raises(InvalidInput, match="was changed meanwhile; start the canary again"):
        canaries.start(canary(), ROUTE)


def test_steps_change_the_share_of_the_route_and_keep_its_salt(canaries: Canaries, store: Store) -> None:
    begun = canaries.start(canary(), ROUTE)
    assert canaries.change(begun, advance(0, 0.01), lease(canaries))
    first = newest(canaries)
    assert canaries.change(first, advance(1, 0.5), lease(canaries))
    assert newest(canaries).step == 1
    assert newest(canaries).entered_at > begun.entered_at
    route = store.routes().get("m")
    assert route is not None
    assert route.route.canary == Canary("v2.0", 0.5, "salt")
    assert [(each.action, each.step) for each in canaries.decisions("m")] == [
        ("advance", 1),
        ("advance", 0),
        ("hold", -1),
    ]


def test_a_decision_about_a_canary_that_was_changed_meanwhile_is_dropped(canaries: Canaries) -> None:
    begun = canaries.start(canary(), ROUTE)
    assert canaries.change(begun, move("pause", "paused", -1))  # a person
    assert not canaries.change(begun, advance(0), lease(canaries))
    assert not canaries.watched(begun, advance(0), lease(canaries))
    assert newest(canaries).phase == "paused"


def test_the_lease_has_one_holder_and_a_higher_token_with_the_next_one(canaries: Canaries) -> None:
    first = canaries.lease("a", 0.3)
    assert first == Lease("a", 1)
    assert canaries.lease("b") is None
    assert canaries.lease("a", 0.3) == first
    time.sleep(0.4)  # the clock of the database cannot be advanced
    assert canaries.lease("b") == Lease("b", 2)
    assert canaries.lease("a") is None


def test_a_lease_that_is_given_up_is_free_at_once(canaries: Canaries) -> None:
    canaries.release(lease(canaries, "a"))
    assert canaries.lease("b") == Lease("b", 2)
    canaries.release(Lease("a", 1))  # of the past
    assert canaries.lease("a") is None


def test_decisions_after_the_lease_are_refused(canaries: Canaries) -> None:
    begun = canaries.start(canary(), ROUTE)
    old = canaries.lease("a", 0.2)
    assert old is not None
    time.sleep(0.3)
    assert not canaries.change(begun, advance(0), old)  # nobody has taken it over, it has ended all the same
    assert lease(canaries, "b").token == 2
    assert not canaries.change(begun, advance(0), old)
    assert not canaries.watched(begun, advance(0), old)
    assert canaries.change(begun, advance(0), lease(canaries, "b"))


def test_evidence_is_replaced_by_process_and_kept_when_the_process_has_ended(canaries: Canaries) -> None:
    canaries.put_evidence("c1", [EvidenceRow(0, "v2.0", "p1", {"requests": 3})])
    canaries.put_evidence("c1", [EvidenceRow(0, "v2.0", "p1", {"requests": 5}), EvidenceRow(1, "v2.0", "p1", {})])
    canaries.put_evidence("c1", [EvidenceRow(0, "v2.0", "p2", {"requests": 2})])
    found = {(row.step, row.arm, row.process): row for row in canaries.evidence("c1")}
    assert found[0, "v2.0", "p1"].counters == {"requests": 5}
    assert len(found) == 3
    assert all(0 <= row.age_s < 5 for row in found.values())


def test_the_promotion_moves_the_alias_and_the_route_at_once(canaries: Canaries, store: Store) -> None:
    begun = canaries.start(canary(champion="v1.0"), ROUTE)
    revision = store.revision()
    assert canaries.change(begun, move("promote", "baking", 2, route="promote"), lease(canaries))
    assert store.aliases("m") == {"champion": "v2.0"}
    assert store.revision() == revision + 1
    route = store.routes().get("m")
    assert route is not None
    assert route.route.arms == (Arm("v2.0", 100), Arm("v1.0", 0))
    assert route.route.canary is None


def test_a_failure_in_the_promotion_changes_nothing(canaries: Canaries, store: Store) -> None:
    begun = canaries.start(canary(champion="v1.0"), ROUTE)
    before = (newest(canaries), store.aliases("m"), store.routes(), store.revision())
    unwritable = move("promote", "baking", 2, route="promote", verdicts={"x": {1, 2}})
    with pytest.raises(TypeError):
        canaries.change(begun, unwritable, lease(canaries))
    assert (newest(canaries), store.aliases("m"), store.routes(), store.revision()) == before


@pytest.mark.parametrize("champion", ["v1.0", None])
@pytest.mark.parametrize("routed", [True, False])
def test_a_rollback_restores_alias_and_route_also_after_the_promotion(
    canaries: Canaries, store: Store, routed: bool, champion: str | None
) -> None:
    before = None
    if champion is not None:
        store.set_alias("m", "champion", champion)
    if routed:
        before = store.write(
            lambda connection: routes.put(connection, replace(ROUTE, canary=None), "set")
        ).route.to_record()
    begun = canaries.start(canary(before=before, champion=champion), ROUTE)
    assert canaries.change(begun, move("promote", "baking", 2, route="promote"))
    ended = move("rollback", "rolled_back", 2, route="restore", live=False)
    assert canaries.change(newest(canaries), ended)
    assert store.aliases("m") == ({"champion": champion} if champion else {})
    route = store.routes().get("m")
    assert (None if route is None else route.route.to_record()) == before
    assert canaries.live() == []


def test_a_digest_that_was_rolled_back_is_refused_until_it_is_tried_again(canaries: Canaries) -> None:
    begun = canaries.start(canary(), ROUTE)
    assert canaries.change(begun, move("rollback", "rolled_back", -1, route="restore", live=False))
    assert re.fullmatch(r"was rolled back before, 20.*Z \(rollback -1\)", canaries.rejected("m", "d" * 64))
    assert canaries.rejected("m", "e" * 64) == ""
    with pytest.raises(InvalidInput, match=r"m:v2\.0 was rolled back before, .* \(rollback -1\); again=True tries"):
        canaries.start(canary(id="c2"), ROUTE)
    canaries.start(canary(id="c2"), ROUTE, again=True)
    assert canaries.rejected("m", "d" * 64) == ""


def test_a_canary_whose_route_was_removed_can_still_be_ended(canaries: Canaries, store: Store) -> None:
    begun = canaries.start(canary(), ROUTE)
    store.write(lambda connection: routes.drop(connection, "m", "remove route m"))
    assert canaries.change(begun, advance(0))
    assert canaries.change(newest(canaries), move("rollback", "rolled_back", 0, route="restore", live=False))
    assert store.routes().get("m") is None


def _decide_forever(address: str, name: str) -> None:
    canaries = Canaries(Store(address))
    while True:
        try:
            held, found = canaries.lease(name, 0.3), newest(canaries)
            if held is not None:
                canaries.change(found, advance(found.step + 1), held)
        except ConfigError:  # the others write
            continue


def _stop_before_writing(address: str, result: str) -> None:
    canaries = Canaries(Store(address))
    held, found = lease(canaries, "stopped"), newest(canaries)
    os.kill(os.getpid(), signal.SIGSTOP)
    Path(result).write_text(str(canaries.change(found, advance(found.step + 1), held)))


def test_a_decider_that_was_stopped_is_refused_and_one_that_is_killed_leaves_the_order_intact(
    canaries: Canaries, address: str, tmp_path: Path
) -> None:
    canaries.start(canary(), ROUTE)
    context, result = multiprocessing.get_context("spawn"), tmp_path / "result"
    stopped = context.Process(target=_stop_before_writing, args=(address, str(result)), daemon=True)
    deciders = [context.Process(target=_decide_forever, args=(address, name), daemon=True) for name in ("y", "z")]
    stopped.start()
    assert stopped.pid is not None
    status = Path(f"/proc/{stopped.pid}/stat")
    _wait(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")
    try:
        for process in deciders:
            process.start()
        _wait(lambda: newest(canaries).step >= 5)
        os.kill(stopped.pid, signal.SIGCONT)
        _wait(result.exists)
        deciders[0].kill()
        reached = newest(canaries).step
        _wait(lambda: newest(canaries).step > reached + 5)
    finally:
        for process in (stopped, *deciders):
            process.kill()
            process.join()
    assert result.read_text() == "False"
    steps = [each.step for each in reversed(canaries.decisions("m", 1000))]
    assert steps == list(range(-1, len(steps) - 1))


def _wait(reached: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.02)
