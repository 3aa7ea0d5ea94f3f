"""`penstock keys`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Penstock = Callable[..., Any]


def test_a_key_is_created_listed_rotated_and_revoked(penstock: Penstock) -> None:
    done = penstock(
        "keys", "create", "shop", "--scopes", "infer,read", "--models", "fraud-*", "--rate", "600/m", "--json"
    )
    made = done.json()
    assert made["key"].startswith(f"pk_{made['id']}_")
    assert (made["scopes"], made["models"], made["rate"], made["state"]) == (
        ["infer", "read"],
        ["fraud-*"],
        "600/m",
        "active",
    )
    table = penstock("keys", "list").out
    assert all(text in table for text in (made["id"], "shop", "infer, read", "fraud-*", "600/m", "active"))
    assert made["key"] not in table
    rotated = penstock("keys", "rotate", made["id"], "--grace", "1h", "--json").json()
    assert rotated["id"] == made["id"]
    assert rotated["key"] != made["key"]
    done = penstock("keys", "revoke", made["id"], "--why", "left")
    assert (done.code, done.out) == (0, f"revoked the key {made['id']} (shop)\n")
    shown = penstock("keys", "list", "--json")
    assert shown.json()[0]["state"] == "revoked"
    history = penstock("routes", "history", "--json").out
    for text in (made["key"], rotated["key"]):
        assert text not in shown.out + history
    assert "left" in history


def test_people_get_the_key_alone_on_standard_output(penstock: Penstock) -> None:
    done = penstock("keys", "create", "shop")
    assert len(done.out.strip()) == 64
    assert done.out.strip() not in done.err
    assert "this once" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "a", "--scopes", "root"), "scopes: 'root' is no scope"),
        (("create", "a", "--rate", "fast"), "rate: 'fast'"),
        (("create", "a", "--expires", "soon"), "expires: 'soon'"),
        (("revoke", "zzzzzzzz"), "penstock keys list"),
    ],
)
def test_what_is_wrong_is_one_sentence(penstock: Penstock, arguments: tuple[str, ...], words: str) -> None:
    done = penstock("keys", *arguments)
    assert done.code == 1
    assert words in done.err
    assert done.err.count("\n") == 1


def test_no_pepper_is_shown(penstock: Penstock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_KEY_PEPPER", "a-pepper-of-many-letters")
    monkeypatch.setenv("PENSTOCK_PREVIOUS_KEY_PEPPER", "another-pepper-of-letters")
    for arguments in (("config", "show"), ("config", "show", "--json"), ("keys", "create", "a"), ("keys", "list")):
        done = penstock(*arguments)
        assert done.code == 0
        assert "pepper-of" not in done.out + done.err
