"""Suppresses warnings and log lines of PyTorch that the operator of a server cannot act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quietly(*messages: str, logger: str | None = None, level: int = logging.CRITICAL) -> Iterator[None]:
    """Suppress the warnings whose text begins with one of `messages` (regular expressions); without any, all.

    `logger` names a logger that is raised to `level` meanwhile.
    """
    named = logging.getLogger(logger) if logger is not None else None
    before = named.level if named is not None else logging.NOTSET
    if named is not None:
        named.setLevel(level)
    try:
        with warnings.catch_warnings():
            for message in messages or ("",):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        if named is not None:
            named.setLevel(before)
