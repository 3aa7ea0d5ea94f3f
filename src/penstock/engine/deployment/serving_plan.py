"""The models that one process should load, and the meaning of references there: pure functions of immutable values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from penstock.artifacts.refs import FILE_VERSION, name_of
from penstock.errors import ModelNotFound
from penstock.formats import file_stem, is_model_file
from penstock.registry.deployment import Change, Deployment


class ModelUnloaded(ModelNotFound):
    """An operator unloaded the model; it is not served until it is loaded again."""

    def __init__(self, ref: str) -> None:
        super().__init__(f"{ref} was unloaded by an operator; it is not served until it is loaded again")


@dataclass(frozen=True)
class ServingPlan:
    """What a process was started with, what operators changed since, and which models there are."""

    arguments: tuple[str, ...] = ()
    """References and files that the process was started with, the default first; none means the whole registry."""
    stored: Deployment = field(default_factory=Deployment)
    """The deployment of the registry."""
    local: Deployment = field(default_factory=Deployment)
    """Loads and unloads that hold for this server only: of bare files, and while the registry cannot be written."""
    names: tuple[str, ...] = ()
    """The models of the registry, where all of it is served."""
    max_models: int = 1
    """Number of models of a whole registry that are loaded at start, before any request for them."""

    @cached_property
    def deployment(self) -> Deployment:
        """What holds in this process: the stored deployment, changed by the local one."""
        return self.stored.overlaid(self.local)

    @cached_property
    def wanted(self) -> tuple[str, ...]:
        """The references that should be loaded: of the arguments or the registry, then those an operator loads."""
        loads = [ref for ref in self.deployment.loads if not self.is_withdrawn(ref)]
        if self.arguments:
            first = [ref for ref in self.arguments if not self.is_withdrawn(ref)]
        else:
            first = [name for name in self.names if name not in self.deployment.unloads][: self.max_models]
        return tuple(dict.fromkeys([*first, *loads]))

    @cached_property
    def files(self) -> dict[str, str]:
        """The bare model files among the arguments, by the name each is served under."""
        return {model_name(ref): ref for ref in self.arguments if is_model_file(ref)}

    def file_of(self, ref: str) -> str | None:
        """The file that a name, or its only version, stands for."""
        return self.files.get(ref) or self.files.get(ref.removesuffix(f":{FILE_VERSION}"))

    def is_withdrawn(self, ref: str) -> bool:
        """True when a reference is not to be loaded because an operator unloaded it."""
        if model_name(ref) in self.files:  # what the registry says of the same name means another model
            return model_name(ref) in self.local.unloads
        return self.deployment.is_withdrawn(ref)

    def is_unloaded(self, key: str) -> bool:
        """True when an operator unloaded this `name:version`."""
        return (self.local if name_of(key) in self.files else self.deployment).is_unloaded(key)

    def serves(self, name: str) -> bool:
        """True if a bare name of the registry is served in all its versions."""
        if name in self.files or self.is_withdrawn(name):
            return False
        return name in self.wanted or not self.arguments

    def pinned(self, default_ref: str | None) -> list[str]:
        """The references whose models are never evicted."""
        first = self.arguments or ((default_ref,) if default_ref else ())
        return [*first, *self.deployment.loads]

    def default(self, previous: str | None, *, answering: bool) -> str | None:
        """The reference that answers callers who name none: the first argument, or the first model of the registry.

        Of a whole registry it stays the same while it is `answering`. It may be unloaded: its callers are refused
        rather than answered by another model, before a restart and after it.
        """
        if self.arguments:
            return self.arguments[0]
        if previous is not None and (answering or (previous in self.names and self.is_withdrawn(previous))):
            return previous
        return next(iter((*self.names, *self.deployment.loads)), None)

    def target(self, ref: str, key_of: Callable[[str], str | None]) -> str:
        """The reference to resolve in the registry for a caller's. Raises ModelUnloaded, or ModelNotFound.

        A model that is wanted by name answers in all its versions, one wanted as `name:version` or `name@alias` only
        as such, and its bare name means just that. `key_of` is the `name:version` that a wanted reference led to.
        """
        if ref in self.wanted:
            return ref
        name = model_name(ref)
        unloaded = self.is_withdrawn(name)
        if not self.arguments and not unloaded:
            return ref
        served = [wanted for wanted in self.wanted if model_name(wanted) == name]
        if name in served or any(is_model_file(wanted) for wanted in served):
            return ref
        if served and ref == name:
            return served[0]
        if any(ref == key_of(wanted) for wanted in served):
            return ref
        if unloaded or self.is_withdrawn(ref) or (ref == name and self._is_argument(name)):
            raise ModelUnloaded(self.deployment.key(ref) or ref)
        raise ModelNotFound(f"the model {ref} is not served here; served are {', '.join(self.wanted) or 'none'}")

    def _is_argument(self, name: str) -> bool:
        return any(model_name(ref) == name for ref in self.arguments)


def model_name(ref: str) -> str:
    """The name that a reference or a file is served under."""
    return file_stem(ref) if is_model_file(ref) else name_of(ref)


def with_aliases(change: Change, stored: Deployment, now: Deployment) -> Deployment:
    """A change of the local deployment, which has no aliases."""
    return replace(change(replace(now, aliases=stored.aliases)), aliases=now.aliases)
