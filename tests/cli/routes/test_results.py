"""`penstock routes results`, on evidence as servers store it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served_models import build_registry

from penstock.registry.registry import Registry
from penstock.registry.rollouts.canaries import EvidenceRow
from penstock.registry.rollouts.splits import split_id, split_prefix
from penstock.rollouts.evidence import ArmEvidence

Penstock = Callable[..., Any]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def models(tmp_path: Path, database: Callable[[Path], str]) -> Iterator[Registry]:
    path = build_registry(tmp_path, database(tmp_path / "registry"))
    with Registry(path, database(path)) as registry:
        yield registry


def test_the_figures_and_a_verdict_for_each_rate_are_shown(penstock: Penstock, models: Registry) -> None:
    assert penstock("routes", "split", "vec", "v1.0=90", "v2.0=10").code == 0
    empty = penstock("routes", "results", "vec", "--json").json()
    assert (empty["arms"]["v1.0"]["requests"], empty["arms"]["v1.0"]["error_rate"]) == (0, None)
    assert {each["verdict"] for each in empty["comparisons"]} == {"no_data"}
    route = models.routes.get("vec").route
    for process in ("p1", "p2"):
        counted = {"v1.0": ArmEvidence(900, 1), "v2.0": ArmEvidence(100, 20)}
        rows = [EvidenceRow(0, version, process, arm.to_document()) for version, arm in counted.items()]
        models.routes.canaries.put_split(split_id(route), split_prefix("vec"), rows)
    shown = penstock("routes", "results", "vec")
    assert shown.code == 0, shown.err
    assert "failed: v2.0 40 of 200 (20.00%), v1.0 2 of 1,800 (0.11%): worse" in shown.out
    assert "compared with v1.0" in shown.out
    assert "note: the shares of the clients are compared with the weights from about 1,000 clients on" in shown.out


def test_without_a_split_there_is_nothing_to_compare(penstock: Penstock, models: Registry) -> None:
    done = penstock("routes", "results", "vec")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "there is no route 'vec'" in done.err
    assert penstock("routes", "split", "vec", "v1.0=100").code == 0
    assert "vec sends all requests to v1.0, so there is nothing to compare" in penstock("routes", "results", "vec").err
    assert penstock("routes", "canary", "vec", "--to", "v2.0", "--why", "a test").code == 0
    assert "vec has a canary, and no split to compare" in penstock("routes", "results", "vec").err
