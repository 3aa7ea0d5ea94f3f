"""The options of `penstock routes` that make a route, as the document of a route."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from penstock.errors import InvalidInput, quoted

MOST_BYTES = 1 << 20
_NAMED = {"header": "X-User", "cookie": "sid", "field": "machine_id"}
"""What clients are told apart by that has a name, with an example of one."""


def document_of(
    arms: Iterable[str], sticky: str, rules: Iterable[str], shadows: Iterable[str], fallback: str
) -> dict[str, Any]:
    """The document of a route with these options; those that are not given are left out. Raises InvalidInput."""
    document: dict[str, Any] = {"arms": [_arm(arm) for arm in arms]}
    if sticky:
        by, colon, name = sticky.partition(":")
        if by in _NAMED and not name:
            raise InvalidInput(f"--sticky {sticky}: write {by}:NAME, such as {by}:{_NAMED[by]}", field="sticky")
        document["sticky"] = {"by": by, "name": name} if colon else {"by": by}
    if rules := list(rules):
        document["rules"] = [_rule(rule) for rule in rules]
    if shadows := list(shadows):
        document["shadow"] = [_shadow(shadow) for shadow in shadows]
    if fallback:
        document["fallback"] = fallback
    return document


def arms_of(given: Iterable[str]) -> list[dict[str, Any]]:
    """The arms of `VERSION=WEIGHT` each. Raises InvalidInput."""
    return [_arm(arm) for arm in given]


def read_document(file: Path) -> Any:
    """The JSON of a file, `-` for standard input. Raises InvalidInput."""
    try:
        text = sys.stdin.read(MOST_BYTES) if str(file) == "-" else file.read_text(encoding="utf-8")
        return json.loads(text)
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidInput(f"{file}: it is not JSON ({error})", field="file") from None


def _arm(given: str) -> dict[str, Any]:
    version, weight = _pair(given, "--arm", "VERSION=WEIGHT, such as v1.0=90")
    if not re.fullmatch(r"-?[0-9]{1,9}", weight):
        raise InvalidInput(f"--arm {given}: the weight {quoted(weight)} is not a whole number", field="arms")
    return {"version": version, "weight": int(weight)}


def _shadow(given: str) -> dict[str, Any]:
    version, sample = _pair(given, "--shadow", "VERSION=SHARE, such as v3.0=0.1")
    try:
        return {"version": version, "sample": float(sample)}
    except ValueError:
        raise InvalidInput(
            f"--shadow {given}: the share {quoted(sample)} is not a number from 0 to 1", field="shadow"
        ) from None


def _rule(given: str) -> Mapping[str, Any]:
    condition, arrow, version = given.rpartition("->")
    header, equals, value = condition.partition("=")
    if not (arrow and equals and header.strip() and version.strip()):
        raise InvalidInput(f"--rule {given}: write 'HEADER=VALUE->VERSION', such as 'X-Beta=1->v2.0'", field="rules")
    return {"when": {"header": header.strip(), "equals": value.strip()}, "version": version.strip()}


def _pair(given: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = given.rpartition("=")
    if not (equals and name and value):
        raise InvalidInput(f"{option} {given}: write {form}", field=option.lstrip("-"))
    return name.strip(), value.strip()
