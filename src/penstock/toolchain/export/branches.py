"""Finds inputs on which a module takes another path through its code, and where values decide about its answer."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from penstock.backends.probing.values import has_role
from penstock.backends.torch.infer_signature import as_tensors, run_named
from penstock.datatypes import BF16
from penstock.libraries import quietly
from penstock.tensors import Array, Arrays, TensorSpec
from penstock.toolchain.export.axes import Group, other_lengths, resized
from penstock.toolchain.export.failures import REWRITE, SCRIPT, Where, caller, is_user_code
from penstock.toolchain.export.source import ModuleSource, as_arrays

if TYPE_CHECKING:
    import torch

_LONGEST_PATH = 200_000
"""Steps of a path that are compared."""
_ENDLESS = 100_000
"""A run on made-up values that takes more steps than this, and four times those of the example, is given up."""
_MOST_PATHS = 8
_MOST_DECISIONS = 32
_TESTS = {"__bool__", "is_nonzero", "equal", "allclose", "__contains__"}
"""Functions of tensors that give Python a truth value."""
_NUMBERS = {"item", "tolist", "__int__", "__float__", "__index__", "__complex__", "numpy", "__array__"}
"""Functions that give Python numbers."""

Step = tuple[CodeType, int, int]
"""Code, place in it, and line."""


class Probe(NamedTuple):
    """Inputs, the module's outputs, and what an export that differs on them has frozen.

    `label` says how the inputs differ from the example. `where` is the line after which the module takes another path
    than on the example, `number` one that takes a number out of a tensor. `axis` is the input, the axis, its length and
    the example's, for another length.
    """

    label: str
    inputs: Arrays
    outputs: Arrays
    where: Where | None = None
    axis: tuple[str, int, int, int] | None = None
    number: Where | None = None

    def frozen(self, symptom: str) -> str:
        """The sentence about an export with this symptom."""
        if self.axis is not None:
            name, axis, length, own = self.axis
            return (
                f"froze axis {axis} of {name} to the length {own}: with {length}, {symptom}; take lengths from the "
                "input's shape in the model, or leave that axis out of dynamic"
            )
        if self.where is not None:
            return f"froze a branch of the model ({self.where}): on {self.label}, {symptom}; {REWRITE}"
        if self.number is not None:
            return (
                f"froze a number that the model takes out of a tensor ({self.number}): on {self.label}, {symptom}; "
                f"keep it a tensor, or export {SCRIPT}"
            )
        return f"does not agree with the model: on {self.label}, {symptom}"


def other_branch_inputs(source: ModuleSource) -> list[Arrays]:
    """Inputs on which the module takes another path than on its example, and inputs of other lengths."""
    return [dict(probe.inputs) for probe in probes(source) if probe.where is not None or probe.axis is not None]


@lru_cache(maxsize=1)
def probes(source: ModuleSource) -> tuple[Probe, ...]:
    """What every export must agree on: the example, other lengths, other values; those of the last module are kept."""
    with quietly():
        found = [*_of_values(source), *_of_lengths(source)]
    return tuple(found)


def _run(source: ModuleSource, inputs: Arrays, steps: list[Step] | None = None, most: int = _ENDLESS) -> Arrays:
    """The outputs of the module under the names of the signature; its path is added to `steps`.

    Raises what it raises, and `_Endless` after `most` steps: a loop may never end on made-up values.
    """
    tensors = as_tensors(inputs, source.signature.inputs)
    with _recording([] if steps is None else steps, most):
        return as_arrays(source.named(run_named(source.module, tensors)))


class _Endless(RuntimeError):
    """A run was given up."""


def _of_lengths(source: ModuleSource) -> Iterator[Probe]:
    example = source.tensors()
    for group in _groups(source):
        name, axis = group.places[0]
        own = int(example[name].shape[axis])
        for length in [1, *other_lengths(own)]:
            try:
                inputs = as_arrays(resized(example, group, length))
                yield Probe(f"a length of {length}", inputs, _run(source, inputs), axis=(name, axis, length, own))
            except (Exception, SystemExit):  # noqa: S112  the model takes some lengths only
                continue


def _groups(source: ModuleSource) -> list[Group]:
    """The free axes by name."""
    found: dict[str, list[tuple[str, int]]] = {}
    for spec in source.signature.inputs:
        for axis, length in enumerate(spec.shape):
            if length < 0:
                name = (spec.dims[axis] if spec.dims else None) or f"{spec.name}_{axis}"
                found.setdefault(name, []).append((spec.name, axis))
    return [Group(name, tuple(places)) for name, places in found.items()]


def _of_values(source: ModuleSource) -> Iterator[Probe]:
    """The example, and of other values the first for each path, with those on the same path that stay moderate.

    A path counts as another one when a second run shows that as well.
    """
    base: list[Step] = []
    _run(source, source.example, most=sys.maxsize)  # what runs once only is on no path
    yield Probe("the example", source.example, _run(source, source.example, base, sys.maxsize))
    most = max(_ENDLESS, 4 * len(base))
    taken = next(iter(_numbers(source)), None)
    seen = {hash(tuple(base))}
    for label, inputs, moderate in _varied(source):
        path, outputs = _path(source, inputs, most)
        if outputs is None:
            continue
        new = hash(tuple(path)) not in seen and hash(tuple(_path(source, inputs, most)[0])) not in seen
        if new and len(seen) <= _MOST_PATHS:
            seen.add(hash(tuple(path)))
            yield Probe(label, inputs, outputs, where=_parting(source, base, path, inputs))
        elif moderate:
            yield Probe(label, inputs, outputs, number=taken)


def _varied(source: ModuleSource) -> Iterator[tuple[str, Arrays, bool]]:
    """Inputs with other values, how they differ, and whether those stay near the example's."""
    specs = source.signature.inputs
    changes = {**_FLOATS, **_WHOLE}
    for label in changes:
        yield label, {spec.name: _changed(spec, source.example[spec.name], label) for spec in specs}, label in _MODERATE
    if len(specs) > 1:
        for spec in specs:
            for label in changes:
                changed = _changed(spec, source.example[spec.name], label)
                if not np.array_equal(changed, source.example[spec.name]):
                    yield f"{label} of {spec.name}", {**source.example, spec.name: changed}, label in _MODERATE


