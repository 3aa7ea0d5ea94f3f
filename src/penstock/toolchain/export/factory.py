"""Loads the module to export from a `module:factory` of the working directory, with its weights."""

from __future__ import annotations

import difflib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import invalidate_caches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.backends.torch import state_dict
from penstock.errors import InvalidInput, ModelLoadError, UnsupportedFormat, Untrusted, type_and_message
from penstock.libraries import import_attribute
from penstock.scan.scanner import scan_file
from penstock.scan.trust import at_least
from penstock.tensors import TensorSpec
from penstock.toolchain.export.axes import Dynamic
from penstock.toolchain.export.source import ModuleSource, module_source

if TYPE_CHECKING:
    import torch

_FORM = "give module:factory, such as train:make_model, or module:Class"


def load_source(
    target: str,
    weights: Path | None = None,
    inputs: Sequence[TensorSpec] = (),
    example: Any = None,
    dynamic: Dynamic | None = None,
    *,
    name: str | None = None,
    trust: str = "data",
) -> ModuleSource:
    """The module that `module:factory` returns, filled with the weights of a file, and its example.

    The factory takes no arguments and returns a `torch.nn.Module`, or a tuple of it and example inputs; a class is a
    factory. `example` comes before the factory's. Its module is looked for in the working directory too. See
    `module_source` for the other arguments. Raises InvalidInput or ModelLoadError when the target does not import, is
    not callable, raises, or returns something else, and when the weights do not fit; Untrusted for a pickle that holds
    more than weights, unless `trust` covers code.
    """
    made = _call(target, _found(target))
    module, own = _parts(target, made)
    recorded = _fill(module, weights, trust) if weights is not None else {}
    example = own if example is None else example
    return module_source(module, example, name=name, inputs=inputs, dynamic=dynamic, architecture_args=recorded)


def _found(target: str) -> Callable[..., Any] | torch.nn.Module:
    """The object that the target names."""
    module, separator, attribute = target.partition(":")
    if not separator or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise InvalidInput(f"model: {target!r} names no model; {_FORM}", field="model")
    package = module.partition(".")[0]
    with _working_directory(package):
        try:
            return import_attribute(target)  # type: ignore[no-any-return]
        except ModuleNotFoundError as error:
            raise _not_found(module, error) from None
        except AttributeError as error:
            if module in sys.modules and not _raised_by(error, module):
                raise _no_attribute(module, attribute) from None
            raise _broken(module, error) from None
        except (Exception, SystemExit) as error:  # of the user's module
            raise _broken(module, error) from None


@contextmanager
def _working_directory(package: str) -> Iterator[None]:
    """Look for modules in the working directory: first where it holds the package, else last."""
    here = Path.cwd()
    path = str(here)
    own = (here / f"{package}.py").is_file() or (here / package / "__init__.py").is_file()
    invalidate_caches()
    _require_not_taken(package, here, own=own)
    if own:
        sys.path.insert(0, path)
    try:
        if path not in sys.path:
            sys.path.append(path)
        yield
    finally:
        if own:
            sys.path.remove(path)
            if path not in sys.path:
                sys.path.append(path)  # what the factory imports when it is called


def _require_not_taken(package: str, here: Path, *, own: bool) -> None:
    """Raise ModelLoadError where a module of that name was imported from another place."""
    loaded = getattr(sys.modules.get(package), "__file__", None) if own else None
    if loaded is not None and not Path(loaded).resolve().is_relative_to(here.resolve()):
        raise ModelLoadError(
            f"the module {package} of the working directory has the name of one that is imported already ({loaded}); "
            "rename the file"
        )


def _not_found(module: str, error: ModuleNotFoundError) -> ModelLoadError:
    if error.name and (module == error.name or module.startswith(f"{error.name}.")):
        return ModelLoadError(f"there is no module {error.name}, neither in {Path.cwd()} nor installed; {_FORM}")
    return ModelLoadError(f"the module {module} cannot be imported: it needs {error.name}, which is not installed")


def _raised_by(error: BaseException, module: str) -> bool:
    """True when a frame of that module raised the error."""
    frames = (frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__))
    return module in frames


def _no_attribute(module: str, attribute: str) -> InvalidInput:
    found = sys.modules[module]
    names = [name for name, value in vars(found).items() if callable(value) and not name.startswith("_")]
    close = difflib.get_close_matches(attribute, names, 1)
    remedy = f"did you mean {close[0]}?" if close else _FORM
    return InvalidInput(f"model: the module {module} has no {attribute}; {remedy}", field="model")


def _broken(module: str, error: BaseException) -> ModelLoadError:
    if isinstance(error, SyntaxError):
        where = f"{Path(error.filename or '').name}, line {error.lineno}"
        return ModelLoadError(f"the module {module} cannot be imported: {error.msg} ({where})")
    return ModelLoadError(f"the module {module} cannot be imported: {_said(error)}")


def _said(error: BaseException) -> str:
    """The error with the user's line that raised it."""
    said = type_and_message(error, 300)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and not _is_library(frame.filename)]
    return f"{said} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else said


def _is_library(file: str) -> bool:
    return file.startswith("<") or "site-packages" in file or f"{Path(__file__).parents[2]}" in file


def _call(target: str, factory: Any) -> Any:
    import torch

    if isinstance(factory, torch.nn.Module):
        return factory
    if not callable(factory):
        raise InvalidInput(
            f"model: {target} is a {type(factory).__name__}, not a function or class; {_FORM}", field="model"
        )
    wanted = _required(factory)
    if wanted:
        raise InvalidInput(
            f"model: {target} asks for {', '.join(wanted)}; name a function that takes no arguments, or give them "
            "defaults",
            field="model",
        )
    try:
        return factory()
    except (Exception, SystemExit) as error:  # of the user's code
        raise ModelLoadError(f"{target} raised {_said(error)}") from None


def _required(factory: Callable[..., Any]) -> list[str]:
    """The parameters without a default."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):
        return []
    open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in open_ended]


def _parts(target: str, made: Any) -> tuple[torch.nn.Module, Any]:
    """The module, and its example inputs if they came with it."""
    import torch

    if isinstance(made, torch.nn.Module):
        return made, None
    if isinstance(made, tuple) and len(made) > 1 and isinstance(made[0], torch.nn.Module):
        return made[0], made[1] if len(made) == 2 else tuple(made[1:])
    if inspect.iscoroutine(made):
        made.close()
    what = f"the class {made.__name__}" if isinstance(made, type) else f"a {type(made).__name__}"
    raise InvalidInput(
        f"model: {target} returned {'None' if made is None else what}; it returns a torch.nn.Module, or a tuple of it "
        "and its example inputs",
        field="model",
    )


def _fill(module: torch.nn.Module, path: Path, trust: str) -> dict[str, Any]:
    """Load the weights of a file; the constructor's arguments that it records."""
    if not path.is_file():
        raise ModelLoadError(f"weights: there is no file {path}")
    try:
        checkpoint = state_dict.read(path, trust)
    except UnsupportedFormat:
        if not at_least(trust, "code") and scan_file(path, "pytorch").tier != "data":
            raise Untrusted(
                f"{path}: it holds more than weights, and reading that runs code of the file; save model.state_dict() "
                'as safetensors, or where its source is trusted give trust="code"'
            ) from None
        raise
    state_dict.fill(module, checkpoint, "the factory builds it with other sizes")
    return dict(checkpoint.arguments)
