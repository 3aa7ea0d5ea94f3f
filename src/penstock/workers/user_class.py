"""The class of a user inside its worker: imported, loaded and called, with a sentence for all that it does wrong.

This module is imported in workers only.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from penstock.datatypes import to_json_values
from penstock.errors import InvalidInput, PenstockError, printable, shortened
from penstock.file_description import parse_tensors
from penstock.tensors import Array, Arrays, TensorSpec

_LONGEST_TRACE = 16384


class Fault(Exception):
    """What the user's code did wrong, in one sentence; `kind` is the name of the error that the server raises."""

    def __init__(self, message: str, kind: str = "InferenceError", *, field: str = "", trace: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.field = field
        self.trace = trace


def fault_of(error: BaseException, where: str) -> Fault:
    """The fault for what user code raised; `where` begins its sentence, such as `Sentiment.predict raised`."""
    trace = _trace(error)
    if isinstance(error, InvalidInput):
        field = error.errors[0].field if error.errors else ""
        return Fault(_text(error), "InvalidInput", field=field, trace=trace)
    if isinstance(error, SystemExit):
        return Fault(f"{where.removesuffix(' raised')} called sys.exit({error.code!r})", trace=trace)
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # that of PyTorch
    text = " ".join(_text(error).split())
    sentence = f"{where} {type(error).__name__}{f': {text}' if text else ''}"
    return Fault(shortened(sentence, 500), "OutOfMemory" if out_of_memory else "InferenceError", trace=trace)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # of an error that cannot even be shown
        return "(its message cannot be read)"


def _trace(error: BaseException) -> str:
    """The traceback, without the frames of this package around it."""
    found = error.__traceback__
    ours = ("penstock.workers.", "__main__", "asyncio.")
    while found is not None and found.tb_frame.f_globals.get("__name__", "").startswith(ours):
        found = found.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, found))[-_LONGEST_TRACE:]
    except Exception:  # of an error that cannot even be shown
        return type(error).__name__


