"""The free axes of a module's inputs: which were requested, which of them share a length, and what outputs follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from penstock.errors import InvalidInput, first_line
from penstock.tensors import Signature
from penstock.toolchain.export.exported import ExportFailed

if TYPE_CHECKING:
    import torch

Tensors: TypeAlias = "dict[str, torch.Tensor]"
Run: TypeAlias = "Callable[[Tensors], Tensors]"
Place: TypeAlias = tuple[str, int]
"""An input and the number of one of its axes."""
Dynamic: TypeAlias = Mapping[str, Sequence[int] | Mapping[int, str | None]]
"""The free axes by input: their numbers, or their names by number."""
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

BATCH = "batch"
_LEAST = 2
"""Exporters take a length of 0 or 1 for a constant."""


class Group(NamedTuple):
    """Free axes that have one length in a request. `asked`: the user named them; else it is the default batch."""

    name: str
    places: tuple[Place, ...]
    asked: bool = True


@dataclass(frozen=True)
class FreeAxes:
    """What runs of a module show: its free axes, an example that is long enough to export, and the outputs."""

    groups: tuple[Group, ...]
    example: Tensors
    outputs: Tensors
    output_dims: Mapping[str, tuple[int | str, ...]]
    """By output: fixed lengths, and for a free axis the name of the group that it follows, or its own."""
    notes: tuple[str, ...] = ()

    def dims_of(self, name: str) -> tuple[int | str, ...]:
        """The axes of an input: fixed lengths, and the names of the free ones."""
        free = {axis: group.name for group in self.groups for input, axis in group.places if input == name}
        return tuple(free.get(axis, length) for axis, length in enumerate(self.example[name].shape))


def requested_axes(dynamic: Dynamic | None, shapes: Shapes) -> dict[str, dict[int, str | None]]:
    """The free axes by input, with their names where they have some.

    An input that `dynamic` does not name has a free axis 0, if that is as long as axis 0 of the first input, else the
    first axis of that length: `[2, batch, 128]`. Raises InvalidInput naming an input or axis that does not exist.
    """
    rows = next((shape[0] for shape in shapes.values() if shape), 0)
    asked: dict[str, dict[int, str | None]] = {}
    for name, axes in (dynamic or {}).items():
        if name not in shapes:
            raise _fault(f"the model has no input {name!r}; it takes {', '.join(shapes)}")
        asked[name] = _checked(name, axes, len(shapes[name]))
    with_rows = [name for name in asked if 0 in asked[name] and shapes[name][0] == rows]
    batch = next((label for name in with_rows if (label := asked[name][0])), BATCH)
    for name in with_rows:
        asked[name][0] = asked[name][0] or batch
    return {
        name: asked.get(name, {shape.index(rows): batch} if rows in shape else {}) for name, shape in shapes.items()
    }


def _checked(name: str, axes: Sequence[int] | Mapping[int, str | None], rank: int) -> dict[int, str | None]:
    given = dict(axes) if isinstance(axes, Mapping) else dict.fromkeys([axes] if isinstance(axes, int) else axes)
    checked: dict[int, str | None] = {}
    for axis, label in given.items():
        if type(axis) is not int or not -rank <= axis < rank:
            raise _fault(f"{name} has no axis {axis!r}; it has {rank} axes, counted from 0")
        if label is not None and not (isinstance(label, str) and label.isidentifier()):
            raise _fault(f"{name}: {label!r} is no name for an axis; use letters, digits and underscores")
        checked[axis % rank] = label
    return checked


def _fault(text: str) -> InvalidInput:
    return InvalidInput(f"dynamic: {text}", field="dynamic")


def measure(run: Run, example: Tensors, dynamic: Dynamic | None) -> FreeAxes:
    """Try each requested axis at other lengths.

    Raises InvalidInput naming a requested axis of which the module takes one length only. A batch that was not
    requested and of which that is true is fixed, with a note.
    """
    requested = requested_axes(dynamic, {name: tuple(tensor.shape) for name, tensor in example.items()})
    groups = _named(requested, example, dynamic)
    unnamed = [(name, axis) for name, axes in requested.items() for axis, label in axes.items() if label is None]
    found = _Trials(run, example)
    for group in groups:
        found.free(group)
    for places in _of_one_length(unnamed, example):
        for group in found.split(places):
            found.free(group)
    return found.result()


def _named(requested: Mapping[str, Mapping[int, str | None]], example: Tensors, dynamic: Dynamic | None) -> list[Group]:
    by_name: dict[str, list[Place]] = {}
    for name, axes in requested.items():
        for axis, label in axes.items():
            if label is not None:
                by_name.setdefault(label, []).append((name, axis))
    for label, places in by_name.items():
        _require_one_length(label, places, example)
    asked = dynamic or {}
    return [Group(label, tuple(places), any(name in asked for name, _ in places)) for label, places in by_name.items()]


def _require_one_length(label: str, places: Sequence[Place], example: Tensors) -> None:
    lengths: dict[int, Place] = {}
    for name, axis in places:
        lengths.setdefault(example[name].shape[axis], (name, axis))
    if len(lengths) > 1:
        (one, (name, axis)), (other, (second, place)) = list(lengths.items())[:2]
        raise _fault(
            f"{label}: axis {axis} of {name} has the length {one} in the example, axis {place} of {second} has "
            f"{other}; axes of one name have one length"
        )


def _of_one_length(places: Sequence[Place], example: Tensors) -> Iterator[list[Place]]:
    lengths = [example[name].shape[axis] for name, axis in places]
    for length in dict.fromkeys(lengths):
        yield [place for place, own in zip(places, lengths, strict=True) if own == length]


class _Trials:
    """Runs of one module at several lengths."""

    def __init__(self, run: Run, example: Tensors) -> None:
        self._run = run
        self._example = example
        self._groups: list[Group] = []
        self._notes: list[str] = []
        self._seen: list[tuple[dict[str, int], Tensors]] = []

    def split(self, places: list[Place]) -> Iterator[Group]:
        """Groups of axes without names whose length is one in the example: those that change alone, then the others."""
        alone = [place for place in places if len(places) == 1 or self._runs((place,))]
        yield from (Group(self._name(place), (place,)) for place in alone)
        together = tuple(place for place in places if place not in alone)
        if together:
            yield Group(self._name(together[0]), together)

    def _name(self, place: Place) -> str:
        taken = {group.name for group in self._groups}
        return "length" if "length" not in taken else f"{place[0]}_{place[1]}"

    def _runs(self, places: tuple[Place, ...]) -> bool:
        return any(outcome is None for _, outcome in self._outcomes(Group("", places)))

    def _outcomes(self, group: Group) -> Iterator[tuple[int, Exception | None]]:
        for length in other_lengths(_length(group, self._example)):
            try:
                self._run(resized(self._example, group, length))
            except (Exception, SystemExit) as error:  # of the user's module
                yield length, error if isinstance(error, Exception) else RuntimeError("it ends the process")
            else:
                yield length, None

    def free(self, group: Group) -> None:
        """Add a group, whose axes are grown for the export. Raises InvalidInput for one of a single length."""
        failure: tuple[int, Exception] | None = None
        for length, error in self._outcomes(group):
            if error is None:
                self._add(group, length)
                return
            failure = failure or (length, error)
        if failure is not None:
            self._refuse(group, *failure)

    def _add(self, group: Group, works: int) -> None:
        self._groups.append(group)
        if _length(group, self._example) < _LEAST:
            self._example = resized(self._example, group, max(works, _LEAST))

    def _refuse(self, group: Group, length: int, error: Exception) -> None:
        name, axis = group.places[0]
        own = _length(group, self._example)
        if group.asked:
            raise _fault(
                f"the model does not run with another length of axis {axis} of {name} ({length} instead of {own}): "
                f"{first_line(error)}; leave that axis out{self._others(group, own)}"
            )
        self._notes.append(
            f"axis {axis} of {name} keeps the length {own}: with {length} the model does not run ({first_line(error)})"
        )

    def _others(self, group: Group, length: int) -> str:
        """A hint at axes of the same length that are not free, which the module may want to change together."""
        taken = {place for each in (*self._groups, group) for place in each.places}
        same = [
            f"axis {axis} of {name}"
            for name, tensor in self._example.items()
            for axis, own in enumerate(tensor.shape)
            if own == length and (name, axis) not in taken
        ]
        return f", or free {' and '.join(same)} too" if same else ""

    def result(self) -> FreeAxes:
        """What was found; the outputs of some more runs give the axes that are free there."""
        outputs = self._run(self._example)
        seen = [(self._lengths(self._example), outputs), *self._longer()]
        dims = {name: _dims(name, seen) for name in outputs}
        return FreeAxes(tuple(self._groups), self._example, outputs, dims, tuple(self._notes))

    def _longer(self) -> Iterator[tuple[dict[str, int], Tensors]]:
        for group in self._groups:
            for length in other_lengths(_length(group, self._example))[:2]:
                changed = resized(self._example, group, length)
                try:
                    yield self._lengths(changed), self._run(changed)
                except (Exception, SystemExit):  # noqa: S112  the module takes some lengths only
                    continue

    def _lengths(self, example: Tensors) -> dict[str, int]:
        return {group.name: _length(group, example) for group in self._groups}


def _dims(name: str, seen: Sequence[tuple[Mapping[str, int], Tensors]]) -> tuple[int | str, ...]:
    """Fixed lengths of an output, and for those that change the group with the same lengths, else a name of its own."""
    shapes = [outputs[name].shape for _, outputs in seen]
    if len({len(shape) for shape in shapes}) > 1:
        raise InvalidInput(f"example_input: the number of axes of the output {name!r} depends on the input's lengths")
    dims: list[int | str] = []
    for axis, lengths in enumerate(zip(*shapes, strict=True)):
        followed = (
            group for group in seen[0][0] if all(at[group] == n for (at, _), n in zip(seen, lengths, strict=True))
        )
        own = f"{name}_{axis}"
        dims.append(lengths[0] if len(set(lengths)) == 1 else next(followed, own))
    return tuple(dims)


def _length(group: Group, example: Tensors) -> int:
    name, axis = group.places[0]
    return int(example[name].shape[axis])


def other_lengths(length: int) -> list[int]:
    """Lengths to try instead of this one; not 1, which a fixed length broadcasts with."""
    lengths = (length + 1, 2 * length, length - 1, length + 2)
    return [n for n in dict.fromkeys(lengths) if n > 1 and n != length]


def resized(example: Tensors, group: Group, length: int) -> Tensors:
    """The example with another length of these axes, its values repeated or cut."""
    import torch

    changed = dict(example)
    for name, axis in group.places:
        tensor = changed[name]
        index = torch.arange(length) % max(tensor.shape[axis], 1)
        changed[name] = tensor.index_select(axis, index)
    return changed


def free_lengths(dims: Mapping[str, Sequence[int | str]]) -> list[str]:
    """The names of free axes, each once."""
    return list(dict.fromkeys(one for one in chain.from_iterable(dims.values()) if isinstance(one, str)))


def require_free(signature: Signature, obtained: Sequence[Sequence[int | str]], exporter: str) -> None:
    """Compare the free axes of a signature with the shapes that an exporter recorded, in the order of the inputs.

    Raises ExportFailed naming the input, the axis and the length that it was frozen to.
    """
    symbols: dict[str, str] = {}
    for spec, shape in zip(signature.inputs, obtained, strict=True):
        for axis, (length, got) in enumerate(zip(spec.shape, shape, strict=True)):
            if length < 0 and isinstance(got, int):
                raise ExportFailed(
                    f"{exporter} froze axis {axis} of {spec.name} to the length {got}, and it was asked to be dynamic; "
                    "take the length from the input's shape, or leave that axis out of dynamic"
                )
            if length < 0 and isinstance(got, str):
                name = (spec.dims[axis] if spec.dims else None) or f"{spec.name}_{axis}"
                other = symbols.setdefault(got, name)
                if other != name:
                    raise ExportFailed(
                        f"{exporter} gave the axes {other} and {name} one length; give them one name in dynamic if the "
                        "model needs that"
                    )
