"""API keys: the book against a model of it, and what is written where."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, InvalidInput
from penstock.gateway.callers.key_table import KeyTable
from penstock.gateway.limits.quotas import Quotas
from penstock.gateway.limits.slots import OwnSlots
from penstock.monitor.redaction import scrub
from penstock.registry.access.book import KeyBook
from penstock.registry.access.key import Key, NoSuchKey, id_in, new_id, new_text
from penstock.registry.access.pepper import Pepper, Peppers
from penstock.registry.audit import acting
from penstock.registry.database.reads import LastKnown, database_of
from penstock.registry.registry import Registry

Database = Callable[[Path], str]


@pytest.fixture
def keyed(tmp_path: Path, database: Database) -> Registry:
    return Registry(tmp_path / "registry", database(tmp_path / "registry"))


def table_of(book: KeyBook) -> KeyTable:
    """What a server that follows the book admits."""
    table = KeyTable(OwnSlots, Quotas(lambda _, wanted: dict.fromkeys(wanted, 0)))
    table.replace(book.all().keys, book.peppers.known())
    return table


def test_nothing_is_made_by_reading(keyed: Registry, tmp_path: Path) -> None:
    assert keyed.keys.list() == []
    assert keyed.keys.revision() == 0
    assert keyed.keys.peppers.known() == []
    assert not (tmp_path / "registry").exists()


def test_a_key_is_shown_once_and_kept_as_a_digest(keyed: Registry) -> None:
    with acting("ann", "for the shop"):
        made = keyed.keys.create("shop", ("read", "infer"), models=["fraud-*"], expires="30d", rate="600/m", weight=2)
    assert id_in(made.key) == made.id
    assert keyed.keys.get(made.id) == made.stored
    assert (made.stored.scopes, made.stored.most_at_once, made.stored.created_by) == (("infer", "read"), 600, "ann")
    assert 29.9 < (made.stored.expires_at or 0) / 86400e3 - time.time() / 86400 < 30.1
    stored = json.dumps([*keyed._reads.key_rows()])
    assert made.key not in stored
    assert made.key[12:55] not in stored
    entry = keyed.routes.audit(1)[0]
    assert (entry.who, entry.what, entry.why, entry.before) == ("ann", f"create key {made.id}", "for the shop", None)
    assert entry.after["models"] == ["fraud-*"]
    assert "digest" not in str(entry.after)
    assert made.stored.secrets[0].digest not in str(entry)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["create", "create for a moment", "rotate", "rotate with grace", "revoke", "revoke again"]),
        st.integers(0, 5),
    ),
    max_size=12,
)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@given(operations=OPERATIONS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_keys_admitted_are_those_of_a_model(
    tmp_path_factory: pytest.TempPathFactory, database: Database, operations: list[tuple[str, int]]
) -> None:
    place = tmp_path_factory.mktemp("model")
    good: dict[str, set[str]] = {}
    """The secrets that are valid, by id."""
    bad: set[str] = set()
    with Registry(place, database(place)) as registry:
        book = registry.keys
        for what, number in operations:
            ids = sorted(good)
            if what.startswith("create"):
                made = book.create("somebody", expires=1e-9 + 1 if what != "create" else None)
                good[made.id] = {made.key}
                if what != "create":
                    record = book.get(made.id).to_record() | {"expires_at": 1}  # as if it had ended
                    registry._reads.store.write(lambda connection, r=record: _put(connection, r))
                    bad |= good[made.id]
                    good[made.id] = set()
            elif ids:
                key = ids[number % len(ids)]
                valid = book.get(key).state() == "active"
                if what.startswith("rotate") and not valid:
                    with pytest.raises(InvalidInput):
                        book.rotate(key)
                elif what.startswith("rotate"):
                    made = book.rotate(key, grace="1h" if what.endswith("grace") else 0)
                    kept = good[key] if what.endswith("grace") else set()
                    bad |= good[key] - kept
                    good[key] = kept | {made.key}
                else:
                    book.revoke(key)
                    bad |= good[key]
                    good[key] = set()
        table = table_of(book)
        for key, texts in good.items():
            for text in texts:
                found = table.find(text)
                assert found is not None
                assert found.caller.id == key
        assert not any(table.find(text) for text in bad)
        assert len(table) == sum(bool(texts) for texts in good.values())
        assert table.any is bool(good)


def _put(connection: object, record: dict[str, object]) -> None:
    from penstock.registry.database import followed

    followed.put_key(connection, str(record["id"]), record)  # type: ignore[arg-type]


def test_every_change_counts_up_the_revision_and_is_followed(keyed: Registry) -> None:
    book = keyed.keys
    revisions = [book.revision()]
    made = book.create("a")
    revisions.append(book.revision())
    book.rotate(made.id)
    revisions.append(book.revision())
    book.revoke(made.id)
    revisions.append(book.revision())
    assert sorted(set(revisions)) == revisions
    before = keyed.routes.audit(10)
    book.revoke(made.id)
    assert (book.revision(), keyed.routes.audit(10)) == (revisions[-1], before)
    assert [entry.what.split()[0] for entry in before] == ["revoke", "rotate", "create"]
    with pytest.raises(InvalidInput, match="revoked"):
        book.rotate(made.id)
    with pytest.raises(NoSuchKey, match="penstock keys list"):
        book.revoke("aaaaaaaa")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"scopes": ["root"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"models": ["a b"]}, "models"),
        ({"models": ["a/b"]}, "models"),
        ({"models": ["a"], "scopes": ["admin"]}, "models"),
        ({"expires": "soon"}, "expires"),
        ({"expires": "0s"}, "expires"),
        ({"expires": float("nan")}, "expires"),
        ({"rate": "fast"}, "rate"),
        ({"rate": "0/s"}, "rate"),
        ({"burst": 5}, "burst"),
        ({"rate": "5/s", "burst": 0}, "burst"),
        ({"weight": 0}, "weight"),
        ({"weight": float("nan")}, "weight"),
    ],
)
def test_what_no_key_can_be_names_its_field(tmp_path: Path, given: dict[str, object], field: str) -> None:
    with Registry(tmp_path) as registry, pytest.raises(InvalidInput, match=f"^{field}: ") as refused:
        registry.keys.create(**{"name": "a", **given})  # type: ignore[arg-type]
    assert [fault.field for fault in refused.value.errors] == [field]


def test_a_damaged_record_admits_nobody_and_hides_no_other(keyed: Registry) -> None:
    made = keyed.keys.create("good")
    keyed._reads.store.write(lambda connection: _put(connection, {"id": "broken"}))
    assert [key.id for key in keyed.keys.list()] == [made.id]


def test_a_key_in_a_log_line_is_redacted() -> None:
    text = new_text(new_id())
    for line in (text, f"sent {text} twice", f"X-API-Key: {text}", f"/predict?key={text}"):
        assert text[12:55] not in scrub(line)


# Peppers


def test_the_same_key_has_another_digest_under_another_pepper() -> None:
    text = new_text(new_id())
    first, second = Pepper("a" * 20), Pepper("b" * 20)
    assert first.digest(text) == Pepper("a" * 20).digest(text) != second.digest(text)
    assert first.mark != second.mark
    assert "a" * 20 not in repr(first)


def test_a_pepper_can_be_replaced_while_keys_are_in_use(keyed: Registry, caplog: pytest.LogCaptureFixture) -> None:
    old, new = "the-pepper-of-2025", "the-pepper-of-2026"
    made = keyed.keys.with_pepper(old).create("a")
    table = table_of(keyed.keys.with_pepper(new))
    assert table.find(made.key) is None
    assert "key_pepper" in caplog.text
    both = keyed.keys.with_pepper(new, old)
    assert table_of(both).find(made.key) is not None
    assert both.create("b").stored.secrets[0].pepper == Pepper(new).mark
    rotated = both.rotate(made.id)
    assert table_of(keyed.keys.with_pepper(new)).find(rotated.key) is not None


def test_a_pepper_that_others_can_read_is_closed_to_them_or_not_used(tmp_path: Path) -> None:
    file = tmp_path / "keys.pepper"
    file.write_text("x" * 20, encoding="ascii")
    file.chmod(0o644)
    assert len(Peppers(file).known()) == 1
    assert file.stat().st_mode & 0o777 == 0o600
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="PENSTOCK_KEY_PEPPER"):
        Peppers(file).for_new()


# Without the database


def test_a_start_without_the_database_knows_the_keys(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/registry.db"
    with Registry(tmp_path, address) as registry:
        made = registry.keys.create("a")
        assert len(registry.keys.list()) == 1
        registry.routes.keep(tmp_path)
        kept = LastKnown.read(tmp_path / "last-known.json", registry.database_url)
        assert kept is not None
        assert kept.database == database_of(address)
        assert made.key not in (tmp_path / "last-known.json").read_text(encoding="utf-8")
        (tmp_path / "registry.db").rename(tmp_path / "away.db")
    with Registry(tmp_path, address) as again, again.routes.starting(tmp_path):
        assert table_of(again.keys).find(made.key) is not None


def test_records_are_read_back_whole(keyed: Registry) -> None:
    made = keyed.keys.create("a", ("infer", "read"), models=["m:1"], rate="10/10s", burst=3, expires=60)
    assert Key.from_record(json.loads(json.dumps(made.stored.to_record()))) == made.stored
