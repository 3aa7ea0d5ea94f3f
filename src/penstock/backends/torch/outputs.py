"""The outputs of a PyTorch model whose file records none: read from two runs that differ in every free length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.backends.base import ModelFile
from penstock.backends.torch import architecture, state_dict
from penstock.backends.torch.base import reason, spec_of
from penstock.errors import ModelLoadError, UnsupportedFormat
from penstock.scan.gate import require_allowed
from penstock.scan.scanner import scan_file
from penstock.tensors import Arrays, TensorSpec

if TYPE_CHECKING:
    import torch


def output_specs(format: str, file: ModelFile, batches: Sequence[Arrays], trust: str) -> tuple[TensorSpec, ...]:
    """What the model gives for each of `batches`, as one: lengths that differ among them are free.

    Inputs are given in the order of a batch. Outputs are named by the keys the model returns, else `output`, or
    `output_0`, `output_1`, … Raises UnsupportedFormat where nothing can be tried, Untrusted, and ModelLoadError when
    the model cannot be loaded or does not run.
    """
    load = _LOADERS.get(format)
    if load is None:
        raise UnsupportedFormat(
            f"{file.path}: a file of the format {format} does not record its outputs; describe them"
        )
    require_allowed(scan_file(file.path, format), trust)
    model = load(file, trust)
    try:
        results = [_named(_run(model, batch)) for batch in batches]
        return _merged([[spec_of(name, value.dtype, value.shape) for name, value in one.items()] for one in results])
    except Exception as error:
        raise ModelLoadError(f"{file.path}: the model does not run on the inputs described: {reason(error)}") from None


def _eager(file: ModelFile, trust: str) -> torch.nn.Module:
    if file.architecture is None:
        raise ModelLoadError(f"{file.path}: weights alone do not say which class they fill; name its architecture")
    checkpoint = state_dict.read(file.path)
    arguments = file.architecture_args
    model = architecture.build(file.path, file.architecture, arguments, recorded=checkpoint.arguments, trust=trust)
    state_dict.fill(model, checkpoint)
    return model.eval()


def _script(file: ModelFile, _trust: str) -> torch.nn.Module:
    import torch

    from penstock.backends.torch.torchscript import quietly

    with quietly():
        try:
            model: Any = torch.jit.load(file.path, map_location="cpu")  # type: ignore[no-untyped-call]
        except Exception as error:
            raise ModelLoadError(f"{file.path}: PyTorch cannot load it as TorchScript: {reason(error)}") from None
    if hasattr(model, "training"):  # a frozen one has lost it
        model.eval()
    return model  # type: ignore[no-any-return]


_LOADERS: dict[str, Callable[[ModelFile, str], torch.nn.Module]] = {"pytorch": _eager, "torchscript": _script}


def _run(model: torch.nn.Module, batch: Arrays) -> Any:
    import torch

    with torch.inference_mode():
        return model(*(torch.from_numpy(array.copy()) for array in batch.values()))


def _named(result: Any) -> dict[str, torch.Tensor]:
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    values = list(result) if isinstance(result, tuple | list) else [result]
    names = ["output"] if len(values) == 1 else [f"output_{number}" for number in range(len(values))]
    return dict(zip(names, values, strict=True))


def _merged(runs: Sequence[Sequence[TensorSpec]]) -> tuple[TensorSpec, ...]:
    return tuple(_free_where_they_differ(specs) for specs in zip(*runs, strict=True))


def _free_where_they_differ(specs: Sequence[TensorSpec]) -> TensorSpec:
    lengths = zip(*(spec.shape for spec in specs), strict=True)
    shape = tuple(several[0] if len(set(several)) == 1 else -1 for several in lengths)
    return TensorSpec(specs[0].name, specs[0].dtype, shape)
