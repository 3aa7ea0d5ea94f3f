"""`penstock routes canary` and the verbs around it, against a real registry. No server runs: nothing advances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served_models import build_registry

from penstock.errors import InvalidInput
from penstock.registry.registry import Registry

Penstock = Callable[..., Any]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def models(tmp_path: Path, database: Callable[[Path], str]) -> Iterator[Registry]:
    path = build_registry(tmp_path, database(tmp_path / "registry"))
    with Registry(path, database(path)) as registry:
        registry.set_alias("vec", "champion", "v1.0", force=True)
        yield registry


def start(penstock: Penstock, *options: str, to: str = "v2.0") -> Any:
    return penstock("routes", "canary", "vec", "--to", to, "--why", "fewer errors", *options)


def test_a_canary_is_started_with_every_option_and_explained(penstock: Penstock, models: Registry) -> None:
    done = start(
        penstock, "--steps", "1, 10%,100", "--hold", "2m", "--max-hold", "1h", "--bake", "30s", "--warmup", "5s",
        "--min-requests", "50", "--max-error-rate", "0.02", "--max-error-ratio", "2", "--max-p99-ratio", "1.2",
        "--max-disagreement", "0.05", "--shadow", "0.2", "--on-inconclusive", "rollback", "--strict", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    spec = done.json()["spec"]
    assert (spec["stable"], spec["to"], spec["steps"]) == ("v1.0", "v2.0", [1, 10, 100])
    assert (spec["hold_s"], spec["max_hold_s"], spec["bake_s"], spec["warmup_s"]) == (120, 3600, 30, 5)
    assert (spec["max_error_rate"], spec["max_error_ratio"], spec["max_p99_ratio"]) == (0.02, 2.0, 1.2)
    assert (spec["max_disagreement"], spec["shadow"], spec["on_inconclusive"]) == (0.05, 0.2, "rollback")
    assert spec["strict"] is True
    route = models.routes.get("vec").route
    assert route.canary is not None
    assert (route.canary.version, route.canary.share) == ("v2.0", 0.0)
    text = penstock("routes", "why", "vec").out
    assert "vec: v1.0 → v2.0, preparing at 0 %" in text
    assert "fewer errors" in text
    assert penstock("routes", "why", "vec", "--json").json()["decisions"][0]["action"] == "hold"


def test_a_person_pauses_resumes_and_rolls_back(penstock: Penstock, models: Registry) -> None:
    assert start(penstock).code == 0
    assert penstock("routes", "pause", "vec", "--why", "weekend", "--json").json()["state"] == "paused"
    assert penstock("routes", "resume", "vec", "--why", "monday", "--json").json()["state"] == "preparing"
    done = penstock("routes", "rollback", "vec", "--why", "customers complain", "--json").json()
    assert done["state"] == "rolled_back"
    assert "customers complain" in done["sentence"]
    assert models.routes.all().get("vec") is None  # there was none before
    whys = [entry.why for entry in models.routes.history("vec")]
    assert {"fewer errors", "customers complain"} <= set(whys)


def test_a_version_that_was_rolled_back_is_refused_until_it_is_tried_again(
    penstock: Penstock, models: Registry
) -> None:
    assert start(penstock).code == 0
    assert penstock("routes", "rollback", "vec", "--why", "customers complain").code == 0
    refused(start(penstock), "vec:v2.0 was rolled back before, 20")
    halves = ("vec", "v1.0=50", "v2.0=50")
    refused(penstock("routes", "split", *halves), "(rolled back by")
    refused(penstock("routes", "set", "vec", "--arm", "v2.0=100"), "--again sends it requests")
    refused(penstock("routes", "switch", "vec", "--to", "v2.0"), "arms.0.version: v2.0 was rolled back before, 20")
    assert penstock("routes", "split", *halves, "--again").code == 0
    assert penstock("routes", "remove", "vec").code == 0
    assert start(penstock, "--again").code == 0


def test_a_version_that_no_server_has_proven_is_not_promoted(penstock: Penstock, models: Registry) -> None:
    assert start(penstock).code == 0
    refused(penstock("routes", "promote", "vec", "--why", "now"), "v2.0 has not been loaded and proven by every server")


def test_routes_and_versions_stay_while_a_canary_runs(penstock: Penstock, models: Registry) -> None:
    assert start(penstock).code == 0
    refused(start(penstock), "vec has a canary already, v2.0, which is preparing")
    assert penstock("routes", "remove", "vec").code == 1
    assert penstock("routes", "split", "vec", "v1.0=50", "v2.0=50").code == 1
    with pytest.raises(InvalidInput, match="while the route vec names it"):
        models.remove("vec:v2.0")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--steps", "5,1,100"), "steps: give rising whole percentages"),
        (("--steps", "1,50"), "steps: give rising whole percentages"),
        (("--steps", "a,b"), "--steps a: write rising whole percentages"),
        (("--steps", ""), "--steps : write rising"),
        (("--hold", "soon"), "--hold soon: write a time such as"),
        (("--hold", "0s"), "hold_s: give seconds, more than 0"),
        (("--hold", "10m", "--max-hold", "1m"), "max_hold_s: give at least hold_s"),
        (("--min-requests", "0"), "min_requests: give a whole number"),
        (("--max-error-rate", "2"), "max_error_rate: give a share"),
        (("--max-error-rate", "nan"), "max_error_rate: give a share"),
        (("--max-error-rate", "0"), "at least one limit is needed"),
        (("--max-p99-ratio", "0.5"), "max_p99_ratio: give a ratio from 1"),
        (("--on-inconclusive", "panic"), "on_inconclusive: give pause, rollback or advance"),
    ],
)
def test_each_mistake_is_one_sentence(
    penstock: Penstock, models: Registry, options: tuple[str, ...], words: str
) -> None:
    refused(start(penstock, *options), words)
    assert models.routes.all().get("vec") is None


def test_what_does_not_exist_is_named(penstock: Penstock, models: Registry) -> None:
    refused(start(penstock, to="v9.0"), "vec has no version 'v9.0'")
    refused(start(penstock, to="v1.0"), "to: v1.0 answers already")
    refused(start(penstock, to="@next"), "vec has no alias 'next'")
    refused(penstock("routes", "canary", "nothing", "--to", "v1", "--why", "x"), "there is no model 'nothing'")
    refused(penstock("routes", "canary", "vec", "--to", "v2.0"), "why: a reason is needed")
    refused(penstock("routes", "why", "vec"), "vec has no canary; start one with")
    refused(penstock("routes", "pause", "vec", "--why", "x"), "vec has no canary; start one with")
    assert start(penstock).code == 0
    refused(penstock("routes", "rollback", "vec"), "why: a reason is needed")
    refused(penstock("routes", "resume", "vec", "--why", "x"), "it is preparing, not paused")
    assert penstock("routes", "rollback", "vec", "--why", "x").code == 0
    refused(penstock("routes", "pause", "vec", "--why", "x"), "cannot pause the canary of vec: v2.0 is rolled back")


def test_a_canary_is_compared_with_one_version(penstock: Penstock, models: Registry) -> None:
    models.set_route("vec", {"arms": [{"version": "v1.0", "weight": 50}, {"version": "v2.0", "weight": 50}]})
    refused(start(penstock), "the route vec splits its requests between v1.0 and v2.0")


def refused(done: Any, words: str) -> None:
    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith("penstock: ")
    assert done.err.count("\n") == 1
    assert words in done.err
