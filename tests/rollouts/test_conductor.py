"""Canaries run by one and by several processes on a real database, with as much of an engine as they need."""

import asyncio
import shutil
from dataclasses import replace

import pytest

from penstock.engine.observation import Observation
from penstock.errors import GoldenMismatch, Overloaded
from penstock.registry.registry import Registry
from penstock.registry.rollouts.canaries import EvidenceRow, StoredCanary
from penstock.registry.rollouts.splits import split_id
from penstock.registry.routes import Arm, Canary, Route
from penstock.rollouts import conductor as module
from penstock.rollouts.conductor import PROCESS, Conductor, judged
from penstock.rollouts.spec import CanarySpec

SPEC = CanarySpec(
    stable="v1.0", to="v2.0", steps=(10, 50, 100), hold_s=60.0, max_hold_s=600.0, warmup_s=0.0, min_requests=20
)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Serving:
    """What a conductor asks of an engine."""

    def __init__(self):
        self.error = None
        self.braked = []
        self.collector = None
        self.split = []

    def splits(self):
        return self.split

    async def load_arm(self, name, version):
        if self.error is not None:
            raise self.error

    def brake(self, refs):
        self.braked = list(refs)

    def observe(self, collector, observing):
        self.collector = collector if observing else None


@pytest.fixture
def registry(tmp_path):
    (tmp_path / "registry").mkdir()
    with Registry(tmp_path / "registry") as made:
        yield made


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    monkeypatch.setattr(module, "SETTLE_S", 0.0)


def begin(registry, spec=SPEC):
    route = Route("m", (Arm("v1.0", 100),), canary=Canary("v2.0", 0.0, "salt"), salt="s")
    stored = StoredCanary(
        id="c1", route="m", spec=spec.to_document(), digest="d" * 64, before=None, champion=None, phase="preparing"
    )
    return registry.routes.canaries.start(stored, route)


def process(registry, name="p1"):
    return Conductor(registry, Serving(), clock=Clock(), process=name)


async def ticks(conductor, count=3):
    """Rounds far enough apart to store each time, with what was begun in them done."""
    for _ in range(count):
        conductor._clock.now += 5
        await conductor.tick()
        await asyncio.sleep(0)
        await asyncio.gather(*conductor._loads.values())


def seen(conductor, arm, count=50, outcome="ok"):
    for _ in range(count):
        conductor.collector(
            Observation(
                model="m", version=arm, variant="", outcome=outcome, total_ms=5.0, route="m", arm=arm, batch_rows=1
            )
        )


def canary(registry):
    return registry.routes.canaries.newest("m")


def share(registry):
    return registry.routes.get("m").route.canary.share


def age(registry, seconds):
    """Move the beginning of the step into the past."""
    registry._reads.store.write(
        lambda connection: connection.exec_driver_sql(
            f"UPDATE penstock_canaries SET entered_at = entered_at - {seconds}"
        )
    )


async def test_nothing_is_counted_without_a_canary(registry):
    idle = process(registry)
    await ticks(idle)
    assert idle.idle
    assert idle._serving.collector is None


async def test_a_canary_begins_when_its_version_is_loaded_and_advances_by_its_evidence(registry):
    begin(registry)
    one = process(registry)
    await ticks(one)
    assert (canary(registry).phase, share(registry)) == ("running", 0.1)
    assert one._serving.collector is one.collector
    seen(one, "v1.0")
    seen(one, "v2.0")
    await ticks(one)
    assert "holds" in canary(registry).sentence
    age(registry, 61)
    await ticks(one, 1)
    assert (canary(registry).step, share(registry)) == (1, 0.5)
    await ticks(one, 1)
    seen(one, "v1.0")
    seen(one, "v2.0")
    await ticks(one)
    age(registry, 61)
    await ticks(one, 1)
    assert canary(registry).phase == "baking"
    assert registry.aliases("m") == {"champion": "v2.0"}
    age(registry, 601)
    await ticks(one, 2)
    assert canary(registry).phase == "promoted"
    assert one._serving.collector is None
    assert [each.action for each in reversed(registry.routes.canaries.decisions("m"))] == [
        "hold", "advance", "advance", "promote", "advance",
    ]  # fmt: skip


