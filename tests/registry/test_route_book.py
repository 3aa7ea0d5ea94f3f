"""Routes in the store: set, refused, switched, removed, and the audit log, in both databases."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from typing import Any

import pytest
from small_artifacts import Write
from sqlalchemy import text

from penstock.artifacts.artifact import TaskEntry
from penstock.errors import InvalidInput, ModelLoadError, ModelNotFound
from penstock.registry.audit import acting
from penstock.registry.database import routes as stored
from penstock.registry.database.store import downgrade
from penstock.registry.database.tables import EVIDENCE
from penstock.registry.registry import Registry
from penstock.registry.rollouts.canaries import Move, StoredCanary
from penstock.registry.rollouts.splits import split_id, split_prefix
from penstock.registry.routes import Arm, Canary, Route
from penstock.tensors import Signature, TensorSpec

TWO = {"arms": [{"version": "v1", "weight": 90}, {"version": "v2", "weight": 10}]}
ALL_TO_1 = {"arms": [{"version": "v1", "weight": 100}]}


@pytest.fixture
def routed(registry: Registry, write: Write) -> Registry:
    """A registry with m:v1, m:v2 and m:v3."""
    for number in (1, 2, 3):
        registry.publish(write(version=f"v{number}", content=b"w%d" % number).path, prove=False)
    return registry


def _set(registry: Registry, document: Any = TWO, **more: Any) -> Route:
    return registry.routes.set("m", document, force=True, **more).route


def test_a_route_is_read_as_it_was_set_with_digests_and_a_salt(routed: Registry) -> None:
    route = _set(routed, {**TWO, "fallback": "v1", "why": "first"})
    found = routed.routes.get("m")
    assert found.route == route
    assert route.arms == (Arm("v1", 90), Arm("v2", 10))
    assert route.digests == {version: routed.get(f"m:{version}").digest for version in ("v1", "v2")}
    assert len(route.salt) == 16
    assert (found.revision, routed.routes.revision()) == (1, 1)
    with Registry(routed.path, routed.database_url) as other:
        assert other.routes.all() == routed.routes.all()


def test_changing_a_route_counts_its_own_revision_only_and_keeps_its_salt(routed: Registry) -> None:
    before, salt = routed.deployment().revision, _set(routed).salt
    assert _set(routed, {"arms": [{"version": "v1", "weight": 100}]}).salt == salt
    assert routed.routes.revision() == 2
    assert routed.deployment().revision == before
    routed.routes.remove("m")
    assert _set(routed).salt != salt


def test_the_same_document_again_changes_nothing(routed: Registry) -> None:
    first = routed.routes.set("m", TWO, force=True)
    assert routed.routes.set("m", TWO, force=True) == first
    assert routed.routes.revision() == 1
    assert len(routed.routes.history("m")) == 1


def test_an_alias_in_a_route_is_frozen_to_its_version(routed: Registry) -> None:
    routed.set_alias("m", "champion", "v1", force=True)
    arms = [{"version": "@champion", "weight": 50}, {"version": "v2", "weight": 50}]
    _set(routed, {"arms": arms})
    routed.set_alias("m", "champion", "v3", force=True)
    assert routed.routes.get("m").route.arms[0].version == "v1"
    routed.set_alias("m", "next", "v2", force=True)
    with pytest.raises(InvalidInput, match=r"arms\.1: v2 is given twice"):
        _set(routed, {"arms": [{"version": "v2", "weight": 50}, {"version": "@next", "weight": 50}]})
    with pytest.raises(InvalidInput, match="route m: m has no alias 'none'; aliases: champion, next"):
        _set(routed, {"arms": [{"version": "@none", "weight": 100}]})


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (
            {"arms": [{"version": "v1", "weight": 90}, {"version": "v9", "weight": 10}]},
            "route m: arms.1.version: m has no version 'v9'; versions: v1, v2, v3",
        ),
        (
            {**TWO, "rules": [{"when": {"header": "X-B", "equals": "1"}, "version": "v8"}]},
            "route m: rules.0.version: m has no version 'v8'",
        ),
        ({**TWO, "shadow": [{"version": "v7", "sample": 0.1}]}, "route m: shadow.0.version: m has no version 'v7'"),
        ({**TWO, "fallback": "v6"}, "route m: fallback: m has no version 'v6'"),
    ],
)
def test_an_unknown_version_is_refused_with_its_field(routed: Registry, document: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        _set(routed, document)
    assert str(refusal.value).startswith(sentence)
    assert routed.routes.all().stored == {}


def test_a_route_for_an_unknown_model_is_refused(routed: Registry) -> None:
    with pytest.raises(ModelNotFound, match="there is no model 'other' in the registry; models: m"):
        routed.set_route("other", TWO)


def _signature(**changes: Any) -> Signature:
    given: dict[str, Any] = {"name": "x", "dtype": "FP32", "shape": (-1, 4), **changes}
    return Signature((TensorSpec(**given),), (TensorSpec("y", "FP32", (-1, 2)),))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"signature": _signature(shape=(-1, 5))}, "its input x is FP32 [-1, 5], not FP32 [-1, 4]"),
        ({"signature": _signature(dtype="FP64")}, "its input x is FP64 [-1, 4], not FP32 [-1, 4]"),
        ({"signature": _signature(name="z")}, "it has no input x"),
        ({"task": TaskEntry(kind="vector-classification")}, "its tasks are vector-classification, not tensor"),
    ],
)
def test_arms_that_take_other_requests_are_refused_with_the_tensor(
    routed: Registry, write: Write, changes: dict[str, Any], words: str
) -> None:
    routed.publish(write(version="v4", content=b"other", golden=None, **changes).path, prove=False)
    with pytest.raises(InvalidInput) as refusal:
        _set(routed, {"arms": [{"version": "v1", "weight": 90}, {"version": "v4", "weight": 10}]})
    assert str(refusal.value).startswith("route m: arms.1.version: v4 does not take the requests of v1: ")
    assert words in str(refusal.value)


def test_a_version_that_cannot_be_loaded_is_refused_and_the_route_stays(routed: Registry, write: Write) -> None:
    _set(routed, {"arms": [{"version": "v1", "weight": 100}]})
    bad = write(version="v4", content=b"bad")
    model = next((bad.path / "variants").glob("onnx*/*.onnx"))
    routed.publish(bad.path, prove=False)
    stored_model = routed.path / "m" / "v4" / model.relative_to(bad.path)
    stored_model.write_bytes(b"no model")
    with pytest.raises(ModelLoadError, match=r"route m is not changed, since .* cannot load m:v4: .*force=True"):
        routed.set_route("m", {"arms": [{"version": "v1", "weight": 90}, {"version": "v4", "weight": 10}]})
    assert routed.routes.get("m").route.arms == (Arm("v1", 100),)


def test_a_good_version_is_proven_before_its_route_is_stored(routed: Registry) -> None:
    assert routed.set_route("m", TWO, who="ops", why="go").route.arms[1] == Arm("v2", 10)


def test_a_version_in_a_route_is_not_removed(routed: Registry) -> None:
    _set(routed, {**TWO, "shadow": [{"version": "v3", "sample": 0.5}]})
    for version in ("v1", "v2", "v3"):
        with pytest.raises(InvalidInput, match=f"m:{version} cannot be removed while the route m names it; change the"):
            routed.remove(f"m:{version}")
    _set(routed)
    routed.remove("m:v3")
    assert routed.versions("m") == ["v1", "v2"]


def test_a_route_that_was_changed_meanwhile_is_not_overwritten(routed: Registry) -> None:
    shown = {**TWO, "revision": routed.routes.set("m", TWO, force=True).revision}
    _set(routed, {"arms": [{"version": "v3", "weight": 100}]})
    with pytest.raises(InvalidInput, match="revision: it was changed meanwhile, to revision 2; read it again"):
        _set(routed, shown)
    with pytest.raises(InvalidInput, match="revision: give the number"):
        _set(routed, {**TWO, "revision": "1"})


def test_a_route_with_a_canary_is_not_changed_by_hand(routed: Registry) -> None:
    route = _set(routed)
    canary = replace(route, canary=Canary("v3", 0.05, "salt"))
    routed._reads.store.write(lambda connection: stored.put(connection, canary, "route m: canary"))
    for change in (lambda: _set(routed), lambda: routed.routes.remove("m"), lambda: routed.routes.back("m")):
        with pytest.raises(InvalidInput, match=r"route m: a canary of v3 is running at 5.00%; promote it or"):
            change()
    assert routed.routes.get("m").route.canary == Canary("v3", 0.05, "salt")


def test_blue_green_switches_and_goes_back_at_once(routed: Registry) -> None:
    routed.set_alias("m", "champion", "v1", force=True)
    green = routed.routes.switch("m", "v2", force=True, why="green").route
    assert green.arms == (Arm("v2", 100), Arm("v1", 0))
    assert routed.routes.switch("m", "v2", force=True).revision == 1  # nothing to do
    assert routed.routes.switch("m", "v1", force=True).route.serving == ("v1",)
    assert routed.routes.back("m").route.serving == ("v2",)
    assert routed.routes.back("m", why="no").route.serving == ("v1",)
    routed.routes.remove("m")
    assert routed.routes.back("m").route.serving == ("v1",)


def test_there_is_no_way_back_without_an_earlier_state(routed: Registry) -> None:
    _set(routed)
    with pytest.raises(ModelNotFound, match="the route m has no earlier state to go back to"):
        routed.routes.back("m")


def test_an_unknown_route_is_named_with_those_that_exist(routed: Registry) -> None:
    for call in (routed.routes.get, routed.routes.remove):
        with pytest.raises(ModelNotFound, match="there is no route 'm'; there are no routes yet"):
            call("m")
    _set(routed)
    with pytest.raises(ModelNotFound, match="there is no route 'x'; routes: m"):
        routed.routes.get("x")


# The audit log


def test_every_change_is_in_the_audit_log_with_who_when_why_before_and_after(routed: Registry) -> None:
    _set(routed, who="ann@host", why="first real traffic")
    _set(routed, {"arms": [{"version": "v1", "weight": 100}]}, who="bob@host", why="too slow")
    routed.routes.remove("m", who="ann@host", why="done")
    newest, second, first = routed.routes.history("m")
    assert [entry.what for entry in (first, second, newest)] == ["route m: set", "route m: set", "route m: remove"]
    assert (second.who, second.why) == ("bob@host", "too slow")
    assert [arm["weight"] for arm in second.before["arms"]] == [90, 10]
    assert [arm["weight"] for arm in second.after["arms"]] == [100]
    assert (first.before, newest.after) == (None, None)
    assert 0 < first.at <= second.at <= newest.at


def test_aliases_versions_loads_and_trust_are_audited_too(routed: Registry) -> None:
    with acting("ann@host", "cleaning"):
        routed.set_alias("m", "champion", "v1", force=True)
        routed.set_alias("m", "champion", "v2", force=True)
        routed.remove_alias("m", "champion")
        routed.change_deployment(lambda now: now.unload("m"))
        routed.remove("m:v3")
    entries = [entry for entry in routed.routes.audit() if entry.who == "ann@host"]
    assert [entry.what for entry in reversed(entries)] == [
        "set alias m@champion",
        "set alias m@champion",
        "remove alias m@champion",
        "change the deployment",
        "remove m:v3",
    ]
    assert {entry.why for entry in entries} == {"cleaning"}
    assert [(entry.before, entry.after) for entry in reversed(entries)][:3] == [
        (None, "v1"),
        ("v1", "v2"),
        ("v2", None),
    ]
    published = [entry.what for entry in routed.routes.audit() if entry.what.startswith("publish")]
    assert published == ["publish m:v3", "publish m:v2", "publish m:v1"]


def test_a_refused_change_leaves_no_trace(routed: Registry) -> None:
    before = routed.routes.audit()
    with pytest.raises(InvalidInput):
        _set(routed, {"arms": [{"version": "v9", "weight": 100}]})
    assert routed.routes.audit() == before
    assert routed.routes.revision() == 0


def test_writers_of_routes_exclude_each_other_and_every_change_is_logged(routed: Registry) -> None:
    _set(routed)
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            with Registry(routed.path, routed.database_url) as own:
                for weight in range(5):
                    share = number * 10 + weight
                    arms = [{"version": "v1", "weight": 100 - share}, {"version": "v2", "weight": share}]
                    own.routes.set("m", {"arms": arms}, force=True)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    history = routed.routes.history("m")
    assert routed.routes.revision() == len(history)
    assert all(newer.before == older.after for newer, older in itertools.pairwise(history))


# What cannot be read


def _spoil(registry: Registry, record: str) -> None:
    statement = text("UPDATE penstock_routes SET record = :record")
    registry._reads.store.write(lambda connection: connection.execute(statement, {"record": record}))


@pytest.mark.parametrize("record", ["no json", "[]", '{"arms": []}'])
def test_a_route_that_cannot_be_read_harms_no_other_and_can_be_replaced(routed: Registry, record: str) -> None:
    _set(routed)
    _spoil(routed, record)
    with pytest.raises(InvalidInput, match="the stored route of m cannot be read"):
        routed.routes.get("m")
    assert list(routed.routes.all().broken) == ["m"]
    assert _set(routed).arms == (Arm("v1", 90), Arm("v2", 10))
    _spoil(routed, record)
    routed.routes.remove("m")
    assert routed.routes.all().broken == {}


def _downgraded(registry: Registry) -> None:
    registry._reads.store.write(lambda connection: downgrade(connection, "0003"))


def test_tables_of_the_release_before_hold_no_routes_and_are_upgraded(routed: Registry) -> None:
    _set(routed)
    _downgraded(routed)
    with Registry(routed.path, routed.database_url) as other:
        assert other.routes.all().stored == {}
        assert other.routes.audit() == []
        assert _set(other).arms[0] == Arm("v1", 90)


def _rolled_back(registry: Registry, version: str = "v2") -> None:
    """A canary of a version that was rolled back."""
    route = _set(registry, {"arms": [{"version": "v1", "weight": 100}]})
    digest = registry.get(f"m:{version}").digest
    spec = {"stable": "v1", "to": version}
    canary = StoredCanary(
        id=f"c-{version}", route="m", spec=spec, digest=digest, before=route.to_record(), champion=None, phase="running"
    )
    started = registry.routes.canaries.start(canary, replace(route, canary=Canary(version, 0.0, "salt")))
    end = Move(action="rollback", sentence="errors 9 of 100", phase="rolled_back", step=0, route="restore", live=False)
    assert registry.routes.canaries.change(started, end)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (TWO, "arms.1.version"),
        ({**ALL_TO_1, "fallback": "v2"}, "fallback"),
        ({**ALL_TO_1, "rules": [{"when": {"header": "X", "equals": "1"}, "version": "v2"}]}, "rules.0.version"),
    ],
)
def test_a_version_that_a_canary_rolled_back_gets_requests_only_with_consent(
    routed: Registry, document: dict[str, Any], field: str
) -> None:
    _rolled_back(routed)
    why = rf"^route m: {field}: v2 was rolled back before, 20\S+Z \(errors 9 of 100\); again=True .* all the same$"
    with pytest.raises(InvalidInput, match=why) as caught:
        _set(routed, document)
    assert caught.value.errors[0].field == field
    assert _set(routed, {**document, "again": True}).answering[-1] == "v2"
    _set(routed, {**document, "why": "it is in use by now"})  # asks for no further consent
    _set(routed, {"arms": [{"version": "v1", "weight": 100}]})
    with pytest.raises(InvalidInput, match="v2 was rolled back before"):
        _set(routed, document)
    with pytest.raises(InvalidInput, match="again: give true or false, not 'yes'"):
        _set(routed, {**document, "again": "yes"})


def test_neither_switching_nor_going_back_brings_a_rolled_back_version_into_use(routed: Registry) -> None:
    _set(routed)
    _rolled_back(routed)
    dark = {"arms": [{"version": "v1", "weight": 100}, {"version": "v2", "weight": 0}]}
    assert _set(routed, {**dark, "shadow": [{"version": "v2", "sample": 0.1}]}).serving == ("v1",)
    with pytest.raises(InvalidInput, match="v2 was rolled back before"):
        routed.routes.switch("m", "v2", force=True)
    assert routed.routes.switch("m", "v2", force=True, again=True).route.serving == ("v2",)
    _set(routed, {"arms": [{"version": "v1", "weight": 100}]})
    with pytest.raises(InvalidInput, match="v2 was rolled back before"):
        routed.routes.back("m")
    assert routed.routes.back("m", again=True).route.serving == ("v2",)


def test_other_content_under_the_version_of_a_rolled_back_one_is_taken(routed: Registry, write: Write) -> None:
    _rolled_back(routed)
    routed.remove("m:v2")
    routed.publish(write(version="v2", content=b"better").path, prove=False)
    assert _set(routed).serving == ("v1", "v2")


def test_the_evidence_about_the_arms_begins_anew_when_they_change(routed: Registry) -> None:
    first = _set(routed)
    assert split_id(_set(routed, {**TWO, "fallback": "v1", "why": "else the same"})) == split_id(first)
    other = _set(routed, {"arms": [{"version": "v1", "weight": 50}, {"version": "v2", "weight": 50}]})
    again = _set(routed)
    assert again.since > other.since > first.since
    assert len({split_id(each) for each in (first, other, again)}) == 3
    assert split_prefix("m") == split_id(first)[: len(split_prefix("m"))] != split_prefix("n")
    assert len(split_id(first)) <= EVIDENCE.c.canary.type.length
