"""The API keys of a registry: created, rotated, revoked. `Registry.keys` is one."""

from __future__ import annotations

import builtins
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.errors import InvalidInput, quoted
from penstock.registry.access import key as keys
from penstock.registry.access.key import Key, NoSuchKey, Secret, new_id, new_text, now
from penstock.registry.access.pepper import Pepper, Peppers
from penstock.registry.access.quota import Period
from penstock.registry.audit import actor
from penstock.registry.database.reads import Reads

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = logging.getLogger(__name__)


class NewKey(NamedTuple):
    """A key with its secret, which is shown once and stored nowhere."""

    id: str
    key: str
    stored: Key


class Stored(NamedTuple):
    """Every key, as of one revision."""

    revision: int
    keys: list[Key]


class KeyBook:
    """The API keys of one registry. Every change is one transaction with its row in the audit log."""

    def __init__(self, reads: Reads, writing: Callable[[], AbstractContextManager[None]], peppers: Peppers) -> None:
        """`writing` excludes the other writers of the registry."""
        self._reads = reads
        self._writing = writing
        self.peppers = peppers

    def with_pepper(self, pepper: str | None, previous: str | None = None) -> KeyBook:
        """The same keys with the pepper of the settings `key_pepper` and `previous_key_pepper`."""
        return KeyBook(self._reads, self._writing, Peppers(self.peppers.file, pepper, previous))

    # Reading

    def list(self) -> builtins.list[Key]:
        """Every key, revoked and expired ones too, in the order of their creation."""
        return sorted(self.all().keys, key=lambda key: (key.created_at, key.id))

    def get(self, key: str) -> Key:
        """The key with an id. Raises NoSuchKey."""
        return _found(key, self.all().keys)

    def all(self) -> Stored:
        """Every key, as of one revision. Raises ConfigError where the database cannot be read."""
        return _stored(self._reads.key_rows())

    def revision(self) -> int:
        """A counter that every change of a key increases; cheap enough to read several times a second."""
        return self._reads.keys_revision()

    def used(self, listed: Iterable[Key]) -> dict[str, int]:
        """The requests of each key with a quota in the day or month that is now, by its id.

        A server adds those that it has answered once a second.
        """
        from penstock.registry.access import usage

        quotas = [(key.id, quota.period(time.time())) for key in listed if (quota := key.allowance) is not None]
        found = self._reads.store.read(lambda connection: usage.used(connection, quotas), dict.fromkeys(quotas, 0))
        return {key: count for (key, _), count in found.items()}

    def count(self, counts: Mapping[tuple[str, Period], int], wanted: Iterable[tuple[str, Period]]) -> dict[Any, int]:
        """Add requests of keys to those of their days or months, and tell those of the wanted ones.

        Raises ConfigError where the database cannot be written or read.
        """
        from penstock.registry.access import usage

        asked = list(wanted)

        def work(connection: Connection) -> dict[tuple[str, Period], int]:
            usage.add(connection, counts)
            return usage.used(connection, asked)

        if counts:
            return self._reads.store.write(work)
        return self._reads.store.read(lambda connection: usage.used(connection, asked), dict.fromkeys(asked, 0))

    # Changing

    def create(
        self,
        name: str,
        scopes: Iterable[str] = ("infer",),
        *,
        models: Iterable[str] = (),
        expires: str | float | None = None,
        rate: str | None = None,
        burst: int | None = None,
        quota: str | None = None,
        weight: float = 1.0,
    ) -> NewKey:
        """Make a key; its secret is in the result and nowhere else. Every server follows within a second.

        `scopes` are of infer, read and admin. `models` are patterns of names or of name:version, none for every model.
        `expires` is the time for which it is valid, in seconds or as `30d`. `rate` limits its requests, such as
        `600/m`, of which `burst` may come at once (by default as many as the rate counts). `quota` is how many it may
        send in a day or a month of the calendar, in UTC: `5000/day`, `100000/month`. `weight` is its share where
        requests wait. Raises InvalidInput naming the field, and ConfigError.
        """
        checked = keys.checked_scopes(scopes)
        made = Key(
            id=new_id(),
            name=keys.checked_name(name),
            scopes=checked,
            models=keys.checked_models(models, checked),
            rate=keys.checked_rate(rate, burst),
            burst=burst,
            weight=keys.checked_weight(weight),
            created_at=now(),
            created_by=actor().who,
            expires_at=keys.ends_at(expires, "expires"),
            revoked_at=None,
            secrets=(),
            quota=keys.checked_quota(quota),
        )
        text, secret = _new_secret(made.id, self.peppers.for_new())
        stored = replace(made, secrets=(secret,))
        self._change(made.id, "create", lambda _: stored)
        return NewKey(made.id, text, stored)

    def rotate(self, key: str, *, grace: str | float = 0.0, expires: str | float | None = None) -> NewKey:
        """Give a key another secret; its id, scopes and limits stay. The old secret is valid for `grace` longer.

        `expires` is a new time for which the key is valid; without it, the end stays as it is. Raises NoSuchKey, and
        InvalidInput for a key that is revoked or has expired.
        """
        until, ends = keys.ends_at(grace, "grace", least=0.0) or 0, keys.ends_at(expires, "expires")
        text, secret = _new_secret(key, self.peppers.for_new())

        def change(before: Key | None) -> Key:
            found = _required(key, before)
            after = found.with_secret(secret, until)
            after = after if ends is None else replace(after, expires_at=ends)
            if after.state() != "active":
                raise InvalidInput(f"id: the key {key} is {after.state()}; create another one", field="id")
            return after

        return NewKey(key, text, self._change(key, "rotate", change))

    def revoke(self, key: str) -> Key:
        """End a key for good; every server follows within a second. Again, it changes nothing. Raises NoSuchKey."""

        def change(before: Key | None) -> Key:
            found = _required(key, before)
            return found if found.revoked_at is not None else replace(found, revoked_at=now(), secrets=())

        return self._change(key, "revoke", change)

    def _change(self, key: str, what: str, change: Callable[[Key | None], Key]) -> Key:
        from penstock.registry.database import followed, routes  # SQLAlchemy takes a quarter of a second to import

        def work(connection: Connection) -> Key:
            before = next((each for each in _stored(followed.key_rows(connection)).keys if each.id == key), None)
            after = change(before)
            if after != before:
                followed.put_key(connection, key, after.to_record())
                old = None if before is None else before.to_document()
                routes.log(connection, f"{what} key {key}", old, after.to_document())
            return after

        with self._writing():
            return self._reads.store.write(work)


def _new_secret(key: str, pepper: Pepper) -> tuple[str, Secret]:
    text = new_text(key)
    return text, Secret(pepper.digest(text).hex(), pepper.mark)


def _stored(rows: Iterable[tuple[Any, ...]]) -> Stored:
    """The keys of the database; one that cannot be read is no key."""
    revision, found = 0, []
    for key, record, number in rows:
        if not key:
            revision = int(number)
            continue
        try:
            found.append(Key.from_record(json.loads(record)))
        except (ValueError, TypeError, KeyError):
            log.error("the API key %s cannot be read from the database and admits nobody", quoted(key))
    return Stored(revision, found)


def _found(key: str, stored: Iterable[Key]) -> Key:
    return _required(key, next((each for each in stored if each.id == key), None))


def _required(key: str, found: Key | None) -> Key:
    if found is None:
        raise NoSuchKey(f"id: there is no API key {quoted(key)}; `penstock keys list` shows them all", field="id")
    return found
