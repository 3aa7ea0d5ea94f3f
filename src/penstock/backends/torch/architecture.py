"""Builds the class that the weights of an eager model fill, from the `module:Class` in its manifest.

Importing a module runs it, and a manifest is data. Before anything is imported, the package must be registered for this
(an entry point of the group `penstock.architectures`, or `allow`), unless the model is trusted to run code. The name
must resolve to a subclass of `torch.nn.Module` before it is called.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import invalidate_caches
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import ModelLoadError, UnsupportedFormat, Untrusted, first_line
from penstock.libraries import import_attribute

if TYPE_CHECKING:
    import torch

GROUP = "penstock.architectures"
"""The entry point group in which an installed package registers its classes as model architectures."""

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_allowed: set[str] = set()


def allow(package: str) -> None:
    """Register the classes of a top-level package in this process, as an entry point would."""
    _allowed.add(package)


def build(
    path: Path,
    architecture: str | type,
    arguments: Mapping[str, Any],
    *,
    recorded: Mapping[str, Any] | None = None,
    trust: str = "data",
) -> torch.nn.Module:
    """A new instance of `architecture`, its weights not yet filled. `path` is used in errors only.

    `architecture` may be a class, given by a Python caller. Of the `recorded` arguments of a checkpoint, those are
    used that the class takes and `arguments` does not name.

    Raises Untrusted when the package of a name is not registered and `trust` is data, UnsupportedFormat when it is not
    a `module:Class` of an installed package that is a `torch.nn.Module`, ModelLoadError when the class does not take
    `arguments`.
    """
    name = architecture if isinstance(architecture, str) else architecture.__qualname__
    found = _find(path, architecture, trust)
    configured = _from_config(found, arguments)
    if configured is None:
        model_class = _module_class(path, name, found)
        arguments = {**_taken(model_class, recorded or {}), **arguments}
        configured = functools.partial(model_class, **arguments)
    try:
        return _module(path, name, configured())
    except ModelLoadError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelLoadError(
            f"{path}: {name} could not be built with the arguments {dict(arguments)}: {first_line(error)}; "
            "give others as architecture_args={…}"
        ) from None


def _from_config(found: Any, arguments: Mapping[str, Any]) -> Callable[[], Any] | None:
    """What builds a class of Hugging Face from its `config.json`, which are the arguments; None for other classes.

    Classes such as `AutoModelForImageClassification` are no modules: their `from_config` chooses one.
    """
    if not isinstance(found, type) or "model_type" not in arguments:
        return None
    settings = {name: value for name, value in arguments.items() if name not in ("model_type", "auto_map")}
    own = getattr(found, "config_class", None)
    if own is not None:
        return lambda: found(own.from_dict(settings))
    choose = getattr(sys.modules.get(found.__module__.partition(".")[0]), "AutoConfig", None)
    if choose is None or not hasattr(found, "from_config"):
        return None
    return lambda: found.from_config(choose.for_model(arguments["model_type"], **settings))


def _module(path: Path, name: str, built: Any) -> torch.nn.Module:
    import torch

    if not isinstance(built, torch.nn.Module):
        raise UnsupportedFormat(f"{path}: the architecture {name} is not a class of torch.nn.Module")
    return built


def _taken(model_class: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the class has parameters for; checkpoints also record a learning rate and the like."""
    parameters = inspect.signature(model_class).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return dict(arguments)
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in arguments.items() if name in names}


def _find(path: Path, architecture: str | type, trust: str) -> Any:
    """The object that a name resolves to; its module is imported only when that is allowed."""
    if not isinstance(architecture, str):
        return architecture
    if _NAME.fullmatch(architecture) is None:
        raise UnsupportedFormat(f"{path}: the architecture {architecture!r} is not of the form module:Class")
    module_name, _, qualified_name = architecture.partition(":")
    package = module_name.partition(".")[0]
    if package in sys.stdlib_module_names:  # some of them act at import
        raise UnsupportedFormat(f"{path}: the architecture {architecture} is not a class of torch.nn.Module")
    if trust == "data" and not _is_known(package):
        raise Untrusted(
            f"{path}: the package {package} of the architecture {architecture} is not registered for models "
            f'(entry point group {GROUP}), and importing it runs its code; register it, or allow this with trust="code"'
        )
    found = _import(path, architecture, module_name, qualified_name)
    home = str(getattr(found, "__module__", "")).partition(".")[0]
    if trust == "data" and isinstance(found, type) and not _is_known(home):  # reached through an import of the module
        raise Untrusted(
            f"{path}: {architecture} is a class of the package {home}, which is not registered for models "
            f'(entry point group {GROUP}); register it, or allow this with trust="code"'
        )
    return found


def _is_known(package: str) -> bool:
    return package in _allowed or package in _registered()


@cache
def _registered() -> frozenset[str]:
    return frozenset(entry.module.partition(".")[0] for entry in entry_points(group=GROUP))


def _import(path: Path, architecture: str, module_name: str, qualified_name: str) -> Any:
    try:
        return _import_from_here(architecture, module_name.partition(".")[0])
    except ModuleNotFoundError as error:
        raise UnsupportedFormat(
            f"{path}: the architecture {architecture} needs the module {error.name}, which is not installed here "
            "and not in the working directory"
        ) from None
    except AttributeError:
        raise UnsupportedFormat(f"{path}: the module {module_name} has no class {qualified_name}") from None
    except (Exception, SystemExit) as error:
        raise ModelLoadError(
            f"{path}: the module of the architecture {architecture} cannot be imported: {first_line(error)}"
        ) from None


def _import_from_here(architecture: str, package: str) -> Any:
    """Import from what is installed, else from the working directory too, where `uvicorn module:app` also looks.

    Only names that may be imported come here, and an installed package is never hidden.
    """
    try:
        return import_attribute(architecture)
    except ModuleNotFoundError as error:
        here = str(Path.cwd())
        if error.name != package or here in sys.path or _is_known(package):
            raise
        sys.path.append(here)
        invalidate_caches()
        return import_attribute(architecture)


def _module_class(path: Path, name: str, found: Any) -> type[torch.nn.Module]:
    import torch

    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise UnsupportedFormat(f"{path}: the architecture {name} is not a class of torch.nn.Module")
    return found
