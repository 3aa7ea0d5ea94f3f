"""The keys in force in a process."""

from __future__ import annotations

import hmac
import time
from dataclasses import replace

import pytest

from penstock.gateway.callers import key_table
from penstock.gateway.callers.key_table import RECHECK_S, KeyTable
from penstock.gateway.limits.quotas import Quotas
from penstock.gateway.limits.slots import OwnSlots
from penstock.registry.access.key import Key, Secret, new_id, new_text, now
from penstock.registry.access.pepper import Pepper

PEPPER = Pepper("a-pepper-of-many-letters")


def made(**more: object) -> tuple[Key, str]:
    """A key and its secret."""
    key = new_id()
    text = new_text(key)
    secret = Secret(PEPPER.digest(text).hex(), PEPPER.mark)
    plain = Key(key, "somebody", ("infer",), (), None, None, 1.0, now(), "ann", None, None, (secret,))
    return replace(plain, **more), text  # type: ignore[arg-type]


def table_of(*keys: Key) -> KeyTable:
    table = KeyTable(OwnSlots, Quotas(lambda _, wanted: dict.fromkeys(wanted, 0)))
    table.replace(keys, [PEPPER])
    return table


def test_a_key_keeps_its_caller_while_it_stays_as_it_is() -> None:
    """What hangs on a caller, its limit or its flow, outlives changes of other keys."""
    (first, text), (second, _) = made(rate="5/s"), made()
    table = table_of(first)
    before = table.find(text)
    assert before is not None
    table.replace([first, second], [PEPPER])
    renamed = replace(first, name="another name")
    table.replace([renamed, second], [PEPPER])
    after = table.find(text)
    assert after is not None
    assert after.caller is before.caller
    table.replace([replace(first, weight=2.0)], [PEPPER])
    changed = table.find(text)
    assert changed is not None
    assert changed.caller is not before.caller
    assert changed.caller.weight == 2.0


def test_digests_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    key, text = made()
    table, compared = table_of(key), []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return hmac.compare_digest(first, second)

    monkeypatch.setattr(key_table, "hmac", type("hmac", (), {"compare_digest": staticmethod(compare)}))
    assert table.find(text) is not None
    assert compared == [(PEPPER.digest(text), PEPPER.digest(text))]


def test_nearly_the_secret_is_not_the_secret() -> None:
    key, text = made()
    table = table_of(key)
    last = "1" if text.endswith("0") else "0"
    for changed in (text[:-1] + last, text[:20], f"{text} ", "", text.upper(), f"pk_{new_id()}{text[11:]}"):
        assert table.find(changed) is None


def test_the_clock_is_looked_at_again_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.time()
    key, text = made(expires_at=now() + 3_600_000)
    table = table_of(key)
    found = table.find(text)
    assert found is not None
    assert found.valid_s == RECHECK_S
    monkeypatch.setattr(time, "time", lambda: began + 3590)
    found = table.find(text)
    assert found is not None
    assert 9 < found.valid_s <= 11
    assert len(table) == 1
    monkeypatch.setattr(time, "time", lambda: began + 3602)
    assert table.find(text) is None
    assert len(table) == 0
    assert table.any
