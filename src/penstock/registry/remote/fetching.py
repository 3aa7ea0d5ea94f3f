"""Fetches an artifact or a model file from elsewhere, within limits, and checks its digests."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.artifacts.artifact import MANIFEST, SIGNATURE, Artifact
from penstock.artifacts.signatures.bundle import LARGEST as LARGEST_SIGNATURE
from penstock.errors import (
    ConfigError,
    DeadlineExceeded,
    IntegrityError,
    ModelNotFound,
    PenstockError,
    first_line,
)
from penstock.formats import FORMATS
from penstock.registry.remote.addresses import Guard
from penstock.registry.remote.locations import Location, location
from penstock.registry.remote.streams import Files, file_system

_CHUNK = 1 << 20
_BLOCK = 8 << 20
_LARGEST_MANIFEST = 16 << 20


@dataclass(frozen=True)
class RemotePolicy:
    """From where models may come, and how much: directories (addresses), and limits for each model."""

    allowed: tuple[str, ...] = ()
    private: bool = False
    max_bytes: int = 10 << 30
    timeout_s: float = 600.0


@contextmanager
def fetched(address: str, policy: RemotePolicy) -> Iterator[Path]:
    """The artifact directory or the model file at an address, in a scratch directory that is removed at the end.

    An address whose end is that of a model file is one, any other the directory of an artifact, of which the manifest
    and what it lists are fetched, and the signature if there is one. `#sha256=…` after it is the digest to hold it to.
    Raises ConfigError for what the policy does not allow or what cannot be reached, ModelNotFound, IntegrityError for
    content that does not match its digest, DeadlineExceeded, InvalidInput for an address that is none.
    """
    place = location(address, policy.allowed)
    with tempfile.TemporaryDirectory(prefix="penstock-fetch-") as scratch:
        guard = Guard(private=policy.private)
        with file_system(place, policy.allowed, guard, policy.timeout_s) as source:
            fetch = _Fetch(place, source, guard, policy)
            path = Path(scratch) / (place.file_name or "artifact")
            if _is_file(place):
                fetch.file(place.url, path, place.sha256)
            else:
                fetch.artifact(path)
        yield path


def _is_file(place: Location) -> bool:
    return any(place.file_name.lower().endswith(row.suffixes) for row in FORMATS.values())


class _Fetch:
    """One fetch, with what is left of its limits."""

    def __init__(self, place: Location, source: Files, guard: Guard, policy: RemotePolicy) -> None:
        self._place = place
        self._source = source
        self._guard = guard
        self._policy = policy
        self._left = policy.max_bytes
        self._deadline = time.monotonic() + policy.timeout_s

    def artifact(self, path: Path) -> None:
        """The manifest, what it lists, and the signature."""
        path.mkdir()
        self.file(self._place.below(MANIFEST), path / MANIFEST, self._place.sha256, _LARGEST_MANIFEST)
        artifact = Artifact.open(path)
        if artifact.size_bytes > self._left:
            raise ConfigError(self._too_large(f"{self._place.url} ({artifact.size_bytes} bytes)"))
        for entry in artifact.manifest.files():
            target = path / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            self.file(self._place.below(entry.path), target, entry.sha256, entry.size)
        with suppress(ModelNotFound):
            self.file(self._place.below(SIGNATURE), path / SIGNATURE, None, LARGEST_SIGNATURE)

    def file(self, url: str, target: Path, sha256: str | None, at_most: int | None = None) -> None:
        """One file. Raises as `fetched` does."""
        digest = hashlib.sha256()
        try:
            with target.open("xb") as file:
                for chunk in self._chunks(url, at_most):
                    digest.update(chunk)
                    file.write(chunk)
        except PenstockError:
            raise
        except Exception as error:  # of many types, by the library of the scheme
            raise self._failed(url, error) from None
        if sha256 is not None and digest.hexdigest() != sha256:
            raise IntegrityError(f"{url} does not match its sha256; it was altered or damaged")

    def _chunks(self, url: str, at_most: int | None) -> Iterable[bytes]:
        limit, size = self._left if at_most is None else min(at_most, self._left), 0
        self._check(url, size, limit, at_most)
        how = {"block_size": 0, "size": 1} if self._place.scheme in ("http", "https") else {"block_size": _BLOCK}
        with self._source.open(url, "rb", **how) as stream:  # over HTTP as one stream, without a question for its size
            while chunk := stream.read(_CHUNK):
                size += len(chunk)
                self._check(url, size, limit, at_most)
                yield chunk
        self._left -= size

    def _check(self, url: str, size: int, limit: int, at_most: int | None) -> None:
        if size > limit and limit == at_most:
            raise IntegrityError(f"{url} has more than {limit} bytes, which is all that it may have")
        if size > limit:
            raise ConfigError(self._too_large(url))
        if time.monotonic() >= self._deadline:
            raise self._too_slow(url)

    def _too_slow(self, url: str) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{url} took longer than remote_timeout_s ({self._policy.timeout_s:g} s); set it higher"
        )

    def _too_large(self, what: str) -> str:
        return f"{what} is larger than remote_max_bytes ({self._policy.max_bytes}) allows; set it higher"

    def _failed(self, url: str, error: Exception) -> PenstockError:
        if self._guard.refused is not None:
            return ConfigError(f"{url} is at an address that is refused: {self._guard.refused}")
        if isinstance(error, FileNotFoundError):
            return ModelNotFound(f"there is no {url}")
        if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
            return ModelNotFound(f"{url} may not be read: {first_line(error)}")
        if isinstance(error, TimeoutError):
            late = time.monotonic() >= self._deadline
            return self._too_slow(url) if late else DeadlineExceeded(f"{url} stopped answering")
        return ConfigError(f"{url} cannot be fetched: {first_line(error)}")
