"""Builds the class an eager model's weights fill, from the `module:Class` its manifest names.

A manifest is data: what it names is checked to be a subclass of `torch.nn.Module` before anything is called. The module
it is in has been imported by then, so a manifest can make an installed module run its top level, the standard library's
excepted. Publish eager variants only from sources you would install packages from.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.backends.base import first_line
from penstock.errors import ModelLoadError, UnsupportedFormat

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


def build(path: Path, architecture: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """A new instance of `architecture`, its weights not yet filled. `path` is only named in errors.

    Raises UnsupportedFormat when the name is not a `module:Class` of an installed package that is a
    `torch.nn.Module`, ModelLoadError when the class does not take `arguments`.
    """
    model_class = _load_class(path, architecture)
    try:
        return model_class(**arguments)
    except (Exception, SystemExit) as error:
        raise ModelLoadError(
            f"{path}: {architecture} could not be built with the arguments {dict(arguments)}: {first_line(error)}"
        ) from None


def _load_class(path: Path, architecture: str) -> type[torch.nn.Module]:
    import torch

    if _NAME.fullmatch(architecture) is None:
        raise UnsupportedFormat(f"{path}: the architecture {architecture!r} is not of the form module:Class")
    module_name, _, qualified_name = architecture.partition(":")
    if module_name.partition(".")[0] in sys.stdlib_module_names:  # some of them act when they are imported
        raise UnsupportedFormat(f"{path}: the architecture {architecture} is not a class of torch.nn.Module")
    try:
        found: Any = reduce(getattr, qualified_name.split("."), importlib.import_module(module_name))
    except ModuleNotFoundError as error:
        raise UnsupportedFormat(
            f"{path}: the architecture {architecture} needs the module {error.name}, which is not installed here"
        ) from None
    except AttributeError:
        raise UnsupportedFormat(f"{path}: the module {module_name} has no class {qualified_name}") from None
    except (Exception, SystemExit) as error:
        raise ModelLoadError(
            f"{path}: the module of the architecture {architecture} cannot be imported: {first_line(error)}"
        ) from None
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise UnsupportedFormat(f"{path}: the architecture {architecture} is not a class of torch.nn.Module")
    return found
