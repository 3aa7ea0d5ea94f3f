"""Addresses of models elsewhere, and the list of those that may be fetched."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from penstock.errors import ConfigError, InvalidInput, printable

SCHEMES = ("https", "http", "s3", "gs")
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$'()*+,;=:@-]+)*/?")
_SHA256 = re.compile(r"sha256=([0-9a-f]{64})")


def is_remote(text: str) -> bool:
    """True for an address such as s3://bucket/model."""
    return _REMOTE.match(text) is not None


@dataclass(frozen=True)
class Location:
    """Where a model is: the address without its fragment, and the sha256 that it has to have, if it was given."""

    url: str
    sha256: str | None = None

    @property
    def scheme(self) -> str:
        """https, http, s3 or gs."""
        return urlsplit(self.url).scheme

    @property
    def file_name(self) -> str:
        """The last part of its path."""
        return urlsplit(self.url).path.rstrip("/").rpartition("/")[2]

    def below(self, path: str) -> str:
        """The address of a file in it."""
        return f"{self.url.rstrip('/')}/{path}"


def location(text: str, allowed: Iterable[str]) -> Location:
    """The location that an address names. Raises InvalidInput for none, and for one that the list does not allow."""
    address, _, fragment = text.partition("#")
    try:
        parts = checked_parts(address)
    except ValueError as error:
        raise InvalidInput(f"{_shown(address)} {error}", field="path") from None
    require_allowed(parts, allowed)
    digest = _SHA256.fullmatch(fragment)
    if fragment and digest is None:
        raise InvalidInput(
            f"{_shown(address)}: the part after # should be sha256= and 64 hexadecimal digits", field="path"
        )
    return Location(address, digest[1] if digest else None)


def checked_parts(address: str) -> SplitResult:
    """The parts of an address that can be fetched; raises ValueError in words that follow the address."""
    if not re.fullmatch(r"[!-~]+", address):
        raise ValueError("should hold neither spaces nor characters that cannot be printed")
    parts = urlsplit(address)
    if parts.scheme not in SCHEMES:
        raise ValueError("should begin with https://, s3:// or gs://")
    if "@" in parts.netloc or "?" in address:
        raise ValueError("should hold neither a user nor a query; credentials belong into the environment")
    if not parts.hostname or parts.port == 0 or not re.fullmatch(r"[A-Za-z0-9.:\[\]_-]+", parts.netloc):
        raise ValueError("should name a host or a bucket")
    if not _PATH.fullmatch(parts.path) or any(part in (".", "..") for part in parts.path.split("/")):
        raise ValueError("should have a plain path, without .., encoded characters or empty parts")
    return parts


def require_allowed(parts: SplitResult, allowed: Iterable[str]) -> None:
    """Raise ConfigError unless an entry of the list is of the same scheme and host, and a directory above the path."""
    entries = tuple(allowed)
    for entry in map(urlsplit, entries):
        same = (entry.scheme, entry.netloc.lower()) == (parts.scheme, parts.netloc.lower())
        if same and f"{parts.path}/".startswith(f"{entry.path.rstrip('/')}/"):
            return
    listed = f"it allows {', '.join(entries)}" if entries else "it is empty"
    raise ConfigError(
        f"{_shown(f'{parts.scheme}://{parts.netloc}{parts.path}')} is not in the setting remote_registries ({listed}); "
        "add the address of the directory that it is in"
    )


def _shown(address: str) -> str:
    """Without what may be a secret."""
    return printable(re.sub(r"//[^/@]*@", "//***@", address.partition("?")[0]), 200)
