"""The Python verb `penstock.verify`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.registry.registry import Registry
from penstock.scan.trust import check_trust, strongest
from penstock.toolchain.publishing.checking import Verification, verify_artifact


def verify(ref: str, *, registry: Registry | Path | str | None = None, trust: str = "data") -> Verification:
    """Check every variant of a published version on this machine, each in a process of its own.

    Raises ModelNotFound for an unknown reference, IntegrityError for a manifest or golden samples that were altered.
    """
    check_trust(trust)
    with _opened(registry) as models:
        artifact = models.get(ref)
        return verify_artifact(artifact, strongest(trust, models.trusted(artifact.digest)))


@contextmanager
def _opened(registry: Registry | Path | str | None) -> Iterator[Registry]:
    """The registry; one that is opened here is closed again."""
    if isinstance(registry, Registry):
        yield registry
        return
    with Registry(registry) as opened:
        yield opened
