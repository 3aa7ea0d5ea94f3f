"""The choice of a version: shares, what moves when weights change, and the same answer everywhere."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.routing import Chooser, choose, sampled
from penstock.registry.routes import Arm, Canary, Route, Rule, Sticky

KEYS = [f"user-{number}" for number in range(60_000)]


def _route(*weights: int, **more: Any) -> Route:
    arms = tuple(Arm(f"v{number}.0", weight) for number, weight in enumerate(weights, 1))
    return Route("m", arms, salt=more.pop("salt", "0123456789abcdef"), **more)


def _versions(route: Route, keys: list[str] = KEYS) -> list[str]:
    chooser = Chooser(route)
    return [choice.version for key in keys if (choice := chooser.choose(key, None, "")) is not None]


def _headers(**values: str) -> Callable[[str], str | None]:
    given = {name.replace("_", "-"): value for name, value in values.items()}
    return given.get


def _within_3_sigma(versions: list[str], shares: dict[str, float]) -> None:
    n, counts = len(versions), Counter(versions)
    for version, share in shares.items():
        assert abs(counts[version] - n * share) <= 3 * (n * share * (1 - share)) ** 0.5, (version, counts)


@pytest.mark.parametrize("weights", [(90, 10), (60, 30, 10), (9900, 100), (50, 50, 0), (25, 25, 25, 25), (100,)])
def test_shares_are_within_3_sigma_of_the_weights(weights: tuple[int, ...]) -> None:
    route = _route(*weights)
    _within_3_sigma(_versions(route), {arm.version: arm.weight / route.total for arm in route.arms})


@pytest.mark.parametrize("salt", ["a", "b", "c", "d"])
def test_shares_hold_for_any_salt_and_for_versions_with_similar_names(salt: str) -> None:
    names = ("v1.0", "v1.1", "v1.0-rc1", "1.0", "champion")
    route = Route("m", tuple(Arm(name, 20) for name in names), salt=salt)
    _within_3_sigma(_versions(route), dict.fromkeys(names, 0.2))


MOVES = [
    ((90, 10), (80, 20), {("v1.0", "v2.0"): 0.10}),
    ((60, 30, 10), (54, 27, 19), {("v1.0", "v3.0"): 0.06, ("v2.0", "v3.0"): 0.03}),
    ((50, 50, 0), (45, 45, 10), {("v1.0", "v3.0"): 0.05, ("v2.0", "v3.0"): 0.05}),
]


@pytest.mark.parametrize(("before", "after", "moves"), MOVES)
def test_a_growing_arm_takes_its_part_and_moves_no_other_key(
    before: tuple[int, ...], after: tuple[int, ...], moves: dict[tuple[str, str], float]
) -> None:
    pairs = zip(_versions(_route(*before)), _versions(_route(*after)), strict=True)
    moved = Counter(pair for pair in pairs if pair[0] != pair[1])
    assert set(moved) == set(moves)
    for pair, share in moves.items():
        assert abs(moved[pair] / len(KEYS) - share) < 0.004


def test_the_order_of_the_arms_does_not_matter() -> None:
    first = _route(60, 30, 10)
    for arms in itertools.permutations(first.arms):
        assert _versions(replace(first, arms=arms), KEYS[:2000]) == _versions(first, KEYS[:2000])


def test_another_salt_places_the_keys_anew() -> None:
    pairs = zip(_versions(_route(50, 50, salt="a")), _versions(_route(50, 50, salt="b")), strict=True)
    assert 0.48 < sum(a == b for a, b in pairs) / len(KEYS) < 0.52


def test_keys_never_leave_a_growing_canary_and_it_takes_from_all_arms_alike() -> None:
    route = _route(70, 30, 0)
    inside: set[str] = set()
    for share in (0.0, 0.01, 0.05, 0.25, 0.5, 1.0):
        chooser = Chooser(replace(route, canary=Canary("v3.0", share, "c")))
        chosen = {key: chooser.choose(key, None, "") for key in KEYS}
        now = {key for key, choice in chosen.items() if choice is not None and choice.reason == "canary"}
        assert inside <= now
        assert abs(len(now) / len(KEYS) - share) < 0.006
        others = [choice.version for key, choice in chosen.items() if choice is not None and key not in now]
        assert all(v == w for v, w in zip(others, _versions(route, [k for k in KEYS if k not in now]), strict=True))
        if others:
            _within_3_sigma(others, {"v1.0": 0.7, "v2.0": 0.3})
        inside = now


_CODE = """
import json, sys
from penstock.engine.routing import choose
from penstock.registry.routes import parse_record
route = parse_record("m", json.loads(sys.argv[1]))
print(json.dumps([choose(route, f"user-{n}", None, "").version for n in range(200)]))
"""


def test_every_process_chooses_the_same_whatever_its_hash_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    route = _route(60, 30, 10, canary=Canary("v3.0", 0.1, "c"))
    found = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        call = [sys.executable, "-c", _CODE, json.dumps(route.to_record())]
        found.append(json.loads(subprocess.run(call, check=True, capture_output=True).stdout))
    assert found[0] == found[1] == _versions(route, KEYS[:200])


def test_the_place_of_known_keys_stays_from_release_to_release() -> None:
    assert "".join(version[1] for version in _versions(_route(50, 30, 20), KEYS[:40])) == PINNED


PINNED = "2311122311113212311333321132113221332121"


# What keeps a client at its version


def test_a_key_prevails_over_the_request_id_and_without_one_the_request_id_counts() -> None:
    route = _route(50, 50)
    by_key = {choose(route, "ann", None, str(n)) for n in range(50)}
    assert len(by_key) == 1
    assert {choice.version for n in range(50) if (choice := choose(route, None, None, str(n)))} == {"v1.0", "v2.0"}
    assert choose(route, None, None, "ann") in by_key


@pytest.mark.parametrize(
    ("sticky", "headers"),
    [
        (Sticky("header", "X-User"), _headers(x_user="ann")),
        (Sticky("cookie", "sid"), _headers(cookie='theme=dark; sid="ann"; sid=bob')),
    ],
)
def test_a_header_or_a_cookie_keeps_a_client_and_others_go_by_request_id(
    sticky: Sticky, headers: Callable[[str], str | None]
) -> None:
    chooser = Chooser(_route(50, 50, sticky=sticky))
    assert chooser.key("other", headers, "1") == "ann"
    for without in (None, _headers(), _headers(cookie="theme=dark; sidx=ann")):
        assert chooser.key("other", without, "1") == "1"


def test_a_field_of_the_body_keeps_a_client() -> None:
    chooser = Chooser(_route(50, 50, sticky=Sticky("field", "machine")))
    assert chooser.by_field
    assert chooser.key("other", None, "1", "press-7") == "press-7"
    assert chooser.key("other", None, "1", None) == "1"


def test_the_request_id_alone_may_decide() -> None:
    assert Chooser(_route(50, 50, sticky=Sticky("request_id"))).key("ann", None, "7") == "7"


@given(st.text(), st.text())
def test_any_key_has_a_place(key: str, request_id: str) -> None:
    assert choose(_route(34, 33, 33), key, None, request_id) is not None


# Rules, and versions that are not ready


def test_a_rule_prevails_over_weights_and_canary() -> None:
    route = _route(100, 0, rules=(Rule("X-Beta", "1", "v2.0"),), canary=Canary("v3.0", 1.0, "c"))
    choice = choose(route, "ann", _headers(x_beta=" 1 "), "")
    assert choice is not None
    assert (choice.version, choice.reason) == ("v2.0", "rule")
    for headers in (_headers(x_beta="2"), _headers(x_gamma="1"), None):
        other = choose(route, "ann", headers, "")
        assert other is not None
        assert (other.version, other.reason) == ("v3.0", "canary")


def test_what_is_not_ready_gets_nothing_and_only_its_keys_move() -> None:
    route = _route(60, 30, 10, rules=(Rule("X-Beta", "1", "v2.0"),), canary=Canary("v2.0", 0.5, "c"))
    ready = Chooser(route, {"v1.0", "v3.0"})
    assert {choice.version for key in KEYS[:500] if (choice := ready.choose(key, _headers(x_beta="1"), ""))} == {
        "v1.0",
        "v3.0",
    }
    plain = replace(route, canary=None)
    without = Chooser(plain, {"v1.0", "v3.0"})
    for key, before in zip(KEYS[:5000], _versions(plain, KEYS[:5000]), strict=True):
        after = without.choose(key, None, "")
        assert after is not None
        assert before in (after.version, "v2.0")
    assert Chooser(route, ()).choose("ann", None, "") is None


def test_samples_are_the_same_keys_everywhere_and_grow_with_the_share() -> None:
    small = {key for key in KEYS[:20_000] if sampled(key, "log", 0.01)}
    large = {key for key in KEYS[:20_000] if sampled(key, "log", 0.1)}
    assert small < large
    assert abs(len(large) / 20_000 - 0.1) < 0.01
    assert not any(sampled(key, "log", 0.0) for key in KEYS[:100])
    assert all(sampled(key, "log", 1.0) for key in KEYS[:100])
    assert large != {key for key in KEYS[:20_000] if sampled(key, "other", 0.1)}
