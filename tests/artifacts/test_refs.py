from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.artifacts.refs import Ref, is_release, parse_ref, sorted_versions, version_key
from penstock.errors import InvalidInput

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)
VERSIONS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", fullmatch=True)
NUMBERS = st.tuples(*[st.integers(0, 10**30)] * 3)
WORDS = st.lists(st.one_of(st.integers(0, 99).map(str), st.from_regex(r"[a-c]{1,2}", fullmatch=True)), max_size=3)


@given(st.text())
@example("m:")
@example("m@a:b")
@example("m:v1\n")
@example("../m")
@example("é:1")
def test_any_text_is_a_reference_or_invalid_input(text: str) -> None:
    fault: InvalidInput | None = None
    try:
        ref = parse_ref(text)
    except InvalidInput as error:
        fault = error
    if fault is None:
        assert str(ref) == text
    else:
        assert fault.errors[0].field == "ref"
        assert "\n" not in str(fault)


@pytest.mark.parametrize("value", [None, 3, b"m", ["m"], ""])
def test_a_reference_that_is_not_text_is_invalid_input(value: object) -> None:
    with pytest.raises(InvalidInput, match="not a reference"):
        parse_ref(value)  # type: ignore[arg-type]


@given(NAMES, VERSIONS, NAMES)
def test_the_parts_of_a_reference_are_parsed(name: str, version: str, alias: str) -> None:
    assert parse_ref(name) == Ref(name)
    assert parse_ref(f"{name}:{version}") == Ref(name, version=version)
    assert parse_ref(f"{name}@{alias}") == Ref(name, alias=alias)


@pytest.mark.parametrize(
    "text", ["a" * 101, "m:" + "1" * 101, "-m", ".m", "m n", "m/1", "m:1@a", "m@a@b", "m:@a", "@a", ":1"]
)
def test_a_reference_outside_the_alphabet_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_ref(text)


@given(st.lists(st.one_of(st.text(max_size=12), VERSIONS, st.from_regex(r"v?[0-9]{1,2}(\.[0-9]){0,2}(-[a1.]{1,3})?"))))
def test_versions_have_a_total_order(versions: list[str]) -> None:
    keys = [version_key(version) for version in versions]
    for a in keys:
        for b in keys:
            assert (a < b) + (a == b) + (a > b) == 1
    assert sorted_versions(versions) == sorted_versions(versions[::-1])
    assert [version_key(version) for version in sorted_versions(versions)] == sorted(keys)


@given(NUMBERS, NUMBERS)
def test_numbers_of_any_size_are_compared_as_numbers(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    key_a, key_b = (version_key(".".join(map(str, numbers))) for numbers in (a, b))
    assert (key_a < key_b, key_a == key_b) == (a < b, a == b)


@given(NUMBERS, WORDS, WORDS)
def test_pre_releases_follow_the_rules_of_semver(numbers: tuple[int, ...], a: list[str], b: list[str]) -> None:
    base = ".".join(map(str, numbers))
    key_a, key_b = (version_key(f"{base}-{'.'.join(words)}" if words else base) for words in (a, b))
    assert (key_a < key_b) == _semver_less(a, b)
    assert (key_a == key_b) == (a == b)


def _semver_less(a: list[str], b: list[str]) -> bool:
    """Rule 11 of semver.org, implemented literally."""
    if not a or not b:
        return bool(a) and not b
    for left, right in zip(a, b, strict=False):
        if left != right:
            if left.isdigit() and right.isdigit():
                return int(left) < int(right)
            return left.isdigit() or (not right.isdigit() and left < right)
    return len(a) < len(b)


def test_the_example_of_semver_is_in_order() -> None:
    order = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    order += ["1.0.0-rc.1", "1.0.0"]
    assert sorted_versions(order[::-1]) == order


@pytest.mark.parametrize("same", ["v1.0", "1", "V1.0.0", "1.0.0+build.5", "1.0.0.0", "01.0"])
def test_other_spellings_of_a_version_are_equal_in_precedence(same: str) -> None:
    assert version_key(same) == version_key("1.0.0")


def test_free_form_versions_are_below_all_others_in_natural_order() -> None:
    order = ["nightly", "run9", "run10", "run10b", "0.0.1-alpha", "0.0.1", "v2", "10.0"]
    assert sorted_versions(order[::-1]) == order


@pytest.mark.parametrize(
    ("version", "expected"), [("v1.0", True), ("1.0+x", True), ("1.0-rc1", False), ("main", False)]
)
def test_only_a_semver_without_a_pre_release_is_a_release(version: str, expected: bool) -> None:
    assert is_release(version) is expected
