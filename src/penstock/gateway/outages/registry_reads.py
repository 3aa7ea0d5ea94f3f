"""Answers about the registry while its database is lost or does not answer: bounded reads, and what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from penstock.artifacts.refs import is_release
from penstock.errors import ConfigError, ModelNotFound
from penstock.registry.deployment import Deployment

T = TypeVar("T")

LATE_S = 1.0
"""How long a reply waits for the registry."""
THREADS = 2
FROM_MEMORY = (
    "the registry does not answer, so this is what the server last knew of it, with what it has loaded; "
    "GET /health/ready says more"
)


class Models(Protocol):
    """Where models are looked up: a `Registry`, or what is remembered of one."""

    def list(self) -> list[str]:
        """The names, sorted."""

    def versions(self, name: str) -> Sequence[str]:
        """The versions of a model from low to high."""

    def aliases(self, name: str) -> dict[str, str]:
        """Version by alias."""

    def resolve(self, name: str) -> tuple[str, str]:
        """The name and the version that it means alone."""


class RegistryReads:
    """Reads for replies, in threads of their own. One that hangs delays no other work, and holds up few replies."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="penstock-registry")
        self._late: Future[Any] | None = None

    async def read(self, work: Callable[[], T]) -> T:
        """What is read. Raises ConfigError where that takes too long, at once while an earlier read still hangs."""
        if self._late is not None and not self._late.done():
            raise ConfigError("the registry does not answer")
        reading = self._threads.submit(work)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(reading), LATE_S)
        except TimeoutError:
            self._late = reading  # one that had no thread yet is cancelled, and done
            raise ConfigError(f"the registry did not answer within {LATE_S:g} s") from None

    def close(self) -> None:
        """Start no further read."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class RememberedModels:
    """The models of a registry as a process last knew them, with the methods of a `Registry`."""

    def __init__(self, versions: Mapping[str, Sequence[str]], deployment: Deployment) -> None:
        self._versions = versions
        self._aliases = deployment.aliases

    def list(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._versions)

    def versions(self, name: str) -> Sequence[str]:
        """The versions of a model from low to high."""
        return self._versions.get(name, ())

    def aliases(self, name: str) -> dict[str, str]:
        """Version by alias, sorted by alias."""
        return dict(sorted(self._aliases.get(name, {}).items()))

    def resolve(self, name: str) -> tuple[str, str]:
        """The name and the version that it means alone. Raises ModelNotFound."""
        versions = self.versions(name)
        if not versions:
            raise ModelNotFound(f"there is no model {name}")
        highest = next(filter(is_release, reversed(versions)), versions[-1])
        return name, self.aliases(name).get("champion", highest)
