"""SIGHUP: the settings are read again, and what can change while the server runs is put in force, all or nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from penstock.errors import ConfigError
from penstock.monitor.logs import set_log_level
from penstock.settings import Settings

log = logging.getLogger(__name__)

Change: TypeAlias = Callable[[], None]
"""Puts in force what was read; cannot fail."""
Part: TypeAlias = Callable[[Settings], Change]
"""Reads what new settings name (files, addresses). Raises ConfigError if it cannot be used."""

_LIVE = frozenset({"log_level"})
_CERTIFICATES = frozenset({"tls_cert", "tls_key", "tls_client_ca"})


class Reload:
    """The parts of a server process that take new settings."""

    def __init__(self, read: Callable[[], Settings], settings: Settings) -> None:
        """`read` makes the settings again from the sources of `settings`; it may raise ConfigError."""
        self._read = read
        self._settings = settings
        self._parts: list[Part] = [_log_level]

    def add(self, part: Part) -> None:
        """Ask this part too from now on."""
        self._parts.append(part)

    def __call__(self) -> bool:
        """Read everything, then put it in force; False if something cannot be used, and all stays as it was."""
        try:
            settings = self._read()
            changes = [part(settings) for part in self._parts]
        except ConfigError as error:
            log.error("nothing was read again; all stays as it was: %s", error)
            return False
        for change in changes:
            change()
        log.info("the settings and the files that they name were read again")
        live = _LIVE if self._settings.tls_cert is None else _LIVE | _CERTIFICATES
        changed = [name for name in Settings.model_fields if getattr(settings, name) != getattr(self._settings, name)]
        if later := [name for name in changed if name not in live]:
            log.warning("%s changed, which takes effect at the next start", ", ".join(later))
        return True


def _log_level(settings: Settings) -> Change:
    return lambda: set_log_level(settings.log_level)
