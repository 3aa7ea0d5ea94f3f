"""The API keys in force in this process, by the digests of their secrets."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from penstock.gateway.callers.caller import Admitted, Caller
from penstock.gateway.limits.gcra import Gcra
from penstock.gateway.limits.quotas import Quotas
from penstock.gateway.limits.slots import Limit, Slots
from penstock.registry.access.key import Key
from penstock.registry.access.pepper import Pepper

log = logging.getLogger(__name__)

FOREVER_S = float("inf")
RECHECK_S = 60.0
"""How long a key with an end may be remembered without a look at the clock, which may be set meanwhile."""


class _Entry(NamedTuple):
    digest: bytes
    admitted: Admitted
    ends_at: int | None


class KeyTable:
    """The keys that admit somebody now."""

    def __init__(self, slots: Callable[[], Slots], quotas: Quotas) -> None:
        """`slots` gives the place of the states of limits, once it is needed."""
        self.any = False
        """True if there was ever a key: revoking the last one opens nothing."""
        self._slots = slots
        self._quotas = quotas
        self._entries: dict[bytes, _Entry] = {}
        self._callers: dict[str, tuple[tuple[object, ...], Caller]] = {}
        self._peppers: tuple[Pepper, ...] = ()

    def __len__(self) -> int:
        """The number of keys that are valid now."""
        now_ms = time.time() * 1000
        entries = self._entries.values()
        return len({entry.admitted.caller for entry in entries if entry.ends_at is None or entry.ends_at > now_ms})

    def replace(self, keys: Iterable[Key], peppers: Sequence[Pepper]) -> None:
        """Take these keys, in place of those before. A key that has not changed keeps its Caller."""
        keys = list(keys)
        self.any = self.any or bool(keys)
        marks = {pepper.mark for pepper in peppers}
        entries, strange = [], 0
        callers: dict[str, tuple[tuple[object, ...], Caller]] = {}
        for key in keys:
            if key.revoked_at is not None:
                continue
            known = self._callers.get(key.id)
            what = (key.scopes, key.models, key.rate, key.burst, key.weight, key.quota)
            caller = known[1] if known is not None and known[0] == what else self._caller(key)
            callers[key.id] = (what, caller)
            for secret in key.secrets:
                strange += secret.pepper not in marks
                ends = min((at for at in (key.expires_at, secret.until) if at is not None), default=None)
                entries.append(_Entry(bytes.fromhex(secret.digest), Admitted(caller, FOREVER_S), ends))
        for gone in self._callers.keys() - callers.keys():
            self._quotas.of_key(gone, None)
        self._entries = {entry.digest: entry for entry in entries}
        self._callers = callers
        self._peppers = tuple(peppers)
        if strange:
            log.warning(
                "%d API keys were made with another pepper and admit nobody here; set key_pepper to that of the host "
                "where they were made",
                strange,
            )

    def find(self, text: str) -> Admitted | None:
        """Whose secret it is; None for one that is unknown, was revoked or has expired."""
        for pepper in self._peppers:
            digest = pepper.digest(text)
            entry = self._entries.get(digest)  # nobody can choose a digest, so the time this takes tells nothing
            if entry is not None and hmac.compare_digest(entry.digest, digest):
                return entry.admitted if entry.ends_at is None else _until(entry.admitted.caller, entry.ends_at)
        return None

    def _caller(self, key: Key) -> Caller:
        limit, at_once = key.limit, key.most_at_once
        made = None
        if limit is not None and at_once is not None:
            made = Limit(self._slots(), f"key {key.id}", Gcra.of(limit.requests, limit.seconds, at_once))
        caller = Caller(key.id, f"the key {key.id}", key.scopes, models=key.models, weight=key.weight, limit=made)
        caller.quota = self._quotas.of_key(key.id, key.allowance)
        return caller


def _until(caller: Caller, ends_at: int) -> Admitted | None:
    left_s = ends_at / 1000 - time.time()
    return Admitted(caller, min(left_s, RECHECK_S)) if left_s > 0 else None
