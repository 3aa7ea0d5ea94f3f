"""One caller, as the queues of all models see it."""

from __future__ import annotations


class Flow:
    """A caller whose requests share a contended model fairly with those of others, in proportion to its weight.

    There is one object for each caller: flows are told apart by identity. Requests without a flow are one together.
    """

    __slots__ = ("id", "weight")

    def __init__(self, id: str, weight: float = 1.0) -> None:
        if not weight > 0:
            raise ValueError(f"weight: give a number above 0, not {weight}")
        self.id = id
        self.weight = weight

    def __repr__(self) -> str:
        return f"Flow({self.id!r}, {self.weight})"


def weight_of(flow: Flow | None) -> float:
    """The weight of a flow; 1 of requests without one."""
    return 1.0 if flow is None else flow.weight
