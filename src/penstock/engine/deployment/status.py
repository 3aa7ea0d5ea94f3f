"""What a process says about the deployment that it follows: its status, the results of changes, and what failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from penstock.engine.loading.loaded_model import LoadedModel


class Revisions(NamedTuple):
    """Of the stored and the local deployment and of the routes: what a process has followed, or should."""

    stored: int = 0
    local: int = 0
    routes: int = 0

    def includes(self, other: Revisions) -> bool:
        """True when none is older."""
        return self.stored >= other.stored and self.local >= other.local and self.routes >= other.routes


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """What a process should serve, and the problems with it."""

    default: str | None
    wanted: tuple[str, ...]
    unloaded: tuple[str, ...]
    """Names and `name:version`s that an operator unloaded."""
    problems: dict[str, str]
    """Why a reference is not served, or is served in an older version."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A loaded model."""

    model: LoadedModel
    persisted: bool
    """True when the registry's database holds it: for every server of the registry, also after a restart."""
    note: str
    """How long it holds and where, in one sentence."""


@dataclass(frozen=True, slots=True)
class UnloadResult:
    """Models that are no longer served."""

    keys: list[str]
    """The `name:version`s that were loaded."""
    persisted: bool
    note: str


class _Attempt(NamedTuple):
    """An attempt to find or load the model of a reference that failed, and what answered when it began."""

    why: str
    before: LoadedModel | None


class FailedAttempts:
    """The last failed attempt for each reference. It counts while the same model answers as when it began.

    Where another model answers by now, whoever loaded it, the attempt explains nothing and is passed over.
    """

    def __init__(self, routes: Mapping[str, LoadedModel]) -> None:
        """`routes` are the models that answer now, by reference; it is read at every question."""
        self._routes = routes
        self._attempts: dict[str, _Attempt] = {}

    def note(self, ref: str, why: str, before: LoadedModel | None) -> bool:
        """Keep a failed attempt that began while `before` answered. True when it says something new."""
        known = self._why(ref)
        self._attempts[ref] = _Attempt(why, before)
        return why != known

    def forget(self, ref: str) -> None:
        """The reference is served as it should be, or is not meant to be served."""
        self._attempts.pop(ref, None)

    def prune(self) -> None:
        """Drop what counts no longer."""
        self._attempts = {ref: attempt for ref, attempt in self._attempts.items() if self._why(ref) is not None}

    def failed(self, wanted: Iterable[str]) -> dict[str, str]:
        """Of the references that should be served, why nothing answers for one."""
        return {ref: why for ref in wanted if not self._answers(ref) and (why := self._why(ref)) is not None}

    def outdated(self) -> dict[str, str]:
        """Why the model that answers for a reference is not the one that the registry names."""
        answering = (ref for ref in list(self._attempts) if self._answers(ref))
        return {ref: why for ref in answering if (why := self._why(ref)) is not None}

    def _why(self, ref: str) -> str | None:
        attempt = self._attempts.get(ref)
        return attempt.why if attempt is not None and self._routes.get(ref) is attempt.before else None

    def _answers(self, ref: str) -> bool:
        model = self._routes.get(ref)
        return model is not None and not model.retired


def load_note(ref: str, pin: bool, not_stored: str) -> str:
    """How long a load holds and where; `not_stored` is why it is not stored."""
    if not_stored:
        return f"{ref} is served by this server only, until it ends: {not_stored}"
    if pin:
        return f"every server of this registry loads {ref}, also after a restart, until it is unloaded"
    return f"{ref} is served by every server that is started with it, also after a restart"


def unload_note(ref: str, not_stored: str) -> str:
    """How long an unload holds and where; `not_stored` is why it is not stored."""
    if not_stored:
        return f"{ref} stays unloaded on this server only, until it is loaded again or the server ends: {not_stored}"
    return f"{ref} stays unloaded on every server of this registry, also after a restart, until it is loaded again"


def failing(routes: Mapping[str, LoadedModel], wanted: Iterable[str]) -> dict[str, str]:
    """Of the references that should be served, why a model that is loaded answers nothing for now."""
    loaded = {ref: routes[ref] for ref in wanted if ref in routes}
    return {ref: why for ref, model in loaded.items() if (why := model.backend.problem)}


def reasons_of(failed: Mapping[str, str], wanted: Sequence[str], unloads: Iterable[str]) -> list[str]:
    """Why a process is not ready; `failed` says why a reference is not served."""
    reasons = [why if why.startswith(f"{ref}:") else f"{ref}: {why}" for ref, why in failed.items()]
    unloaded = ", ".join(sorted(unloads))
    if not wanted and unloaded:
        reasons.append(f"every model to serve was unloaded by an operator ({unloaded}): POST /admin/load serves one")
    elif not wanted:
        reasons.append("there is no model to serve: publish one with `penstock models publish`")
    return reasons
