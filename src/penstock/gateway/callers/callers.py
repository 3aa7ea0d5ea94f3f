"""Who sends a request: by API key, token, admin key, or over a socket of the operator."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from penstock.errors import ConfigError, PenstockError
from penstock.gateway.callers.caller import ADMINISTRATOR, Admitted, WrongCredentials
from penstock.gateway.callers.key_table import KeyTable
from penstock.gateway.callers.tokens import Issuer
from penstock.gateway.limits.addresses import UNIX, AddressLimits, Proxies, is_loopback
from penstock.gateway.limits.gcra import Gcra
from penstock.gateway.limits.hosts import Hosts
from penstock.gateway.limits.quotas import Quotas
from penstock.gateway.limits.slots import OwnSlots, SharedSlots, Slots
from penstock.option_types import parse_rate
from penstock.registry.admin_key import AdminKey
from penstock.registry.registry import Registry
from penstock.settings import Settings

log = logging.getLogger(__name__)

FOLLOW_EVERY_S = 0.25
"""A change of a key takes effect within a second in every process; reading the revision costs about 0.1 ms."""
SAVE_AT_END_S = 2.0
ADMIN_KEY_HEADER = "X-Penstock-Admin-Key"
API_KEY_HEADER = "X-API-Key"

_HEADERS = (ADMIN_KEY_HEADER.lower(), API_KEY_HEADER.lower())

Values = Callable[[str], Sequence[str]]
"""The values of a header by its lower-case name."""


class Callers:
    """Who may use a server, as this process knows it. For its event loop."""

    def __init__(self, settings: Settings, registry: Registry, admin_key: AdminKey) -> None:
        """Nothing is read yet. Raises ConfigError for settings of tokens that are incomplete."""
        self._settings = settings
        self._book = registry.keys.with_pepper(settings.key_pepper, settings.previous_key_pepper)
        self._admin_key = admin_key
        self._directory: Path | None = None
        self._found_slots: Slots | None = None
        self.revision = -1
        """That of the keys that are followed."""
        self._error = ""
        self._hosts = None if settings.rate_limit_store is None else Hosts(settings.rate_limit_store)
        self.quotas = Quotas(self._book.count)
        self.keys = KeyTable(self._slots, self.quotas)
        self.issuer = Issuer.of(settings)
        self.proxied_socket = UNIX in settings.trusted_proxies
        """True if those who connect to a Unix socket are proxies, whatever user they run as."""
        self.addresses: AddressLimits | None = None
        """The limits of addresses, if there are any; set by `start`."""
        self.known = False
        """True once the keys were read."""
        self.active = False
        """False if nothing is asked or counted on routes that are not for administrators."""
        self.on_change: list[Callable[[], None]] = []
        """Called when somebody who was admitted may be no more."""

    # What is asked for

    @property
    def configured(self) -> bool:
        """True if there are API keys or tokens, revoked ones included."""
        return self.keys.any or self.issuer is not None

    @property
    def required(self) -> bool:
        """True if predictions, models and figures need a caller that is known."""
        return self.configured if self._settings.require_auth is None else self._settings.require_auth

    # Following

    async def start(self, directory: Path | None) -> None:
        """Read the keys; `directory` is that of the processes of a server, None for one process.

        Raises ConfigError where the database cannot be read, and for `require_auth` beyond this machine without keys.
        """
        self._directory = directory
        if self._settings.rate_limit is not None:
            rate = parse_rate(self._settings.rate_limit)
            limit = Gcra.of(rate.requests, rate.seconds, rate.requests)
            self.addresses = AddressLimits(self._slots(), limit, Proxies(self._settings.trusted_proxies))
        await self._read()
        if self.issuer is not None:
            await asyncio.to_thread(self.issuer.keys.refresh)
        self._changed()
        self._check_reach()

    async def run(self) -> None:
        """Follow the keys for ever, and what other hosts have admitted."""
        async with asyncio.TaskGroup() as tasks:
            if self._hosts is not None:
                tasks.create_task(self._hosts.run(self._slots()))
            while True:
                await asyncio.sleep(FOLLOW_EVERY_S)
                await self.follow()

    async def follow(self) -> None:
        """Follow the keys now; errors are logged, and the keys known last stay in force."""
        try:
            if self.revision != await asyncio.to_thread(self._book.revision):
                await self._read()
                self._changed()
        except PenstockError as error:
            self._log(f"the API keys cannot be read, and those known last stay in force: {error}")
        except Exception:
            log.exception("the API keys cannot be followed")
        else:
            self._log("")
        if self.quotas.due():
            await self.quotas.save()
        await self._follow_issuer()

    async def tell_hosts(self) -> None:
        """Tell the other hosts now what was admitted here, and hear what they have admitted."""
        if self._hosts is not None:
            await self._hosts.tell(self._slots())

    async def close(self) -> None:
        """Save what was counted for quotas, if the database answers soon."""
        if self.quotas.of:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.quotas.save(), SAVE_AT_END_S)

    async def _follow_issuer(self) -> None:
        if self.issuer is None or not self.issuer.keys.due():
            return
        changes = self.issuer.keys.changes
        await asyncio.to_thread(self.issuer.keys.refresh)
        if changes != self.issuer.keys.changes:
            self._changed()

    async def _read(self) -> None:
        stored = await asyncio.to_thread(self._book.all)
        peppers = await asyncio.to_thread(self._book.peppers.known) if stored.keys else []
        self.keys.replace(stored.keys, peppers)
        self.keys.any = self.keys.any or self._book.peppers.made
        if self.quotas.of:
            await self.quotas.save()
        self.revision = stored.revision
        self.known = True

    def _changed(self) -> None:
        self.active = self.required or self.configured or self.addresses is not None
        for hook in self.on_change:
            hook()

    def _log(self, error: str) -> None:
        """Log state changes only."""
        if error != self._error:
            log.warning("%s", error or "the API keys are followed again")
        self._error = error

    def _slots(self) -> Slots:
        if self._found_slots is None:
            self._found_slots = OwnSlots()
            if self._directory is not None:
                with suppress(OSError):  # then each process counts alone
                    self._found_slots = SharedSlots(self._directory)
        return self._found_slots

    def _check_reach(self) -> None:
        """Raises ConfigError, or warns once, where other machines reach a server that asks for no key."""
        settings = self._settings
        admitting = len(self.keys) or self.issuer is not None or settings.admin_key is not None
        if settings.uds is not None or is_loopback(settings.host):
            return
        if settings.require_auth and not admitting:
            raise ConfigError(
                f"require_auth is set, {settings.host} is reached by other machines, and there is no key: make one "
                "with `penstock keys create NAME`, or set jwt_jwks"
            )
        if not self.required and self._is_first():
            log.warning(
                "whoever reaches %s may use the models of this server: it asks for no key until there is one "
                "(penstock keys create NAME) or require_auth is set",
                settings.host,
            )

    def _is_first(self) -> bool:
        """True in the first process of a server."""
        if self._directory is None:
            return True
        try:
            (self._directory / "open-to-all").touch(mode=0o600, exist_ok=False)
        except OSError:
            return False
        return True

    # Who it is

    def identify(self, values: Values) -> Admitted | None:
        """The caller of a request by its headers; None if they hold no key.

        Raises WrongCredentials if none of what they hold is valid.
        """
        any_given = False
        for text in _given(values):
            any_given = True
            found = self._find(text)
            if found is not None:
                return found
        if any_given:
            raise WrongCredentials
        return None

    def _find(self, text: str) -> Admitted | None:
        if text.startswith("pk_"):
            found = self.keys.find(text)
            if found is not None:
                return found
        elif self.issuer is not None and text.count(".") == 2:
            found = self.issuer.find(text)
            if found is not None:
                return found
        key = self._admin_key.current()
        same = hmac.compare_digest(_digest(text), _digest(key or ""))
        return _ADMINISTRATOR if same and key is not None else None


_ADMINISTRATOR = Admitted(ADMINISTRATOR, 0.0)
"""Looked up each time, since the file of the key may change at any time."""


def _given(values: Values) -> Iterator[str]:
    for name in _HEADERS:
        yield from values(name)
    for value in values("authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            yield token.strip()


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogateescape")).digest()
