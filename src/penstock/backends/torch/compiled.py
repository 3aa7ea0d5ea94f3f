"""`torch.compile` for models that run as Python code: free batch sizes, CUDA graphs, threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.backends.cache_dir import private_directory
from penstock.backends.devices import Device
from penstock.settings import suggest
from penstock.tensors import Signature

if TYPE_CHECKING:
    import torch

_WITH_GRAPHS = ("reduce-overhead", "max-autotune")


class Compiled:
    """A model compiled by `torch.compile`; the first runs compile, in `marking()` for every free length.

    With CUDA graphs all runs happen in one dedicated thread, since a graph belongs to the thread that recorded it, and
    outputs are copied, since the next run writes into the same memory.
    """

    def __init__(self, model: torch.nn.Module, signature: Signature, device: Device, mode: str | None) -> None:
        import torch

        self._compiled = torch.compile(model, options=_options(mode or "default", device))
        free = ((spec.name, [axis for axis, n in enumerate(spec.shape) if n < 0]) for spec in signature.inputs)
        self._free = {name: axes for name, axes in free if axes}
        self._marking = False
        graphs = device.kind == "cuda" and mode in _WITH_GRAPHS
        self._graph_thread = ThreadPoolExecutor(1, thread_name_prefix="cuda-graphs") if graphs else None

    def run(self, tensors: Mapping[str, torch.Tensor], *, by_name: bool) -> Any:
        """The result of the model for its inputs."""
        if self._marking:
            _mark(tensors, self._free)
        if self._graph_thread is not None:
            return self._graph_thread.submit(_graphed, self._compiled, tensors, by_name).result()
        return _call(self._compiled, tensors, by_name)

    @contextmanager
    def marking(self) -> Iterator[None]:
        """Inside, the free axes of the signature are marked dynamic, so that one compilation serves all lengths."""
        self._marking = True
        try:
            yield
        finally:
            self._marking = False

    def close(self) -> None:
        """End the thread of CUDA graphs."""
        if self._graph_thread is not None:
            self._graph_thread.shutdown(wait=False)


def keep_in(directory: Path | None) -> None:
    """Make PyTorch keep compiled kernels in `directory` between starts, unless the environment names another."""
    kept = private_directory(directory / "torchinductor") if directory is not None else None
    if kept is not None:
        suggest("TORCHINDUCTOR_CACHE_DIR", str(kept))


def _options(mode: str, device: Device) -> dict[str, Any]:
    """The options of a mode; on the CPU weights are folded in as constants, which saves up to half of the time."""
    import torch._inductor

    options = dict(torch._inductor.list_mode_options(mode))
    return {**options, "freezing": True} if device.kind == "cpu" else options


def _mark(tensors: Mapping[str, torch.Tensor], free: Mapping[str, list[int]]) -> None:
    import torch._dynamo

    for name, axes in free.items():
        for axis in axes:
            torch._dynamo.maybe_mark_dynamic(tensors[name], axis)


def _call(forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor], by_name: bool) -> Any:
    return forward(**tensors) if by_name else forward(*tensors.values())


def _graphed(forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor], by_name: bool) -> Any:
    import torch
    from torch.utils import _pytree

    with torch.inference_mode():
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        result = _call(forward, tensors, by_name)
        return _pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, result)
