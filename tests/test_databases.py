"""Which tests run on which database."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from databases import KINDS, on_one_database


def collected(place: str, count: int, kinds: tuple[str, ...] = KINDS) -> list[Any]:
    """So many tests of a file, each on every kind of database."""
    return [
        SimpleNamespace(nodeid=f"{place}::test_{number}[{kind}]", callspec=SimpleNamespace(params={"database": kind}))
        for number in range(count)
        for kind in kinds
    ]


def test_a_test_runs_on_one_database_and_about_half_of_all_on_each() -> None:
    items = collected("tests/cli/test_serve.py", 200)
    left_out = on_one_database(items)
    kept = [item.nodeid for item in items if item.nodeid not in left_out]
    assert len({name.partition("[")[0] for name in kept}) == len(kept) == 200
    assert 60 < sum("sqlite" in name for name in kept) < 140


def test_tests_of_what_reads_the_database_and_of_one_kind_only_stay() -> None:
    items = collected("tests/registry/test_registry.py", 20) + collected("tests/cli/test_gc.py", 20, ("sqlite",))
    assert on_one_database([*items, SimpleNamespace(nodeid="tests/test_docs.py::test_it")]) == set()