def _changed(spec: TensorSpec, array: Array, label: str) -> Array:
    if spec.dtype == BF16 or not array.size:
        return array
    change = (_FLOATS if spec.kind == "f" else _WHOLE).get(label)
    if change is None:
        return array
    changed = np.ascontiguousarray(change(array).astype(array.dtype))
    if spec.kind != "f" and has_role(spec):  # a row of which nothing counts has no answer
        changed[..., 0] = array.max()
    return changed


def _shuffled(array: Array) -> Array:
    return np.random.default_rng(5).permutation(array.reshape(-1)).reshape(array.shape)


def _with_first(value: float) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        changed = array.copy()
        changed.reshape(-1)[0] = value
        return changed

    return change


_FLOATS: dict[str, Callable[[Array], Array]] = {
    "negated values": np.negative,
    "other values": lambda array: np.random.default_rng(7).standard_normal(array.shape),
    "positive values": np.abs,
    "negative values": lambda array: -np.abs(array),
    "zeros": np.zeros_like,
    "shuffled values": _shuffled,
    "small values": lambda array: array / 100,
    "large values": lambda array: array * 100,
    "huge values": lambda array: array * 1e6,
    "a value that is not a number": _with_first(float("nan")),
    "an infinite value": _with_first(float("inf")),
}
_WHOLE: dict[str, Callable[[Array], Array]] = {
    "negated values": lambda array: ~array if array.dtype == bool else array.max() + array.min() - array,
    "shuffled values": _shuffled,
    "positive values": lambda array: np.full_like(array, array.max()),
    "zeros": lambda array: np.full_like(array, array.min()) if array.dtype != bool else np.zeros_like(array),
    "large values": lambda array: np.full_like(array, array.max()) if array.dtype != bool else np.ones_like(array),
}
"""Whole numbers stay within those of the example, which may be places in a table."""
_MODERATE = {"negated values", "other values", "positive values", "negative values", "shuffled values", "small values"}


# --- paths through the user's code -------------------------------------------------------------------------------


def _path(source: ModuleSource, inputs: Arrays, most: int) -> tuple[list[Step], Arrays | None]:
    """The steps of the user's code in a run, and the outputs; None where it fails."""
    steps: list[Step] = []
    try:
        return steps, _run(source, inputs, steps, most)
    except (Exception, SystemExit):  # the model does not take such values
        return steps, None


