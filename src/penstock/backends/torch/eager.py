"""Runs PyTorch models as Python code: the architecture an artifact names, filled with its weights."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from penstock.backends.base import BackendOptions, ModelFile, require_file
from penstock.backends.devices import Device, torch_placement
from penstock.backends.torch import architecture, state_dict
from penstock.backends.torch.base import (
    TRIED_LENGTH,
    TorchBackend,
    agree,
    load_error,
    probe,
    quietly,
    reason,
    require_numbers,
    set_threads,
)
from penstock.backends.torch.compiled import Compiled, keep_in
from penstock.errors import ModelLoadError
from penstock.tensors import Signature

if TYPE_CHECKING:
    import torch

RUNS_AS_PYTHON = "the model runs as Python code; exported to ONNX, or compiled, it is usually faster"
_TOLERANCE = 1e-4


class EagerBackend(TorchBackend):
    """One `torch.nn.Module` in evaluation mode, or what `torch.compile` made of it."""

    format = "pytorch"

    def __init__(
        self,
        model: torch.nn.Module,
        signature: Signature,
        device: Device,
        *,
        warnings: tuple[str, ...] = (),
        pin_memory: bool = False,
    ) -> None:
        model = model.eval().requires_grad_(False).to(str(device))
        super().__init__(model, signature, device, warnings=warnings, pin_memory=pin_memory)
        self._compiled: Compiled | None = None
        self._by_name = takes_names(model, signature)
        self._channels_last = has_2d_convolution(model) and self._try_channels_last(model)

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> EagerBackend:
        """Build the architecture and fill it. Raises ModelLoadError or a child of it, naming the file.

        Sets the threads of PyTorch, which are the whole process's, to `options.threads` or at most the
        usable cores.
        """
        require_file(file.path)
        if file.signature is None or file.architecture is None:
            raise ModelLoadError(
                f"{file.path}: weights alone say neither the class they fill nor its inputs; "
                "give `architecture` and `signature` or `example_input` in Python, publish them with "
                "`penstock models import`, or export the model to ONNX"
            )
        require_numbers(file.path, file.signature)
        device, warnings = torch_placement(options.device)
        set_threads(options.threads)
        model = _filled(file, file.architecture, options.trust)
        try:
            backend = cls(model, file.signature, device, warnings=warnings, pin_memory=options.pin_memory)
            backend._lower(options.precision, device)
        except RuntimeError as error:
            raise load_error(file.path, device, error) from None
        backend._compile(options, device)
        return backend

    def _call(self, tensors: dict[str, torch.Tensor]) -> Any:
        compiled = self._compiled
        return super()._call(tensors) if compiled is None else compiled.run(tensors, by_name=self._by_name)

    def close(self) -> None:
        """Drop the model and what was compiled of it."""
        compiled, self._compiled = self._compiled, None
        super().close()
        if compiled is not None:
            compiled.close()

    def _try_channels_last(self, model: torch.nn.Module) -> bool:
        """Lay the weights out with channels last, which convolutions run faster in, and say whether it holds.

        A model that takes its memory layout for granted (`view` after a convolution) fails in it: so one
        random batch must give the same answer in both, and else the usual layout stays.
        """
        import torch

        batch = probe(self.signature, rows=2)
        if batch is None:
            return False
        try:
            expected = self._run(batch)
            lay_out(model, torch.channels_last)
            self._channels_last = True
            agreed = agree(expected, self._run(batch), _TOLERANCE)
        except Exception:  # whatever it is, the usual layout is what the model was written for
            agreed = False
        if not agreed:
            lay_out(model, torch.contiguous_format)
        return agreed

    def _compile(self, options: BackendOptions, device: Device) -> None:
        """Run what `torch.compile` makes of the model where it answers the same; else the model, and say why."""
        model = self._model
        if not options.use_compile or model is None:
            self.warnings += (RUNS_AS_PYTHON,)
            return
        keep_in(options.cache_dir)
        with quietly():
            compiled = Compiled(model, self.signature, device, options.compile_mode)
        objection = self._try_compiled(compiled)
        if objection is not None:
            self._compiled = None
            compiled.close()
            self.warnings += (f"torch.compile was asked for, {objection}; {RUNS_AS_PYTHON}",)

    def _try_compiled(self, compiled: Compiled) -> str | None:
        """Compile by running batches of several sizes; what speaks against the result, or None."""
        batches = [probe(self.signature, rows, TRIED_LENGTH + rows) for rows in (3, 2, 1)]
        try:
            expected = [self._run(batch) for batch in batches]
            self._compiled = compiled
            with compiled.marking(), quietly():
                answers = [self._run(batch) for batch in batches]
        except Exception as error:  # whatever it is, the model itself runs
            return f"it could not compile the model ({reason(error)})"
        tolerance = _TOLERANCE if self._half is None else 1e-1
        if not all(agree(one, other, tolerance) for one, other in zip(expected, answers, strict=True)):
            return "what it made of the model gives other answers"
        return None


def _filled(file: ModelFile, of: str | type, trust: str) -> torch.nn.Module:
    checkpoint = state_dict.read(file.path)
    model = architecture.build(file.path, of, file.architecture_args, recorded=checkpoint.arguments, trust=trust)
    state_dict.fill(model, checkpoint)
    return model


def takes_names(model: torch.nn.Module, signature: Signature) -> bool:
    """True when every input is a parameter of `forward` by name; else they are given in signature order."""
    parameters = inspect.signature(model.forward).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return all(spec.name in parameters and parameters[spec.name].kind in named for spec in signature.inputs)


def lay_out(model: Any, layout: torch.memory_format) -> None:  # Any: no stub of `to` knows memory_format
    """Put the weights into a memory layout."""
    model.to(memory_format=layout)


def has_2d_convolution(model: torch.nn.Module) -> bool:
    """True when a layer gains from its channels coming last."""
    import torch

    return any(isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d) for module in model.modules())
