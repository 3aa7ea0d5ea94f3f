"""Requests and responses of the built-in tasks, for the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeAlias

from pydantic import BaseModel

from penstock.libraries import import_attribute
from penstock.tasks.catalog import BUILT_IN

Models: TypeAlias = tuple[type[BaseModel], ...]


class LateModels(Sequence[Any]):
    """Some models, at least one, that are imported or built when they are first read: a server needs few of them."""

    def __init__(self, make: Callable[[], Models]) -> None:
        self._make = make

    @cached_property
    def _models(self) -> Models:
        return self._make()

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self._models)

    def __getitem__(self, index: Any) -> Any:
        return self._models[index]

    def __iter__(self) -> Iterator[type[BaseModel]]:
        return iter(self._models)


def _of(name: str, kinds: Sequence[str] = tuple(BUILT_IN)) -> LateModels:
    return LateModels(lambda: tuple(import_attribute(f"{BUILT_IN[kind]}.{name}") for kind in kinds))


VECTOR_REQUESTS = _of("Request", ["vector-classification"])
VECTOR_RESPONSES = _of("Response", ["vector-classification"])
REQUESTS = _of("Request")
RESPONSES = _of("Response")
