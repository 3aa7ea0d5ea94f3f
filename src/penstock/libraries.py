"""Code of others: imports what a text such as `package.module:Class` names, and suppresses its warnings."""

from __future__ import annotations

import importlib
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from typing import Any

_lock = threading.RLock()
_ignored: list[str] = []
"""The patterns of all `quietly` that are open, in any thread."""
_raised: dict[str, list[int]] = {}
"""By logger, its level before the first of them, then theirs."""


def import_attribute(target: str) -> Any:
    """The attribute that `module:attribute` names, its module imported now; the attribute may hold dots.

    Raises what the import of the module raises, and AttributeError when the module has no such attribute.
    """
    module, _, name = target.partition(":")
    return reduce(getattr, name.split("."), importlib.import_module(module))


def zstd() -> Any:
    """The module for zstd, from the standard library or its backport for older Pythons; loaded at the first use."""
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


@contextmanager
def quietly(*messages: str, logger: str | None = None, level: int = logging.CRITICAL) -> Iterator[None]:
    """Suppress the warnings whose text begins with one of `messages` (regular expressions); without any, all.

    `logger` names a logger that is raised to `level` meanwhile. Several threads may use it at once, which
    `warnings.catch_warnings` does not support: the first thread to leave removes the rules of the others.
    """
    # the comment makes the pattern differ from any rule of the user
    patterns = [f"(?#penstock){message}" for message in messages or ("",)]
    with _lock:
        for pattern in patterns:
            _ignored.append(pattern)
            warnings.filterwarnings("ignore", pattern)
        if logger is not None:
            _raise(logger, level)
    try:
        yield
    finally:
        with _lock:
            for pattern in patterns:
                _ignored.remove(pattern)
                if pattern not in _ignored:
                    _forget(pattern)
            if logger is not None:
                _lower(logger, level)


@contextmanager
def recorded_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """All warnings of the block, also those of other threads; `quietly` waits meanwhile, and other recorders do."""
    with _lock, warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        yield recorded


def _forget(pattern: str) -> None:
    """Remove the rule, unless it is gone because earlier rules were restored meanwhile."""
    rule: Any = ("ignore", re.compile(pattern, re.IGNORECASE), Warning, None, 0)
    with suppress(ValueError):
        warnings.filters.remove(rule)  # type: ignore[attr-defined]  # a list, whatever its annotation


def _raise(logger: str, level: int) -> None:
    named = logging.getLogger(logger)
    levels = _raised.setdefault(logger, [named.level])
    levels.append(level)
    named.setLevel(max(levels[1:]))


def _lower(logger: str, level: int) -> None:
    before, *levels = _raised.pop(logger)
    levels.remove(level)
    if levels:
        _raised[logger] = [before, *levels]
    logging.getLogger(logger).setLevel(max(levels, default=before))
