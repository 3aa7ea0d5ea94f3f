"""`penstock routes`, against a real registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from served_models import build_registry

from penstock.registry.registry import Registry

Penstock = Callable[..., Any]


@pytest.fixture
def models(tmp_path: Path, database: Callable[[Path], str]) -> Registry:
    return Registry(build_registry(tmp_path, database(tmp_path / "registry")), database(tmp_path / "registry"))


def _arms(models: Registry) -> dict[str, int]:
    return {arm.version: arm.weight for arm in models.routes.get("vec").route.arms}


def _refused(done: Any, words: str) -> None:
    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith("penstock: ")
    assert done.err.count("\n") == 1
    assert words in done.err


def test_every_option_of_a_route_is_set_and_shown(penstock: Penstock, models: Registry) -> None:
    done = penstock(
        "routes", "set", "vec", "--arm", "v1.0=90", "--arm", "v2.0=10", "--sticky", "cookie:sid",
        "--rule", "X-Beta=a=b->v2.0", "--shadow", "v2.0=0.25", "--fallback", "v1.0", "--why", "first", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    shown = done.json()
    assert shown["sticky"] == {"by": "cookie", "name": "sid"}
    assert shown["rules"] == [{"when": {"header": "X-Beta", "equals": "a=b"}, "version": "v2.0"}]
    assert (shown["shadow"], shown["fallback"]) == ([{"version": "v2.0", "sample": 0.25}], "v1.0")
    assert (shown["why"], shown["revision"], shown["canary"]) == ("first", 1, None)
    assert _arms(models) == {"v1.0": 90, "v2.0": 10}
    assert penstock("routes", "show", "vec", "--json").json() == shown
    text = penstock("routes", "show", "vec").out
    for word in ("90 %", "10 %", "where X-Beta is a=b", "shadow", "fallback", "cookie:sid", "first"):
        assert word in text


def test_a_route_comes_from_a_file_or_from_standard_input(penstock: Penstock, models: Registry, tmp_path: Path) -> None:
    document = {"arms": [{"version": "v2.0", "weight": 100}], "why": "from a file"}
    (tmp_path / "route.json").write_text(json.dumps(document))
    assert penstock("routes", "set", "vec", "--file", "route.json").code == 0
    assert _arms(models) == {"v2.0": 100}
    changed = json.dumps(document | {"arms": [{"version": "v1.0", "weight": 100}]}).encode()
    assert penstock("routes", "set", "vec", "--file", "-", stdin=changed).code == 0
    assert _arms(models) == {"v1.0": 100}
    _refused(penstock("routes", "set", "vec", "--file", "-", stdin=b"{"), "-: it is not JSON")
    _refused(penstock("routes", "set", "vec", "--file", "none.json"), "none.json")


def test_split_keeps_the_rest_of_the_route(penstock: Penstock, models: Registry) -> None:
    penstock("routes", "set", "vec", "--arm", "v1.0=100", "--fallback", "v1.0", "--sticky", "header:X-User")
    assert penstock("routes", "split", "vec", "v1.0=70", "v2.0=30", "--why", "more").code == 0
    route = models.routes.get("vec").route
    assert _arms(models) == {"v1.0": 70, "v2.0": 30}
    assert (route.fallback, route.sticky.name, route.why) == ("v1.0", "X-User", "more")


def test_switch_and_back_and_the_history_of_both(penstock: Penstock, models: Registry) -> None:
    assert penstock("routes", "switch", "vec", "--to", "v1.0").code == 0
    assert penstock("routes", "switch", "vec", "--to", "v2.0", "--why", "green").code == 0
    assert _arms(models) == {"v2.0": 100, "v1.0": 0}
    assert penstock("routes", "switch", "vec", "--back", "--why", "too slow").code == 0
    assert models.routes.get("vec").route.serving == ("v1.0",)
    entries = penstock("routes", "history", "vec", "--json").json()["audit"]
    assert [entry["what"] for entry in entries] == ["route vec: back", "route vec: switch", "route vec: switch"]
    assert [entry["why"] for entry in entries[:2]] == ["too slow", "green"]
    assert all("@" in entry["who"] and entry["at"].endswith("Z") for entry in entries)
    assert "v2.0=100" in penstock("routes", "history", "vec").out
    every = [entry["what"] for entry in penstock("routes", "history", "--limit", "100", "--json").json()["audit"]]
    assert {"set alias vec@stable", "publish vec:v1.0"} <= set(every)


def test_list_and_remove(penstock: Penstock, models: Registry) -> None:
    assert "There are no routes" in penstock("routes", "list").out
    penstock("routes", "split", "vec", "v1.0=9999", "v2.0=1")
    assert [route["name"] for route in penstock("routes", "list", "--json").json()["routes"]] == ["vec"]
    assert "99.99 %" in penstock("routes", "list").out
    _refused(penstock("models", "remove", "vec:v2.0", "--yes"), "cannot be removed while the route vec names it")
    assert penstock("routes", "remove", "vec", "--why", "done", "--json").json() == {"removed": "vec"}
    _refused(penstock("routes", "remove", "vec"), "there is no route 'vec'; there are no routes yet")
    assert models.routes.history("vec")[0].why == "done"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--arm", "v1.0=90"), "route vec: arms: the weights add up to 90; make them add up to 100, or to 10000"),
        (("--arm", "v1.0"), "--arm v1.0: write VERSION=WEIGHT, such as v1.0=90"),
        (("--arm", "v1.0=1.5"), "--arm v1.0=1.5: the weight '1.5' is not a whole number"),
        (("--arm", "v1.0=-5", "--arm", "v2.0=105"), "arms.0.weight: give a whole number from 0 to 10000, not -5"),
        (("--arm", "v9.0=100"), "route vec: arms.0.version: vec has no version 'v9.0'; versions: v1.0, v2.0"),
        (("--arm", "v1.0=100", "--arm", "v1.0=0"), "route vec: arms.1: v1.0 is given twice"),
        (("--arm", "v1.0=100", "--sticky", "ip"), "sticky.by: 'ip' is none of key, request_id, header, cookie, field"),
        (("--arm", "v1.0=100", "--sticky", "header"), "--sticky header: write header:NAME, such as header:X-User"),
        (("--arm", "v1.0=100", "--rule", "X-Beta->v1.0"), "write 'HEADER=VALUE->VERSION', such as 'X-Beta=1->v2.0'"),
        (("--arm", "v1.0=100", "--shadow", "v2.0=x"), "--shadow v2.0=x: the share 'x' is not a number from 0 to 1"),
        (("--arm", "v1.0=100", "--shadow", "v2.0=2"), "shadow.0.sample: give a number from 0 to 1, not 2.0"),
        (("--arm", "v1.0=100", "--fallback", "v7"), "route vec: fallback: vec has no version 'v7'"),
        (("--arm", "@none=100"), "vec has no alias 'none'; aliases: stable"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_changes_nothing(
    penstock: Penstock, models: Registry, options: tuple[str, ...], words: str
) -> None:
    _refused(penstock("routes", "set", "vec", *options), words)
    assert models.routes.all().stored == {}


def test_wrong_usage_is_exit_code_2(penstock: Penstock, models: Registry) -> None:
    assert penstock("routes", "set", "vec").code == 2
    assert penstock("routes", "switch", "vec").code == 2
    assert penstock("routes", "switch", "vec", "--to", "v1.0", "--back").code == 2
    _refused(penstock("routes", "split", "nope", "v1.0=100"), "there is no model 'nope' in the registry")
    assert models.routes.all().stored == {}
