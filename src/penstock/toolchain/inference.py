"""`optimize_for_inference`: the fastest form of a PyTorch model with the same outputs."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.backends.torch.base import reason
from penstock.backends.torch.eager import has_2d_convolution, lay_out
from penstock.errors import InvalidInput
from penstock.libraries import quietly, recorded_warnings

if TYPE_CHECKING:
    import torch

_RTOL, _ATOL = 1e-3, 1e-5
_TURNS = 9
_MIN_TIMED_S = 0.003
"""Runs are repeated for at least this time, so that clock resolution and scheduling do not decide."""


class Call(NamedTuple):
    """One call of the model."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def on(self, model: Callable[..., Any]) -> Any:
        """The output of the model."""
        return model(*self.arguments, **self.keywords)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Call:
        """The same call with every tensor changed."""
        import torch
        from torch.utils import _pytree

        return Call(*_pytree.tree_map_only(torch.Tensor, change, (self.arguments, self.keywords)))


class Attempt(NamedTuple):
    """A technique to make a module faster. `max_share` is the share of the old time that the new one may take.

    `lasting`: later attempts start from its result. `exact`: it keeps the outputs of every input by its construction.
    """

    make: Callable[[torch.nn.Module, Call], Any]
    max_share: float = 0.95
    lasting: bool = False
    exact: bool = False


def optimize_for_inference(
    model: torch.nn.Module, example_input: Any = None, *, compile: bool = True
) -> torch.nn.Module:
    """The fastest form of `model` with the same outputs; `model` itself is not changed.

    `example_input` is a tensor, a tuple of arguments or a dict of keyword arguments. It tries to fold norms into the
    layers before them, channels last, a frozen trace and, with `compile`, torch.compile (which takes up to a minute).
    Each is kept only when its outputs agree, also for other values and batch sizes, and it is measurably faster than
    the best so far. Without an example nothing can be compared or measured, and only norms are folded. `steps` of the
    result lists what was done, `skipped` what was not, and why. The result runs in evaluation and inference mode.
    Raises InvalidInput when the model does not run on `example_input`.
    """
    import torch

    plain = copy.deepcopy(model).eval().requires_grad_(False)
    attempts = {name: attempt for name, attempt in _ATTEMPTS.items() if compile or name != "compiled"}
    with torch.inference_mode(), quietly():
        search = _Search(plain, None if example_input is None else _call(example_input).map(torch.Tensor.clone))
        for name, attempt in attempts.items():
            search.attempt(name, attempt)
    optimized: torch.nn.Module = _optimized_class()(search)
    return optimized


class _Search:
    """The best form so far, and the steps that led to it."""

    def __init__(self, plain: torch.nn.Module, call: Call | None) -> None:
        """`call` is an example to compare and measure with."""
        self.module = plain
        self.best: Any = plain
        self.steps = ["evaluation mode", "no gradients"]
        self.skipped: list[str] = []
        self._call = call
        self._checks = [] if call is None else _checks(plain, call)

    def attempt(self, name: str, attempt: Attempt) -> None:
        """Keep the result of an attempt when its outputs agree and it is faster."""
        if self._call is None and not attempt.exact:
            self.skipped.append(f"{name}: it needs an example_input, to compare its outputs and to measure it")
            return
        try:
            made = attempt.make(self.module, self._call or Call((), {}))
            objection = self._objection(made, attempt.max_share)
        except Exception as error:  # the best form so far remains
            objection = reason(error)
        if objection is not None:
            self.skipped.append(f"{name}: {objection}")
            return
        self.best = made
        self.steps.append(name)
        if attempt.lasting:
            self.module = made

    def _objection(self, made: Callable[..., Any] | None, max_share: float) -> str | None:
        import torch

        if made is None:
            return "it does not apply to this model"
        if self._call is None:
            return _doubt(self.module, made)
        if not all(_same(answer, call.map(torch.Tensor.clone).on(made)) for call, answer in self._checks):
            return "its outputs differ"
        share = _share(made, self.best, self._call)
        return None if share <= max_share else f"it is not faster (it takes {share:.2f} of the time)"


