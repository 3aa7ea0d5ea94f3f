"""How requests of one model share a run, and how each gets its own part of the outputs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar

from penstock.tensors import Arrays, group_key, split, stack


class Joining:
    """Along axis 0: the rows of one request behind those of another. Only inputs of equal row shapes share a run."""

    joins: ClassVar[bool] = True
    """False where no two requests may share a run."""

    key: Callable[[Arrays], Hashable]
    """Equal for inputs that can share a run. Raises InvalidInput for inputs that cannot run at all."""

    def __init__(self) -> None:
        self.key = group_key  # an attribute: every request asks, and a method around it would cost as much again

    def stack(self, items: Sequence[Arrays]) -> Arrays:
        """One batch from the inputs of several requests of one key."""
        return stack(items)

    def split(self, outputs: Arrays, rows: Sequence[int], items: Sequence[Arrays]) -> list[Arrays]:  # noqa: ARG002
        """Each request's outputs; `items` is what was stacked, of `rows[i]` rows each. Raises InferenceError."""
        return split(outputs, rows)


class Alone(Joining):
    """For a model with no batch axis: nothing is gained by a common run, and the last would wait for all of them."""

    joins: ClassVar[bool] = False
