"""Who changes something in a registry, and why: known to whatever writes to its database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

from penstock.errors import printable

LONGEST_WHO = 200
LONGEST_WHY = 500


class Actor(NamedTuple):
    """Who makes a change, and for what reason."""

    who: str
    why: str = ""


class Entry(NamedTuple):
    """A change in the audit log. `at` is in milliseconds since 1970; `before` and `after` are JSON values."""

    at: int
    who: str
    what: str
    why: str
    before: Any
    after: Any


_ACTOR: ContextVar[Actor | None] = ContextVar("penstock-actor", default=None)


@contextmanager
def acting(who: str | None = None, why: str = "") -> Iterator[Actor]:
    """The changes in this context are written to the audit log as made by `who`, by default as before."""
    before = actor()
    token = _ACTOR.set(_actor(who or before.who, why or before.why))
    try:
        yield actor()
    finally:
        _ACTOR.reset(token)


def actor() -> Actor:
    """Who makes the changes in this context: the user of this process, unless `acting` says another."""
    return _ACTOR.get() or Actor(user())


def _actor(who: str, why: str) -> Actor:
    return Actor(printable(who, LONGEST_WHO - 1), printable(why, LONGEST_WHY - 1))


@cache
def user() -> str:
    """The user of this process and its host, `name@host`."""
    import getpass

    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user without an entry, as in containers
        name = f"uid {os.getuid()}"
    return printable(f"{name}@{os.uname().nodename}", LONGEST_WHO - 1)
