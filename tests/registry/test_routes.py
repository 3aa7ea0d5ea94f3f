"""The value of a route: what is read, what is refused, and with which sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.registry.routes import Arm, Canary, Rule, Shadow, Sticky, parse_record, parse_route

TWO = [{"version": "v1.0", "weight": 90}, {"version": "v2.0", "weight": 10}]
WHOLE: dict[str, Any] = {
    "arms": TWO,
    "sticky": {"by": "header", "name": "X-User"},
    "rules": [{"when": {"header": "X-Beta", "equals": "1"}, "version": "v2.0"}],
    "shadow": [{"version": "v3.0", "sample": 0.1}],
    "fallback": "v1.0",
    "why": "first real traffic",
}


def test_the_document_of_the_contract_is_read_and_written_as_it_is() -> None:
    route = parse_route("digits", WHOLE)
    assert route.arms == (Arm("v1.0", 90), Arm("v2.0", 10))
    assert route.sticky == Sticky("header", "X-User")
    assert route.rules == (Rule("X-Beta", "1", "v2.0"),)
    assert route.shadow == (Shadow("v3.0", 0.1),)
    assert (route.fallback, route.why) == ("v1.0", "first real traffic")
    assert route.to_document() == WHOLE
    assert parse_route("digits", json.loads(json.dumps(route.to_document()))) == route


def test_what_get_shows_beside_the_document_may_be_put_back() -> None:
    shown = {**WHOLE, "name": "digits", "state": {}, "evidence": {}, "revision": 3, "canary": None, "updated_at": 1}
    assert parse_route("digits", shown) == parse_route("digits", WHOLE)


def test_a_route_without_options_is_sticky_by_key() -> None:
    route = parse_route("digits", {"arms": [{"version": "v1.0", "weight": 100}]})
    assert (route.sticky, route.rules, route.shadow, route.fallback) == (Sticky("key"), (), (), None)


def test_versions_that_answer_come_first_and_each_once() -> None:
    arms = [{"version": "v1.0", "weight": 100}, {"version": "v2.0", "weight": 0}]
    route = parse_route("digits", {**WHOLE, "arms": arms, "fallback": "v4.0"})
    assert route.serving == ("v1.0", "v2.0")  # v2.0 by its rule
    assert route.versions == ("v1.0", "v2.0", "v4.0", "v3.0")
    assert route.primary == "v1.0"


WRONG: list[tuple[Any, str, str]] = [
    ([], "", "route digits: give an object"),
    ({}, "arms", "name at least one version"),
    ({"arms": []}, "arms", "name at least one version"),
    ({"arms": {"v1.0": 100}}, "arms", "give a list"),
    ({"arms": "v1.0"}, "arms", "give a list"),
    ({"arms": ["v1.0"]}, "arms.0", "give an object, not 'v1.0'"),
    ({"arms": [{"version": "v1.0", "weight": 90}]}, "arms", "the weights add up to 90; make them add up to 100, or to"),
    ({"arms": [{"version": "v1.0", "weight": 0}]}, "arms", "the weights add up to 0"),
    ({"arms": [{"version": "v1.0", "weight": -5}]}, "arms.0.weight", "a whole number from 0 to 10000, not -5"),
    ({"arms": [{"version": "v1.0", "weight": 10_001}]}, "arms.0.weight", "a whole number from 0 to 10000, not 10001"),
    ({"arms": [{"version": "v1.0", "weight": 100.0}]}, "arms.0.weight", "a whole number from 0 to 10000, not 100.0"),
    ({"arms": [{"version": "v1.0", "weight": True}]}, "arms.0.weight", "a whole number from 0 to 10000, not True"),
    ({"arms": [{"version": "v1.0", "weight": "100"}]}, "arms.0.weight", "a whole number from 0 to 10000, not '100'"),
    ({"arms": [{"version": "v1.0"}]}, "arms.0.weight", "this field is missing"),
    ({"arms": [{"weight": 100}]}, "arms.0.version", "this field is missing"),
    ({"arms": [{"version": 2, "weight": 100}]}, "arms.0.version", "2 is not a version"),
    ({"arms": [{"version": "../v1", "weight": 100}]}, "arms.0.version", "'../v1' is not a version"),
    ({"arms": [{"version": "@a b", "weight": 100}]}, "arms.0.version", "'a b' is not a name"),
    ({"arms": [{"version": "v1.0", "weigth": 100}]}, "arms.0.weigth", "no such field; there are version, weight"),
    ({"arms": [*TWO, {"version": "v2.0", "weight": 0}]}, "arms.2", "v2.0 is given twice"),
    ({"arms": [{"version": f"v{n}", "weight": 1} for n in range(100)]}, "arms", "100 are too many; give at most 32"),
    ({"arms": TWO, "arm": 1}, "arm", "no such field; there are arms, sticky, rules, shadow, fallback, why"),
    ({"arms": TWO, "sticky": "key"}, "sticky", "give an object"),
    ({"arms": TWO, "sticky": {"by": "ip"}}, "sticky.by", "'ip' is none of key, request_id, header, cookie, field"),
    ({"arms": TWO, "sticky": {}}, "sticky.by", "this field is missing"),
    ({"arms": TWO, "sticky": {"by": "header"}}, "sticky.name", "this field is missing"),
    ({"arms": TWO, "sticky": {"by": "field", "name": ""}}, "sticky.name", "name the field of the request"),
    ({"arms": TWO, "sticky": {"by": "key", "name": "X-User"}}, "sticky.name", "leave it out"),
    (
        {"arms": TWO, "sticky": {"by": "header", "name": "X User"}},
        "sticky.name",
        "'X User' is not the name of a header",
    ),
    ({"arms": TWO, "sticky": {"by": "header", "name": "Host"}}, "sticky.name", "belongs to a connection"),
    ({"arms": TWO, "rules": {}}, "rules", "give a list"),
    ({"arms": TWO, "rules": [{"version": "v1.0"}]}, "rules.0.when", "this field is missing"),
    (
        {"arms": TWO, "rules": [{"when": {"header": "X:", "equals": "1"}, "version": "v1.0"}]},
        "rules.0.when.header",
        "'X:' is not the name of a header",
    ),
    (
        {"arms": TWO, "rules": [{"when": {"header": "X", "equals": 1}, "version": "v1.0"}]},
        "rules.0.when.equals",
        "give text, not 1",
    ),
    (
        {"arms": TWO, "rules": [{"when": {"header": "X", "equals": "1", "not": "2"}, "version": "v1.0"}]},
        "rules.0.when.not",
        "no such field; there are header, equals",
    ),
    (
        {
            "arms": TWO,
            "rules": [{"when": {"header": name, "equals": "1"}, "version": "v1.0"} for name in ("X-Beta", "x-beta")],
        },
        "rules.1",
        "x-beta = 1 is given twice",
    ),
    ({"arms": TWO, "shadow": [{"version": "v3.0", "sample": 1.1}]}, "shadow.0.sample", "a number from 0 to 1, not 1.1"),
    ({"arms": TWO, "shadow": [{"version": "v3.0", "sample": -0.1}]}, "shadow.0.sample", "a number from 0 to 1"),
    ({"arms": TWO, "shadow": [{"version": "v3.0", "sample": float("nan")}]}, "shadow.0.sample", "a number from 0 to 1"),
    ({"arms": TWO, "shadow": [{"version": "v3.0", "sample": True}]}, "shadow.0.sample", "a number from 0 to 1"),
    ({"arms": TWO, "shadow": [{"version": "v3.0"}]}, "shadow.0.sample", "this field is missing"),
    ({"arms": TWO, "fallback": ["v1.0"]}, "fallback", "is not a version"),
    ({"arms": TWO, "why": 1}, "why", "give text, not 1"),
    ({"arms": TWO, "why": "two\nlines"}, "why", "give one line"),
    ({"arms": TWO, "why": "x" * 501}, "why", "give one line of at most 500"),
]


@pytest.mark.parametrize(("document", "field", "words"), WRONG, ids=[f"{n}-{row[1]}" for n, row in enumerate(WRONG)])
def test_every_mistake_is_one_sentence_that_names_the_route_and_the_field(
    document: Any, field: str, words: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_route("digits", document)
    sentence = str(refusal.value)
    assert sentence.startswith(f"route digits: {field}")
    assert words in sentence
    assert "\n" not in sentence
    assert [error.field for error in refusal.value.errors] == ([field] if field else [])


_VERSIONS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,20}", fullmatch=True)
_HEADERS = st.from_regex(r"X-[A-Za-z0-9-]{1,20}", fullmatch=True)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    versions = draw(st.lists(_VERSIONS, min_size=1, max_size=5, unique=True))
    total = draw(st.sampled_from((100, 10_000)))
    cuts = sorted(draw(st.lists(st.integers(0, total), min_size=len(versions) - 1, max_size=len(versions) - 1)))
    weights = [high - low for low, high in zip([0, *cuts], [*cuts, total], strict=True)]
    rules = draw(
        st.lists(st.tuples(_HEADERS, st.text("abc1", max_size=5)), max_size=3, unique_by=lambda r: r[0].lower())
    )
    return {
        "arms": [{"version": v, "weight": w} for v, w in zip(versions, weights, strict=True)],
        "sticky": draw(
            st.sampled_from(({"by": "key"}, {"by": "cookie", "name": "sid"}, {"by": "field", "name": "id"}))
        ),
        "rules": [{"when": {"header": h, "equals": value}, "version": versions[0]} for h, value in rules],
        "shadow": draw(st.sampled_from(([], [{"version": "s1", "sample": 0.25}]))),
        "fallback": draw(st.sampled_from((None, versions[-1]))),
        "why": draw(st.text("abc é", max_size=10)),
    }


@given(documents())
def test_every_route_survives_its_document_and_its_record(document: dict[str, Any]) -> None:
    route = parse_route("m", document)
    assert route.to_document() == document
    assert parse_route("m", json.loads(json.dumps(route.to_document()))) == route
    assert parse_record("m", json.loads(json.dumps(route.to_record()))) == route


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda e: st.lists(e)
        | st.dictionaries(
            st.sampled_from(
                ("arms", "version", "weight", "sticky", "by", "name", "rules", "when", "shadow", "sample", "why")
            ),
            e,
        ),
    )
)
def test_rubbish_is_refused_with_a_sentence(document: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^route m: "):
        parse_route("m", document)


def test_a_record_keeps_salt_digests_and_canary_and_ignores_fields_of_later_releases() -> None:
    route = parse_route("digits", WHOLE)
    record = {**route.to_record(), "salt": "aa", "digests": {"v1.0": "d"}, "later": 1}
    record["canary"] = {"version": "v2.0", "share": 0.05, "salt": "bb"}
    kept = parse_record("digits", record)
    assert (kept.salt, kept.digests, kept.canary) == ("aa", {"v1.0": "d"}, Canary("v2.0", 0.05, "bb"))


def test_a_switch_moves_every_request_and_keeps_the_other_arms() -> None:
    switched = parse_route("digits", WHOLE).switched("v2.0")
    assert switched.arms == (Arm("v2.0", 100), Arm("v1.0", 0))
    assert switched.serving == ("v2.0",)
    assert "v1.0" in switched.versions