class UserClass:
    """An instance of the user's class. `inputs` and `outputs` are what its class declares."""

    def __init__(
        self, name: str, instance: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self.name = name
        self._instance = instance
        self._outputs = outputs
        self._json = outputs == _VALUES
        self._runner = asyncio.Runner()
        self.declared: dict[str, Any] = {
            "inputs": [spec.to_json() for spec in inputs],
            "outputs": [spec.to_json() for spec in outputs],
            "json": self._json,
            "example": _example(instance, inputs),
        }
        """What the server has to know."""

    @classmethod
    def load(cls, target: str, python_path: Iterable[str]) -> UserClass:
        """Import `module:Class`, make an instance and call its `load`. Raises Fault."""
        found = _imported(target, [*python_path, str(Path.cwd())])
        name = found.__name__
        json = getattr(found, "inputs", None) == "json"
        inputs, outputs = (_VALUES if json else _specs(found, side) for side in ("inputs", "outputs"))
        try:
            model = cls(name, found(), inputs, outputs)
        except Fault:
            raise
        except BaseException as error:
            raise fault_of(error, f"{name}() raised") from None
        if hasattr(model._instance, "load"):
            try:
                model._await(model._instance.load())
            except BaseException as error:
                raise fault_of(error, f"{name}.load raised") from None
        return model

    def predict(self, inputs: Arrays, rows: int) -> Arrays:
        """The outputs for a batch. Raises Fault for a result that is not as declared, and what the class raises."""
        if self._json:
            return {_VALUES[0].name: self._predict_json(inputs[_VALUES[0].name], rows)}
        found = self._await(self._instance.predict(inputs))
        if not isinstance(found, Mapping):
            names = ", ".join(spec.name for spec in self._outputs)
            raise Fault(f"{self.name}.predict returned {type(found).__name__}; return a dict with arrays for {names}")
        unknown = next((key for key in found if all(key != spec.name for spec in self._outputs)), None)
        if unknown is not None:
            raise Fault(f"{self.name}.predict returned {printable(repr(unknown), 80)}, which `outputs` does not name")
        return {spec.name: self._output(spec, found, rows) for spec in self._outputs}

    def _predict_json(self, texts: Array, rows: int) -> Array:
        """The texts of the values that the class answers with."""
        try:
            values = [orjson.loads(text) for text in texts]
        except orjson.JSONDecodeError as error:
            raise Fault(f"values: a text is not JSON: {error}", "InvalidInput", field="values") from None
        found = self._await(self._instance.predict(values))
        if not isinstance(found, list | tuple) or len(found) != rows:
            got = f"{len(found)} values" if isinstance(found, list | tuple) else type(found).__name__
            raise Fault(f"{self.name}.predict returned {got} for a batch of {rows}; return a list with one for each")
        answers = np.empty(rows, object)
        for place, value in enumerate(found):
            try:
                answers[place] = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
            except TypeError as error:
                raise Fault(f"{self.name}.predict: value {place} cannot be written as JSON: {_text(error)}") from None
        return answers

    def _await(self, result: Any) -> Any:
        """The result of a method, which may be a coroutine."""
        return self._runner.run(_awaited(result)) if inspect.isawaitable(result) else result

    def _output(self, spec: TensorSpec, found: Mapping[str, Any], rows: int) -> Array:
        what = f"{self.name}.predict: the output {spec.name!r}"
        if spec.name not in found:
            raise Fault(f"{what} is missing; return a dict with an array for each of `outputs`")
        value = found[spec.name]
        if hasattr(value, "detach"):  # a tensor of PyTorch
            value = value.detach().cpu()
        try:
            array = np.asarray(value, spec.numpy) if isinstance(value, list | tuple) else np.asarray(value)
        except Exception as error:
            raise Fault(f"{what} cannot be read as an array of {spec.dtype}: {shortened(_text(error))}") from None
        if spec.dtype == "BYTES" and array.dtype.kind in "US":
            array = array.astype(object)
        if array.dtype != spec.numpy:
            if not np.can_cast(array.dtype, spec.numpy, "same_kind"):
                raise Fault(f"{what} is {array.dtype}, but `outputs` says {spec.dtype}")
            array = array.astype(spec.numpy)
        _check_shape(what, array, spec, rows)
        if spec.dtype == "BYTES" and not all(isinstance(each, str | bytes) for each in array.ravel()):
            raise Fault(f"{what} holds values that are neither str nor bytes")
        return array


_VALUES = (TensorSpec("values", "BYTES", (-1,)),)
"""Inputs and outputs of a class that takes JSON values: the text of each."""


def _example(instance: Any, inputs: tuple[TensorSpec, ...]) -> Any:
    """The inputs that the class names as an `example`, as JSON; None without any. Raises Fault."""
    given = getattr(instance, "example", None)
    if given is None:
        return None
    try:
        if inputs == _VALUES:
            return {"values": [orjson.dumps(value).decode() for value in given]}
        arrays = {spec.name: spec.check(given[spec.name]) for spec in inputs}
        return {name: to_json_values(name, arrays[name], spec.dtype) for name, spec in zip(arrays, inputs, strict=True)}
    except (TypeError, KeyError, PenstockError) as error:
        name = type(instance).__name__
        raise Fault(f"{name}.example: {_text(error)}; write the inputs of one request, with a row for each") from None


async def _awaited(result: Any) -> Any:
    return await result


def _check_shape(what: str, array: Array, spec: TensorSpec, rows: int) -> None:
    got, wanted = list(array.shape), [rows if place == 0 and n < 0 else n for place, n in enumerate(spec.shape)]
    if array.ndim and spec.shape and spec.shape[0] < 0 and len(array) != rows:
        raise Fault(f"{what} has {len(array)} rows for a batch of {rows}; return one row for each row of the inputs")
    if len(got) != len(wanted) or any(want not in (-1, have) for have, want in zip(got, wanted, strict=True)):
        raise Fault(f"{what} has the shape {got}, but `outputs` says {list(spec.shape)}")


def _imported(target: str, path: list[str]) -> type:
    """The class. Raises Fault."""
    module_name, _, class_name = target.partition(":")
    sys.path[:0] = path
    places = " or ".join(path)
    try:
        if importlib.util.find_spec(module_name) is None:
            raise Fault(f"there is no module {module_name} in {places}; name its directory in `python_path`")
        module = importlib.import_module(module_name)
    except Fault:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise Fault(f"there is no module {error.name} in {places}; name its directory in `python_path`") from None
        raise fault_of(error, f"the import of {module_name} raised") from None
    except BaseException as error:
        raise fault_of(error, f"the import of {module_name} raised") from None
    found = getattr(module, class_name, None)
    if found is None:
        others = [name for name, value in vars(module).items() if inspect.isclass(value) and hasattr(value, "predict")]
        raise Fault(f"the module {module_name} has no class {class_name}; it has {', '.join(others) or 'none'}")
    if not inspect.isclass(found):
        raise Fault(f"{target} is {type(found).__name__}, not a class; name a class with a method predict")
    if not callable(getattr(found, "predict", None)):
        raise Fault(f"{target} has no method predict(self, inputs)")
    return found


def _specs(found: type, side: str) -> tuple[TensorSpec, ...]:
    """The tensors that the class declares on one side. Raises Fault."""
    form = (
        f'write {side} = ("x:FP32:-1,4",), the name, type and shape of each tensor (-1 is free, axis 0 the batch), '
        'or inputs = "json" for JSON values'
    )
    declared = getattr(found, side, None)
    if declared is None:
        raise Fault(f"{found.__name__} declares no {side}; {form}")
    if isinstance(declared, str):
        declared = (declared,)
    try:
        texts = [f"{name}:{rest}" for name, rest in declared.items()] if isinstance(declared, Mapping) else declared
        specs = parse_tensors(texts)
    except (ValueError, TypeError, AttributeError, PenstockError) as error:
        raise Fault(f"{found.__name__}.{side}: {_text(error)}; {form}") from None
    if not specs:
        raise Fault(f"{found.__name__}.{side} is empty; {form}")
    return specs
