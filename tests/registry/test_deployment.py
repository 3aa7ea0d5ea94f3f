"""The deployment: what operators load and unload, as a value and in the registry's database."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from racing import race
from sqlalchemy import text

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.refs import name_of
from penstock.registry.database import store as store_module
from penstock.registry.database.store import Store
from penstock.registry.deployment import Deployment, ProcessDeployment
from penstock.registry.registry import Registry

Write = Callable[..., Artifact]
Database = Callable[[Path], str]

ALIASES = {"a": {"live": "1", "next": "2"}, "b": {"live": "1"}}
REFS = [f"{name}{rest}" for name in "ab" for rest in ("", ":1", ":2", "@live", "@next", "@gone")]
CHANGES = st.lists(st.tuples(st.sampled_from(["load", "unload"]), st.sampled_from(REFS)), max_size=8)


def changed(before: Deployment, changes: list[tuple[str, str]]) -> Deployment:
    for verb, ref in changes:
        before = getattr(before, verb)(ref)
    return before


# The value


def test_a_bare_name_unloads_every_version_and_one_version_can_be_loaded_again() -> None:
    value = Deployment(aliases=ALIASES).unload("a").load("a:1")
    assert (value.loads, value.unloads) == (("a:1",), ("a",))
    assert [value.is_unloaded(key) for key in ("a:1", "a:2", "b:1")] == [False, True, False]
    assert value.load("a").unloads == ()


def test_an_alias_unloads_the_version_that_it_means_at_that_moment() -> None:
    value = Deployment(aliases=ALIASES).load("a@live").unload("a@live")
    assert (value.loads, value.unloads) == ((), ("a:1",))
    assert value.is_withdrawn("a@live")
    assert not value.is_withdrawn("a@next")
    assert value.load("a@live").unloads == ()


def test_a_model_from_the_command_line_needs_no_load() -> None:
    assert Deployment().unload("a").load("a", pin=False) == Deployment()
    still_unloaded = Deployment().unload("a").load("a:1", pin=False)
    assert still_unloaded.loads == ("a:1",), "without it the name would keep the version unloaded"


@given(changes=CHANGES, ref=st.sampled_from(REFS))
def test_the_last_change_wins(changes: list[tuple[str, str]], ref: str) -> None:
    before = changed(Deployment(aliases=ALIASES), changes)
    loaded, unloaded = before.load(ref), before.unload(ref)
    versions = [f"{name_of(ref)}:{version}" for version in "12"] if ref == name_of(ref) else [before.key(ref)]
    for key in (key for key in versions if key is not None):
        assert not loaded.is_unloaded(key)
        assert unloaded.is_unloaded(key)
    assert ref in loaded.loads
    assert ref not in unloaded.loads
    assert loaded.load(ref) == loaded
    assert unloaded.unload(ref) == unloaded


@given(changes=CHANGES, ref=st.sampled_from(REFS))
def test_a_change_does_not_affect_other_models(changes: list[tuple[str, str]], ref: str) -> None:
    before = changed(Deployment(aliases=ALIASES), changes)
    for after in (before.load(ref), before.unload(ref)):
        for kept in ("loads", "unloads"):
            others = [[each for each in getattr(v, kept) if name_of(each) != name_of(ref)] for v in (before, after)]
            assert others[0] == others[1]


@given(changes=CHANGES)
def test_a_local_deployment_over_an_empty_one_is_unchanged(changes: list[tuple[str, str]]) -> None:
    local = changed(Deployment(aliases=ALIASES), changes)
    laid_over = Deployment(aliases=ALIASES).overlaid(local)
    for field in ("loads", "unloads"):
        assert sorted(getattr(laid_over, field)) == sorted(getattr(local, field))


@given(stored=CHANGES, local=CHANGES)
def test_a_local_deployment_takes_precedence_for_the_models_it_names(
    stored: list[tuple[str, str]], local: list[tuple[str, str]]
) -> None:
    over = changed(Deployment(aliases=ALIASES), local)
    value = changed(Deployment(aliases=ALIASES), stored).overlaid(over)
    assert all(
        value.is_unloaded(f"{name}:{v}")
        for name in over.unloads
        if ":" not in name
        for v in "12"
        if not any(over.key(ref) == f"{name}:{v}" for ref in over.loads)
    )
    assert all(value.is_unloaded(key) for key in over.unloads if ":" in key)
    assert all(ref in value.loads for ref in over.loads if over.key(ref) not in over.unloads)


def test_the_local_deployment_counts_only_its_own_changes() -> None:
    store = ProcessDeployment()
    assert store.change_deployment(lambda now: now.unload("m")).revision == 1
    assert store.change_deployment(lambda now: now.unload("m")).revision == 1
    assert store.deployment().unloads == ("m",)


# In the database


def test_one_read_gives_aliases_loads_unloads_and_the_revision(registry: Registry, write: Write) -> None:
    assert registry.deployment() == Deployment()
    assert not registry.path.exists()
    registry.publish(write().path)
    registry.set_alias("m", "champion", "v1")
    before = registry.deployment()
    assert (before.aliases, before.loads, before.unloads) == ({"m": {"champion": "v1"}}, (), ())
    text = registry.revision()
    after = registry.change_deployment(lambda now: now.load("other").unload("m@champion"))
    assert (after.loads, after.unloads, after.revision) == (("other",), ("m:v1",), before.revision + 1)
    assert registry.revision() != text
    with Registry(registry.path, registry.database_url) as again:
        assert again.deployment() == after


def test_a_change_that_changes_nothing_is_not_written(registry: Registry, write: Write) -> None:
    registry.publish(write().path)
    after = registry.change_deployment(lambda now: now.unload("m"))
    assert registry.change_deployment(lambda now: now.unload("m")) == after
    assert registry.change_deployment(lambda now: now) == after


def test_no_concurrent_change_of_several_processes_is_lost(registry: Registry, write: Write) -> None:
    registry.publish(write().path)
    before = registry.deployment().revision
    assert race(4, registry, "unload", [f"m{number}" for number in range(4)]) == [""] * 4
    after = registry.deployment()
    assert sorted(after.unloads) == sorted(f"m{number}:{version}" for number in range(4) for version in range(5))
    assert after.revision == before + 20


def test_fields_that_a_later_release_adds_to_the_row_are_kept(registry: Registry) -> None:
    registry.path.mkdir()
    registry.change_deployment(lambda now: now.unload("m"))
    with registry._reads.store._database.writer.begin() as connection:
        document = json.dumps({"loads": [], "unloads": ["m"], "routes": {"m": {"v1": 100}}})
        connection.execute(text("UPDATE penstock_deployment SET document = :document"), {"document": document})
    assert registry.change_deployment(lambda now: now.load("m")).loads == ("m",)
    with registry._reads.store._database.reader.begin() as connection:
        (found,) = connection.execute(text("SELECT document FROM penstock_deployment")).all()
    assert json.loads(found.document) == {"loads": ["m"], "unloads": [], "routes": {"m": {"v1": 100}}}


def test_a_database_of_the_previous_release_is_upgraded_and_keeps_its_aliases(
    tmp_path: Path, database: Database
) -> None:
    (tmp_path / "old").mkdir()
    old = Store(database(tmp_path / "old"))
    old.set_alias("m", "champion", "v1")
    with old._database.writer.begin() as connection:
        store_module.downgrade(connection, "0002")
    old.close()
    upgraded = Store(database(tmp_path / "old"))
    assert upgraded.deployment().aliases == {"m": {"champion": "v1"}}
    assert upgraded.change_deployment(lambda now: now.unload("m@champion")).unloads == ("m:v1",)
    upgraded.close()
