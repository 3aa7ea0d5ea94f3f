"""`optimize_for_inference`: the fastest form of a model that answers the same, for those who run models themselves."""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.backends.torch.base import quietly, reason
from penstock.backends.torch.eager import has_2d_convolution, lay_out
from penstock.errors import InvalidInput

if TYPE_CHECKING:
    import torch

_RTOL, _ATOL = 1e-3, 1e-5
_TURNS = 9
_LEAST_S = 0.003
"""Runs are repeated for so many seconds at least, so that neither the clock nor the scheduler decides."""


class Call(NamedTuple):
    """One call of the model."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def on(self, model: Callable[..., Any]) -> Any:
        """What the model answers."""
        return model(*self.arguments, **self.keywords)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Call:
        """The same call with every tensor changed."""
        import torch
        from torch.utils import _pytree

        return Call(*_pytree.tree_map_only(torch.Tensor, change, (self.arguments, self.keywords)))


class Attempt(NamedTuple):
    """A way to make a module faster. `worth` is the share of the old time the new one may take at most.

    `lasting`: what it makes is a module that later attempts start from.
    """

    make: Callable[[torch.nn.Module, Call], Any]
    worth: float = 0.95
    lasting: bool = False


def optimize_for_inference(model: torch.nn.Module, example_input: Any, *, compile: bool = True) -> torch.nn.Module:
    """The fastest form of `model` that gives its answers; `model` itself is left as it is.

    `example_input` is a tensor, a tuple of arguments or a dict of keyword arguments. Tried are: norms folded into the
    layers before them, channels last, a frozen trace and, with `compile`, what torch.compile makes of it (which takes
    up to a minute). Each is kept only when it answers the same, also for other values and batch sizes, and is
    measurably faster than what there was. The result's `steps` say what was done, its `skipped` what was not, and why.
    It runs in evaluation and inference mode. Raises InvalidInput when the model does not run on `example_input`.
    """
    import torch

    call = _call(example_input).map(torch.Tensor.clone)
    plain = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.inference_mode(), quietly():
        search = _Search(plain, call)
        for name, attempt in _ATTEMPTS.items():
            if compile or name != "compiled":
                search.attempt(name, attempt)
    optimized: torch.nn.Module = _optimized_class()(search)
    return optimized


class _Search:
    """The best form so far, and how it came about."""

    def __init__(self, plain: torch.nn.Module, call: Call) -> None:
        self.module = plain
        self.best: Any = plain
        self.steps = ["evaluation mode", "no gradients"]
        self.skipped: list[str] = []
        self._call = call
        self._checks = _checks(plain, call)

    def attempt(self, name: str, attempt: Attempt) -> None:
        """Keep what an attempt makes of the module when it answers the same and is faster."""
        try:
            made = attempt.make(self.module, self._call)
            objection = self._objection(made, attempt.worth)
        except Exception as error:  # whatever it is, the form there is stays
            objection = reason(error)
        if objection is not None:
            self.skipped.append(f"{name}: {objection}")
            return
        self.best = made
        self.steps.append(name)
        if attempt.lasting:
            self.module = made

    def _objection(self, made: Callable[..., Any] | None, worth: float) -> str | None:
        import torch

        if made is None:
            return "there is nothing of the kind in the model"
        if not all(_same(answer, call.map(torch.Tensor.clone).on(made)) for call, answer in self._checks):
            return "it gives other answers"
        share = _share(made, self.best, self._call)
        return None if share <= worth else f"it is not faster (it takes {share:.2f} of the time)"


def _call(example: Any) -> Call:
    if isinstance(example, Mapping):
        return Call((), dict(example))
    return Call(tuple(example) if isinstance(example, tuple | list) else (example,), {})


def _checks(plain: torch.nn.Module, call: Call) -> list[tuple[Call, Any]]:
    """Calls with the right answers: the example, other values of its kind, and other batch sizes where it takes them.

    Other values reach other branches: a trace knows only the one that its example went through.
    """
    import torch

    try:
        checks = [(call, call.map(torch.Tensor.clone).on(plain))]
    except Exception as error:
        raise InvalidInput(
            f"example_input: the model does not run on it: {reason(error)}", field="example_input"
        ) from None
    for variation in _VARIATIONS:
        try:
            other = call.map(variation)
            checks.append((other, other.map(torch.Tensor.clone).on(plain)))
        except Exception:  # noqa: S112  the model takes no such input, so there is nothing to compare
            continue
    return checks


def _scaled(by: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor * by if tensor.is_floating_point() else tensor


def _shuffled(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    order = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(0)).to(tensor.device)
    return tensor.flatten()[order].reshape(tensor.shape)


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat([tensor, tensor]) if tensor.ndim else tensor


def _first_row(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:1] if tensor.ndim else tensor


_VARIATIONS: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (
    *(_scaled(factor) for factor in (-1.0, 0.0, 100.0)),
    *(_shuffled, _doubled, _first_row),
)


def _same(expected: Any, got: Any) -> bool:
    from torch.utils import _pytree

    wanted, wanted_tree = _pytree.tree_flatten(expected)
    given, given_tree = _pytree.tree_flatten(got)
    return wanted_tree == given_tree and all(_same_leaf(one, other) for one, other in zip(wanted, given, strict=True))


def _same_leaf(expected: Any, got: Any) -> bool:
    import torch

    if not isinstance(expected, torch.Tensor) or not isinstance(got, torch.Tensor):
        return bool(expected == got)
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return False
    if not expected.is_floating_point():
        return torch.equal(expected, got)
    finite = expected[expected.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
    return torch.allclose(got, expected, rtol=_RTOL, atol=_ATOL * scale, equal_nan=True)


def _share(new: Callable[..., Any], old: Callable[..., Any], call: Call) -> float:
    """The time `new` takes as a share of that of `old`: the median over turns, whose load is the same for both."""
    repeats = max(1, int(_LEAST_S / max(_seconds(old, call, 1), 1e-6)))
    return statistics.median(_seconds(new, call, repeats) / _seconds(old, call, repeats) for _ in range(_TURNS))


def _seconds(model: Callable[..., Any], call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call.on(model)
    _wait_for(call)
    return time.perf_counter() - start


def _wait_for(call: Call) -> None:
    """Until a GPU has done what it was given."""
    import torch
    from torch.utils import _pytree

    if any(isinstance(leaf, torch.Tensor) and leaf.is_cuda for leaf in _pytree.tree_leaves(call)):
        torch.cuda.synchronize()


# --- the attempts -----------------------------------------------------------------------------------------


def _fold_norms(module: torch.nn.Module, _: Call) -> Any:
    import torch
    from torch.fx.experimental import optimization

    norms = torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.BatchNorm3d
    if not any(isinstance(part, norms) for part in module.modules()):
        return None
    return optimization.fuse(module)


def _channels_last(module: torch.nn.Module, _: Call) -> Any:
    import torch

    if not has_2d_convolution(module):
        return None
    laid_out = copy.deepcopy(module)
    lay_out(laid_out, torch.channels_last)
    return _channels_last_class()(laid_out)


def _trace(module: torch.nn.Module, call: Call) -> Any:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
            module,
            example_inputs=None if call.keywords else call.arguments,
            example_kwarg_inputs=call.keywords or None,
            strict=False,
            check_trace=False,
        )
    if any(issubclass(warning.category, torch.jit._trace.TracerWarning) for warning in caught):
        raise ValueError("its answers depend on a choice in Python code, of which a trace keeps one way")
    return torch.jit.freeze(traced)


def _compile(module: torch.nn.Module, _: Call) -> Any:
    import torch

    return torch.compile(module, options={"freezing": not _on_cuda(module.parameters())})


def _on_cuda(parameters: Iterable[torch.nn.Parameter]) -> bool:
    return any(parameter.is_cuda for parameter in parameters)


_ATTEMPTS = {
    "norms folded": Attempt(_fold_norms, worth=1.05, lasting=True),
    "channels last": Attempt(_channels_last, lasting=True),
    "frozen trace": Attempt(_trace),
    "compiled": Attempt(_compile),
}


@cache
def _channels_last_class() -> Any:  # a class of torch.nn.Module, made when torch is needed
    import torch

    class ChannelsLast(torch.nn.Module):
        """Gives four-dimensional inputs to a model in the layout of its weights."""

        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *arguments: Any, **keywords: Any) -> Any:
            return Call(arguments, keywords).map(_with_channels_last).on(self.inner)

    return ChannelsLast


def _with_channels_last(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


@cache
def _optimized_class() -> Any:
    import torch

    class OptimizedModule(torch.nn.Module):
        """The best form of a model; `steps` led to it, `skipped` did not."""

        def __init__(self, search: _Search) -> None:
            super().__init__()
            self.inner = search.best
            self.steps = tuple(search.steps)
            self.skipped = tuple(search.skipped)
            self.training = False

        def forward(self, *arguments: Any, **keywords: Any) -> Any:
            """What the model answers, in inference mode."""
            with torch.inference_mode():
                return self.inner(*arguments, **keywords)

        def train(self, mode: bool = True) -> OptimizedModule:
            """It stays in evaluation mode."""
            if mode:
                raise RuntimeError("a model optimized for inference cannot be trained; train the model it was made of")
            return self

    return OptimizedModule