def _call(example: Any) -> Call:
    if isinstance(example, Mapping):
        return Call((), dict(example))
    return Call(tuple(example) if isinstance(example, tuple | list) else (example,), {})


def _checks(plain: torch.nn.Module, call: Call) -> list[tuple[Call, Any]]:
    """Calls with their expected outputs: the example, other values, and other batch sizes where the model takes them.

    Other values reach other branches: a trace records only the one that its example took.
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
        except Exception:  # noqa: S112  the model does not take such an input, so there is nothing to compare
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
    """The time of `new` as a share of that of `old`: the median over alternate runs, under the same load."""
    repeats = max(1, int(_MIN_TIMED_S / max(_seconds(old, call, 1), 1e-6)))
    return statistics.median(_seconds(new, call, repeats) / _seconds(old, call, repeats) for _ in range(_TURNS))


def _seconds(model: Callable[..., Any], call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call.on(model)
    _wait_for(call)
    return time.perf_counter() - start


def _wait_for(call: Call) -> None:
    """Wait until the GPU has finished."""
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


def _doubt(module: torch.nn.Module, folded: Any) -> str | None:
    """Why folding norms could change outputs: it runs no hooks, and keeps tensors that `forward` makes from one run."""
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):
        return "the model has hooks; give an example_input to compare with"
    if any(node.op == "get_attr" and "_tensor_constant" in str(node.target) for node in folded.graph.nodes):
        return "its forward creates tensors; give an example_input to compare with"
    return None


def _channels_last(module: torch.nn.Module, _: Call) -> Any:
    import torch

    if not has_2d_convolution(module):
        return None
    laid_out = copy.deepcopy(module)
    lay_out(laid_out, torch.channels_last)
    return _channels_last_class()(laid_out)


def _trace(module: torch.nn.Module, call: Call) -> Any:
    import torch

    with recorded_warnings() as caught:
        traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
            module,
            example_inputs=None if call.keywords else call.arguments,
            example_kwarg_inputs=call.keywords or None,
            strict=False,
            check_trace=False,
        )
    if any(issubclass(warning.category, torch.jit._trace.TracerWarning) for warning in caught):
        raise ValueError("its outputs depend on a branch in Python code, and a trace keeps only one side")
    return torch.jit.freeze(traced)


def _compile(module: torch.nn.Module, _: Call) -> Any:
    import torch

    return torch.compile(module, options={"freezing": not _on_cuda(module.parameters())})


def _on_cuda(parameters: Iterable[torch.nn.Parameter]) -> bool:
    return any(parameter.is_cuda for parameter in parameters)


_ATTEMPTS = {
    "norms folded": Attempt(_fold_norms, max_share=1.05, lasting=True, exact=True),
    "channels last": Attempt(_channels_last, lasting=True),
    "frozen trace": Attempt(_trace),
    "compiled": Attempt(_compile),
}


@cache
def _channels_last_class() -> Any:  # a class of torch.nn.Module, made when torch is needed
    import torch

    class ChannelsLast(torch.nn.Module):
        """Passes four-dimensional inputs to a model in the layout of its weights."""

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
        """The best form of a model; `steps` led to it, `skipped` were not kept."""

        def __init__(self, search: _Search) -> None:
            super().__init__()
            self.inner = search.best
            self.steps = tuple(search.steps)
            self.skipped = tuple(search.skipped)
            self.training = False

        def forward(self, *arguments: Any, **keywords: Any) -> Any:
            """The output of the model, in inference mode."""
            with torch.inference_mode():
                return self.inner(*arguments, **keywords)

        def train(self, mode: bool = True) -> OptimizedModule:
            """Always in evaluation mode."""
            if mode:
                raise RuntimeError("a model optimized for inference cannot be trained; train the original model")
            return self

    return OptimizedModule
