"""Logged predictions and their labels in the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import ConfigError
from penstock.registry.database import routes
from penstock.registry.database.feedback import FeedbackStore, Labelled, Prediction, Total


@pytest.fixture
def store(tmp_path: Path, database: Callable[[Path], str]) -> Iterator[FeedbackStore]:
    store = FeedbackStore(database(tmp_path))
    yield store
    store.close()


def prediction(request_id: str, item: int = 0, **fields: Any) -> Prediction:
    base: dict[str, Any] = {
        "at": 1000,
        "model": "m",
        "version": "v1",
        "route": "",
        "arm": "",
        "key_digest": None,
        "predicted": 2,
        "class_name": None,
        "confidence": 0.9,
    }
    return Prediction(request_id, item, **{**base, **fields})


def results(store: FeedbackStore, *labels: Labelled) -> list[str]:
    return list(store.label(labels, 5000))


def test_labels_are_new_the_same_or_in_place_of_another(store: FeedbackStore) -> None:
    assert store.add([prediction("a"), prediction("b")]) == 0
    assert results(store, Labelled("a", 2), Labelled("a", 2), Labelled("a", 3), Labelled("x", 1)) == [
        "new",
        "same",
        "replaced",
        "unknown",
    ]
    assert store.totals() == [Total("m", "v1", "", "", 2, 1, 1, 0)]
    (entry,) = store._store.read(lambda connection: routes.entries(connection, 10, "relabel"), [])
    assert (entry.what, entry.before, entry.after) == ("relabel a", 2, 3)


def test_nobody_labels_predictions_of_models_that_they_do_not_reach(store: FeedbackStore) -> None:
    store.add([prediction("a"), prediction("b", model="secret")])
    mine = [Labelled(name, 2, None, lambda model, version: (model, version) == ("m", "v1")) for name in ("a", "b")]
    assert results(store, *mine) == ["new", "unknown"]


def test_of_predictions_with_one_id_the_first_stays_and_the_others_are_counted(store: FeedbackStore) -> None:
    assert store.add([prediction("a", version="v1"), prediction("b")]) == 0
    assert store.add([prediction("a", version="v2"), prediction("c"), prediction("b")]) == 2
    assert [total[1:5] for total in store.totals()] == [("v1", "", "", 3)]


@pytest.mark.parametrize(
    ("fields", "label", "correct"),
    [
        ({}, 2, 1),
        ({}, 3, 0),
        ({}, "2", 1),
        ({"class_name": "seven"}, "seven", 1),
        ({"class_name": "seven"}, 2, 1),
        ({"class_name": "seven"}, "2", 0),
        ({"class_name": "7"}, 7, 0),
        ({"predicted": None}, 2, None),
    ],
)
def test_a_number_is_the_number_of_a_class_and_a_text_its_name(
    store: FeedbackStore, fields: dict[str, Any], label: int | str, correct: int | None
) -> None:
    store.add([prediction("a", **fields)])
    assert results(store, Labelled("a", label)) == ["new"]
    (total,) = store.totals()
    assert (total.judged, total.correct) == (int(correct is not None), correct or 0)


def test_of_several_predictions_a_label_names_one(store: FeedbackStore) -> None:
    store.add([prediction("a", item) for item in range(3)])
    assert results(store, Labelled("a", 2), Labelled("a", 2, 1), Labelled("a", 2, 3)) == ["several", "new", "unknown"]


def test_sums_are_kept_for_each_version_and_arm(store: FeedbackStore) -> None:
    store.add([prediction("a", route="m", arm="v1"), prediction("b", route="m", arm="v2", version="v2")])
    store.add([prediction(f"c{n}") for n in range(300)])
    results(store, Labelled("a", 2), Labelled("b", 0))
    assert store.totals() == [
        Total("m", "v1", "", "", 300, 0, 0, 0),
        Total("m", "v1", "m", "v1", 1, 1, 1, 1),
        Total("m", "v2", "m", "v2", 1, 1, 1, 0),
    ]


def test_predictions_are_deleted_by_key_and_by_age(store: FeedbackStore) -> None:
    store.add([prediction("a", key_digest="k"), prediction("b", key_digest="l"), prediction("c", at=10)])
    assert store.forget(key_digest="k") == 1
    assert store.forget(key_digest="k") == 0
    assert store.prune(500) == 1
    assert results(store, Labelled("a", 1), Labelled("b", 1), Labelled("c", 1)) == ["unknown", "new", "unknown"]


def test_a_database_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    store = FeedbackStore(f"sqlite:///{tmp_path}/db")
    for call in (lambda: store.add([prediction("a")]), lambda: results(store, Labelled("a", 1)), store.totals):
        with pytest.raises(ConfigError, match="cannot be used"):
            call()


def test_without_a_database_there_are_no_sums(tmp_path: Path) -> None:
    assert FeedbackStore(f"sqlite:///{tmp_path}/none.db").totals() == []
    assert not (tmp_path / "none.db").exists()
