"""What `models publish` and `models import` take: a path, or an address from which the model is fetched first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.cli.output import working

if TYPE_CHECKING:
    from penstock.settings import Settings


@contextmanager
def local_source(source: str | None, settings: Settings) -> Iterator[Path | None]:
    """The path that is given, or that of what was fetched, which is removed at the end; None without a source."""
    if source is None:
        yield None
        return
    from penstock.registry.remote.locations import is_remote

    if not is_remote(source):
        yield Path(source)
        return
    from penstock.registry.remote.fetching import RemotePolicy, fetched

    policy = RemotePolicy(
        settings.remote_registries,
        settings.remote_private,
        settings.remote_max_bytes,
        settings.remote_timeout_s,
    )
    with ExitStack() as held:
        with working("fetching the model"):
            path = held.enter_context(fetched(source, policy))
        yield path


def is_artifact(path: Path, source: str) -> bool:
    """True if what was fetched from this address is an artifact, which is published as it is."""
    from penstock.artifacts.artifact import MANIFEST
    from penstock.registry.remote.locations import is_remote

    return is_remote(source) and (path / MANIFEST).is_file()