async def test_a_version_that_fails_its_golden_samples_gets_no_request(registry):
    begin(registry)
    one = process(registry)
    one._serving.error = GoldenMismatch("m:v2.0 disagrees with its golden samples")
    await ticks(one)
    assert canary(registry).phase == "rolled_back"
    assert "m:v2.0 disagrees with its golden samples" in canary(registry).sentence
    assert registry.routes.canaries.rejected("m", "d" * 64)
    assert not any(each.action == "advance" for each in registry.routes.canaries.decisions("m"))


async def test_a_version_that_cannot_be_loaded_yet_is_tried_again(registry):
    begin(registry)
    one = process(registry)
    one._serving.error = Overloaded("no memory is free")
    await ticks(one)
    assert canary(registry).phase == "preparing"
    one._serving.error = None
    await ticks(one)
    assert canary(registry).phase == "running"


async def test_a_canary_waits_for_every_process_that_lives(registry):
    begin(registry)
    one, two = process(registry, "p1"), process(registry, "p2")
    two._serving.error = Overloaded("no memory is free")
    await ticks(two)
    await ticks(one)
    assert canary(registry).phase == "preparing"
    two._serving.error = None
    await ticks(two)
    await ticks(one)
    assert canary(registry).phase == "running"


async def test_the_evidence_of_all_processes_counts_also_of_those_that_have_ended(registry):
    begin(registry)
    one, two = process(registry, "p1"), process(registry, "p2")
    for each in (one, two):
        await ticks(each)
    await ticks(one)
    await ticks(two)
    seen(two, "v2.0", 15)
    seen(two, "v1.0", 15)
    await two.close()
    seen(one, "v2.0", 15)
    seen(one, "v1.0", 15)
    age(registry, 61)
    await ticks(one)
    assert "errors 0 of 30" in registry.routes.canaries.decisions("m")[0].sentence
    assert canary(registry).step == 1


async def test_a_bad_version_is_rolled_back(registry):
    begin(registry)
    one = process(registry)
    await ticks(one)
    seen(one, "v2.0", 30)
    seen(one, "v2.0", 15, outcome="error")
    await ticks(one, 1)
    assert canary(registry).phase == "rolled_back"
    assert "errors 15 of 45 (33.33%), limit 0.01" in canary(registry).sentence
    assert registry.aliases("m") == {}
    await ticks(one, 1)
    assert one.states() == {"m": [("v2.0", "rolled_back")]}
    one._clock.now += module.SHOWN_S
    assert one.states() == {}


async def test_another_process_goes_on_where_one_has_ended(registry):
    begin(registry)
    one, two = process(registry, "p1"), process(registry, "p2")
    await ticks(one)
    await ticks(two)
    assert two._lease is None
    await one.close()
    await ticks(two, 1)
    assert two._lease is not None
    assert two._lease.token == 2


async def test_a_person_who_pauses_is_not_overruled(registry):
    begin(registry)
    one = process(registry)
    await ticks(one)
    found = canary(registry)
    paused = module.move_of(found, module.Decision("pause", "paused by mara: lunch"))
    assert registry.routes.canaries.change(found, paused)
    seen(one, "v1.0")
    seen(one, "v2.0")
    age(registry, 61)
    await ticks(one)
    assert canary(registry).phase == "paused"
    assert share(registry) == 0.1
    assert one.states() == {"m": [("v2.0", "paused")]}


async def test_without_the_database_nothing_is_decided_and_nothing_is_lost(registry, tmp_path):
    begin(registry)
    one = process(registry)
    await ticks(one)
    away, database = tmp_path / "away", registry.path
    shutil.move(database, away)
    database.write_text("not a directory")
    seen(one, "v1.0", 30)
    seen(one, "v2.0", 30)
    await ticks(one)
    assert one.error
    assert one._serving.braked == []
    assert one._serving.collector is one.collector
    database.unlink()
    shutil.move(away, database)
    age(registry, 61)
    await ticks(one)
    assert one.error == ""
    assert canary(registry).step == 1
    assert "errors 0 of 30" in registry.routes.canaries.decisions("m")[0].sentence