@contextmanager
def _recording(steps: list[Step], most: int) -> Iterator[None]:
    taken = 0

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        if event != "call" or not is_user_code(frame.f_code.co_filename):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return step

    def step(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal taken
        taken += event == "opcode"
        if taken > most:
            raise _Endless
        if event == "opcode" and taken <= _LONGEST_PATH:
            steps.append((frame.f_code, frame.f_lasti, frame.f_lineno))
        return step

    before, collecting = sys.gettrace(), gc.isenabled()
    gc.disable()  # finalizers are no steps of the model
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)
        if collecting:
            gc.enable()


def _parting(source: ModuleSource, one: list[Step], other: list[Step], inputs: Arrays) -> Where | None:
    """The line after which two paths differ."""
    different = (place for place, (left, right) in enumerate(zip(one, other, strict=False)) if left != right)
    place = next(different, min(len(one), len(other)))
    if not place:
        return None
    code, _, line = one[place - 1]
    decided = [site for site in _sites(source, inputs).tests if (site.file, site.line) == (code.co_filename, line)]
    return decided[0] if decided else Where("", "", code.co_filename, line)


# --- decisions by values -----------------------------------------------------------------------------------------


def decisions(source: ModuleSource) -> list[Where]:
    """The lines where the values of tensors decide about the outputs: an `if`, a `while`, a number taken out.

    A truth value counts if the outputs differ when it is the opposite one, or if some input was found that takes
    another path there and differs: what only guards against bad values does not. A number counts if outputs depend on
    values in another way than the operators that a trace would keep, which the comparison after the export shows.
    """
    with quietly():
        base = _run(source, source.example, most=sys.maxsize)
        sites = _tests(source)
        counted = [
            site for number, site in enumerate(sites[:_MOST_DECISIONS]) if _matters(source, base, number) is not None
        ]
    parted = [probe.where for probe in probes(source) if probe.where is not None]
    return list(dict.fromkeys([*counted, *(where for where in parted if where in sites and where not in counted)]))


def _matters(source: ModuleSource, base: Arrays, number: int) -> bool | None:
    """True when the outputs differ with the opposite of this truth value; None when they do not, or the model fails."""
    with _watch(source, flip=number):
        try:
            got = _run(source, source.example)
        except (Exception, SystemExit):  # the branch that refuses such values
            return None
    same = all(
        base[name].shape == got[name].shape and np.allclose(base[name], got[name], equal_nan=True) for name in base
    )
    return None if same else True


def _tests(source: ModuleSource) -> list[Where]:
    return _sites(source, source.example).tests  # type: ignore[no-any-return]


def _numbers(source: ModuleSource) -> list[Where]:
    return _sites(source, source.example).numbers  # type: ignore[no-any-return]


def _sites(source: ModuleSource, inputs: Arrays) -> Any:
    """The lines that take truth values (`tests`) or `numbers` out of tensors in a run, as far as it goes."""
    with suppress(Exception), _watch(source) as watch:
        _run(source, inputs, most=sys.maxsize)
    return watch


def _watch(source: ModuleSource, flip: int | None = None) -> Any:
    """A mode that notes where truth values and numbers are taken; `flip` is the number of one to turn round."""
    return _watch_class()(source.module, flip)


@cache
def _watch_class() -> Any:
    from torch.overrides import TorchFunctionMode

    class Watch(TorchFunctionMode):
        """Notes where truth values and numbers are taken out of tensors."""

        def __init__(self, module: torch.nn.Module, flip: int | None) -> None:
            super().__init__()
            self.tests: list[Where] = []
            self.numbers: list[Where] = []
            self._module = module
            self._flip = flip
            self._count = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            name = getattr(func, "__name__", "")
            if name in _NUMBERS:
                self._note(self.numbers)
            if name not in _TESTS or not isinstance(result, bool):
                return result
            where = self._note(self.tests)
            if where is None:
                return result
            self._count += 1
            return not result if self._count - 1 == self._flip else result

        def _note(self, places: list[Where]) -> Where | None:
            where = caller(self._module, sys._getframe(2))
            if where is not None:
                places.append(where)
            return where

    return Watch
