"""The pepper: the secret outside the database without which the digests of API keys say nothing."""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

from penstock.errors import ConfigError
from penstock.registry.admin_key import create_secret, key_file, read_key

FILE = "keys.pepper"
_SET_IT = "set PENSTOCK_KEY_PEPPER"
_WHAT = "pepper of the API keys"


class Pepper:
    """One secret. `mark` tells peppers apart and is stored beside each digest."""

    __slots__ = ("_key", "mark")

    def __init__(self, text: str) -> None:
        self._key = blake2b(text.encode(), person=b"penstock-pepper").digest()
        self.mark = blake2b(self._key, digest_size=8, person=b"penstock-mark").hexdigest()

    def digest(self, text: str) -> bytes:
        """The keyed digest of what a client sent."""
        return blake2b(text.encode("utf-8", "surrogateescape"), key=self._key, digest_size=32).digest()


class Peppers:
    """The peppers in force: of the settings, else one that is generated and kept beside the registry's database."""

    def __init__(self, file: Path, configured: str | None = None, previous: str | None = None) -> None:
        """Nothing is read yet. `previous` is that of keys which were made before the setting was changed."""
        self.file = file
        self._configured = None if configured is None else Pepper(configured)
        self._previous = None if previous is None else Pepper(previous)

    @classmethod
    def beside(cls, registry: Path, database_url: str | None, *configured: str | None) -> Peppers:
        """Those of a registry."""
        return cls(key_file(registry, database_url).with_name(FILE), *configured)

    def known(self) -> list[Pepper]:
        """That of new keys first; none if none was made yet. Raises ConfigError for a file that cannot be used."""
        current = self._configured
        if current is None and os.path.lexists(self.file):
            current = Pepper(read_key(self.file, _WHAT, _SET_IT))
        return [pepper for pepper in (current, self._previous) if pepper is not None]

    @property
    def made(self) -> bool:
        """True if one was generated: then there are keys, or were, also where the database has lost them."""
        return os.path.lexists(self.file)

    def for_new(self) -> Pepper:
        """That of new keys, made if need be. Raises ConfigError."""
        if self._configured is not None:
            return self._configured
        if not os.path.lexists(self.file):
            try:
                create_secret(self.file)
            except OSError as error:
                raise ConfigError(f"the {_WHAT} cannot be kept in {self.file}: {error.strerror}; {_SET_IT}") from None
        return Pepper(read_key(self.file, _WHAT, _SET_IT))
