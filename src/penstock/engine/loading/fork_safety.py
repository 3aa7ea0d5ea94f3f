"""What a forked process must not touch: locks, threads and runtimes that only the parent's threads keep going."""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol

FORKED = "it belongs to the process that was forked; make one in this process, or start processes by spawn"
"""The end of a sentence about an object of the parent."""


class Parted(Protocol):
    """An object that cannot be used in a child of its process."""

    def after_fork(self) -> None:
        """Called in the child before anything else: refuse all work from now on, and take no lock of before."""


_watched: weakref.WeakSet[Parted] = weakref.WeakSet()
_abandoned: list[Any] = []


def watch(thing: Parted) -> None:
    """Call `after_fork` of this object in every process that is forked from this one while it lives."""
    _watched.add(thing)


def abandon(thing: Any) -> None:
    """Keep what the child may not even destroy: a runtime would wait for threads that did not come along."""
    _abandoned.append(thing)


def _in_child() -> None:
    for thing in list(_watched):
        thing.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_in_child)
