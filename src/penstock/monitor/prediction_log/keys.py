"""Routing keys as keyed digests: the same key has the same digest in one log, and cannot be read from it."""

from __future__ import annotations

import os
import secrets
from hashlib import blake2b
from pathlib import Path

from penstock.errors import ConfigError

SALT = "salt"
_BYTES = 32


def salt_of(directory: Path) -> bytes:
    """The secret of a log, made at the first use by one of its processes. Raises OSError."""
    file = directory / SALT
    found = _read(file)
    if found is None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        new = directory / f".salt.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as made:
                made.write(secrets.token_bytes(_BYTES))
                made.flush()
                os.fsync(made.fileno())
            os.link(new, file)
        except FileExistsError:  # of another process
            pass
        finally:
            new.unlink(missing_ok=True)
        found = _read(file)
    if found is None:
        raise FileNotFoundError(f"{file} was removed")
    return found


def require_salt(directory: Path) -> bytes:
    """The secret of a log. Raises ConfigError if it has none."""
    found = _read(directory / SALT)
    if found is None:
        raise ConfigError(f"{directory / SALT} is missing: without it no key can be found in this prediction log")
    return found


def digest_of(key: str, salt: bytes) -> str:
    """The digest of a key: 32 hexadecimal digits."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, key=salt).hexdigest()


def _read(file: Path) -> bytes | None:
    try:
        found = file.read_bytes()
    except FileNotFoundError:
        return None
    if len(found) != _BYTES:
        raise ConfigError(f"{file} is damaged: it should have {_BYTES} bytes and has {len(found)}; restore it")
    return found
