"""Objects that a forked process must not use: their locks, threads and runtimes work in the parent only."""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol

FORKED = "it belongs to the process that was forked; make one in this process, or start processes by spawn"
"""The end of a sentence about an object of the parent."""


class ForkAware(Protocol):
    """An object that cannot be used in a child of its process."""

    def after_fork(self) -> None:
        """Called in the child before anything else: refuse all work from now on; take no lock that existed before."""


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_leaked: list[Any] = []


def call_after_fork(thing: ForkAware) -> None:
    """Call the object's `after_fork` in every process that is forked from this one while the object exists."""
    _registered.add(thing)


def leak(thing: Any) -> None:
    """Keep an object that the child must not destroy: its runtime would wait for threads of the parent."""
    _leaked.append(thing)


def _in_child() -> None:
    for thing in list(_registered):
        thing.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_in_child)