async def test_a_process_keeps_its_requests_from_a_canary_that_fails_while_the_database_is_away(registry, tmp_path):
    begin(registry)
    one = process(registry)
    await ticks(one)
    away, database = tmp_path / "away", registry.path
    shutil.move(database, away)
    database.write_text("not a directory")
    seen(one, "v2.0", 30)
    seen(one, "v2.0", 15, outcome="error")
    await ticks(one)
    assert one._serving.braked == ["m:v2.0"]
    database.unlink()
    shutil.move(away, database)
    await ticks(one)
    assert canary(registry).phase == "rolled_back"
    assert "errors 15 of 45" in canary(registry).sentence
    assert one._serving.braked == []


SPLIT = Route("m", (Arm("v1.0", 50), Arm("v2.0", 50)), since=5)


def splitting(registry, name, route=SPLIT):
    made = process(registry, name)
    made._serving.split = [route]
    return made


def requests(registry, route=SPLIT):
    """How many requests of each version all processes have stored for a split."""
    found = {arm.version: 0 for arm in route.split}
    for row in registry.routes.canaries.evidence(split_id(route)):
        found[row.arm] += row.counters["requests"]
    return found


async def test_what_a_split_shows_is_counted_in_all_processes_and_nothing_is_decided(registry):
    first, second = splitting(registry, "p1"), splitting(registry, "p2")
    for one in (first, second, first):
        await ticks(one, 1)
        assert not one.idle
        seen(one, "v1.0", 20)
        seen(one, "v2.0", 5, outcome="error")
        await ticks(one, 2)
    assert requests(registry) == {"v1.0": 60, "v2.0": 15}
    assert registry.routes.canaries.lease("another") is not None
    first._serving.split = []
    await ticks(first, 1)
    assert first.idle
    assert first._serving.collector is None
    assert requests(registry) == {"v1.0": 60, "v2.0": 15}


async def test_other_arms_begin_with_no_evidence_and_a_late_process_spoils_nothing(registry):
    first, late = splitting(registry, "p1"), splitting(registry, "p2")
    other = replace(SPLIT, arms=(Arm("v1.0", 90), Arm("v2.0", 10)), since=6)
    for one in (first, late):
        await ticks(one, 1)
        seen(one, "v1.0", 20)
        await ticks(one)
    first._serving.split = [other]
    await ticks(first)
    seen(first, "v2.0", 7)
    await ticks(first)
    assert (requests(registry), requests(registry, other)) == ({"v1.0": 0, "v2.0": 0}, {"v1.0": 0, "v2.0": 7})
    await ticks(late)
    assert requests(registry, other) == {"v1.0": 0, "v2.0": 7}


async def test_what_a_split_shows_is_not_lost_while_the_database_is_away(registry, tmp_path):
    one = splitting(registry, "p1")
    await ticks(one, 1)
    seen(one, "v1.0", 20)
    await ticks(one)
    away, database = tmp_path / "away", registry.path
    shutil.move(database, away)
    database.write_text("not a directory")
    seen(one, "v2.0", 30)
    await ticks(one)
    assert one.error
    database.unlink()
    shutil.move(away, database)
    await ticks(one)
    assert not one.error
    assert requests(registry) == {"v1.0": 20, "v2.0": 30}


def test_a_process_that_hangs_is_not_waited_for():
    stored = StoredCanary(
        id="c1", route="m", spec=SPEC.to_document(), digest="", before=None, champion=None, phase="preparing"
    )
    rows = [
        EvidenceRow(-1, PROCESS, "p1", {"ready": True}, 1.0),
        EvidenceRow(-1, PROCESS, "p2", {"ready": False}, 60.0),
    ]
    assert judged(stored, rows, 100.0).action == "advance"
    rows[1] = rows[1]._replace(age_s=1.0)
    assert judged(stored, rows, 100.0).action == "hold"


def test_a_plan_is_the_same_after_it_was_stored():
    assert CanarySpec.stored(SPEC.to_document()) == SPEC
    assert CanarySpec.stored(SPEC.to_document() | {"of a newer release": 1}) == SPEC
    assert replace(SPEC).checked() == SPEC
