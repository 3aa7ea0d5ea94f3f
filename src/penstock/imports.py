"""Imports what a text such as `package.module:Class` names."""

from __future__ import annotations

import importlib
from functools import reduce
from typing import Any


def import_attribute(target: str) -> Any:
    """The attribute that `module:attribute` names, its module imported now; the attribute may hold dots.

    Raises what the import of the module raises, and AttributeError when the module has no such attribute.
    """
    module, _, name = target.partition(":")
    return reduce(getattr, name.split("."), importlib.import_module(module))
