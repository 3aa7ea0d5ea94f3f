"""Finds and calls the functions of a user that a training recipe names: data, losses, metrics, students."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

from penstock.errors import InvalidInput, type_and_message
from penstock.libraries import import_attribute

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_from_directory: dict[str, Path] = {}
"""Packages that came from a working directory; another directory may hold another package of that name."""


def find(target: str, field: str) -> Callable[..., Any]:
    """The function or class that `module:function` names, among installed packages or in the working directory.

    Raises InvalidInput naming `field` where there is none, or its module raises while it is imported.
    """
    if _NAME.fullmatch(target) is None:
        raise InvalidInput(f"{field}: {target!r} is not of the form module:function", field=field)
    module, _, name = target.partition(":")
    package = module.partition(".")[0]
    if package in sys.stdlib_module_names:
        raise InvalidInput(f"{field}: {target} is of Python's standard library, not your code", field=field)
    found = _import(target, field, package, module, name)
    if not callable(found):
        raise InvalidInput(f"{field}: {target} is of the type {type(found).__name__}, not a function", field=field)
    return found  # type: ignore[no-any-return]


def call(function: Callable[..., Any], target: str, field: str, *arguments: Any, **named: Any) -> Any:
    """What the user's function returns. Raises InvalidInput with its error and the line that raised it."""
    try:
        return function(*arguments, **named)
    except (Exception, SystemExit) as error:
        raise raised(error, target, field) from error


def raised(error: BaseException, target: str, field: str) -> InvalidInput:
    """The error for what a user's function raised: one sentence with the function, the line and the message."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((_HERE, sys.prefix, "<"))] or frames[-1:]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return InvalidInput(f"{field}: {target} raised {type_and_message(error, 300)}{where}", field=field)


def code_digest(function: Callable[..., Any]) -> str:
    """The sha256 of the file that holds a function; empty where there is none."""
    try:
        return hashlib.sha256(Path(inspect.getfile(function)).read_bytes()).hexdigest()
    except (OSError, TypeError):
        return ""


_HERE = str(Path(__file__).parents[4])


def _import(target: str, field: str, package: str, module: str, name: str) -> Any:
    try:
        _look_here(package, field)
        return import_attribute(target)
    except InvalidInput:
        raise
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            missing = f"there is no module {error.name}, neither installed nor in the working directory"
        else:
            missing = f"the module {module} needs {error.name}, which is not installed"
        raise InvalidInput(f"{field}: {missing}", field=field) from None
    except AttributeError as error:
        if any(frame.f_globals.get("__name__") == module for frame, _ in traceback.walk_tb(error.__traceback__)):
            raise raised(error, module, field) from error
        raise InvalidInput(f"{field}: the module {module} has no function {name}", field=field) from None
    except (Exception, SystemExit) as error:
        raise raised(error, module, field) from error


def _look_here(package: str, field: str) -> None:
    """Import from the working directory: first where it holds the package, else after what is installed."""
    here = Path.cwd()
    _forget_other_directory(package)
    invalidate_caches()
    own = (here / f"{package}.py").is_file() or (here / package / "__init__.py").is_file()
    loaded = getattr(sys.modules.get(package), "__file__", None)
    if own and loaded is not None and not Path(loaded).resolve().is_relative_to(here.resolve()):
        raise InvalidInput(
            f"{field}: the module {package} of the working directory has the name of one that is imported already "
            f"({loaded}); rename the file",
            field=field,
        )
    if str(here) not in sys.path:
        sys.path.insert(0 if own else len(sys.path), str(here))
    if own:
        _from_directory[package] = here


def _forget_other_directory(package: str) -> None:
    """Drop a package that was imported from a directory that is no longer the working directory."""
    origin = _from_directory.get(package)
    if origin is None or origin == Path.cwd():
        return
    del _from_directory[package]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
    if str(origin) in sys.path:
        sys.path.remove(str(origin))
