"""Runs PyTorch models as Python code: the class that an artifact names, filled with its weights."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock.backends.base import BackendOptions, ModelFile, require_file
from penstock.backends.devices import Device, torch_placement
from penstock.backends.torch import architecture, state_dict
from penstock.backends.torch.base import (
    PROBE_LENGTH,
    TorchBackend,
    agree,
    load_error,
    probe,
    reason,
    require_numbers,
    set_threads,
)
from penstock.backends.torch.compiled import Compiled, keep_in
from penstock.backends.torch.infer_signature import output_specs, signature_of
from penstock.errors import ModelLoadError
from penstock.libraries import quietly
from penstock.tensors import Signature, TensorSpec

if TYPE_CHECKING:
    import torch

RUNS_AS_PYTHON = "the model runs as Python code; exported to ONNX, or compiled, it is usually faster"
PICKLED = (
    "the file is a pickle of a whole module, whose code ran when it was opened; weights with a class need no trust"
)
_TOLERANCE = 1e-4
_TREE_SPECS = r"`isinstance\(treespec, LeafSpec\)` is deprecated"
"""PyTorch warns of its own class when the module of an exported program is copied."""


class EagerBackend(TorchBackend):
    """One `torch.nn.Module` in evaluation mode, compiled by `torch.compile` when requested."""

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
        model = model.eval().to(str(device))
        if not is_script(model):  # which has no such method
            model.requires_grad_(False)
        super().__init__(model, signature, device, warnings=warnings, pin_memory=pin_memory)
        self._compiled: Compiled | None = None
        self._by_name = takes_names(model, signature)
        self._channels_last = has_2d_convolution(model) and self._try_channels_last(model)

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> EagerBackend:
        """Build the architecture and fill it. Raises ModelLoadError or a subclass, naming the file.

        Sets the threads of PyTorch for the whole process: `options.threads`, or at most the usable cores.
        """
        if file.module is None:
            require_file(file.path)
        if file.signature is None:
            raise ModelLoadError(
                f"{file.path}: the file does not record the model's inputs; describe them "
                "(MODEL_INPUTS=x:FP32:-1,784 or MODEL_EXAMPLE=FILE; `signature` or `example_input` in Python), publish "
                "it with `penstock models import`, or export the model to ONNX"
            )
        require_numbers(file.path, file.signature)
        device, warnings = torch_placement(options.device)
        set_threads(options.threads)
        if file.architecture is None and file.module is None:
            warnings += (PICKLED,)
        model = _model(file, options.trust)
        try:
            backend = cls(model, file.signature, device, warnings=warnings, pin_memory=options.pin_memory)
            backend._lower(options.precision, device)
        except RuntimeError as error:
            raise load_error(file.path, device, error) from None
        backend._compile(options, device)
        return backend

    @classmethod
    def signature_from_example(cls, file: ModelFile, example: Any, trust: str) -> Signature:
        """The signature that the model shows when it runs on `example`; its weights are not needed for that."""
        if file.module is not None:
            return signature_of(file.path, _model(file, trust).eval(), example)
        require_file(file.path)
        if file.architecture is None:
            return signature_of(file.path, state_dict.read_module(file.path, trust).eval(), example)
        recorded = state_dict.read(file.path).arguments
        model = architecture.build(
            file.path, file.architecture, file.architecture_args, recorded=recorded, trust=trust
        ).eval()
        return signature_of(file.path, model, example)

    @classmethod
    def outputs_from_runs(cls, file: ModelFile, inputs: Sequence[TensorSpec], trust: str) -> tuple[TensorSpec, ...]:
        """The outputs that the model gives for these inputs; raises ModelLoadError when it does not run."""
        return output_specs(file.path, _model(file, trust).eval(), inputs, file.example)

    @classmethod
    def module_of(cls, file: ModelFile, trust: str) -> torch.nn.Module:
        """The architecture filled with its weights, or a copy of a live module."""
        return _model(file, trust).eval()

    def _call(self, tensors: dict[str, torch.Tensor]) -> Any:
        compiled = self._compiled
        return super()._call(tensors) if compiled is None else compiled.run(tensors, by_name=self._by_name)

    def close(self) -> None:
        """Drop the model and its compiled form."""
        compiled, self._compiled = self._compiled, None
        super().close()
        if compiled is not None:
            compiled.close()

    def _try_channels_last(self, model: torch.nn.Module) -> bool:
        """Use the channels-last layout, in which convolutions are faster; False when the model does not support it.

        A model that relies on its memory layout (`view` after a convolution) fails in it: one random batch must give
        the same output in both layouts, otherwise the usual layout is restored.
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
        except Exception:  # the model was written for the usual layout
            agreed = False
        if not agreed:
            lay_out(model, torch.contiguous_format)
        return agreed

    def _compile(self, options: BackendOptions, device: Device) -> None:
        """Use the compiled model when its outputs agree; otherwise the model itself, with a warning that says why."""
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
            self.warnings += (f"torch.compile was requested, but {objection}; {RUNS_AS_PYTHON}",)

    def _try_compiled(self, compiled: Compiled) -> str | None:
        """Compile by running batches of several sizes; the reason not to use the result, or None."""
        batches = [probe(self.signature, rows, PROBE_LENGTH + rows) for rows in (3, 2, 1)]
        try:
            expected = [self._run(batch) for batch in batches]
            self._compiled = compiled
            with compiled.marking(), quietly():
                answers = [self._run(batch) for batch in batches]
        except Exception as error:  # the model itself runs
            return f"it could not compile the model ({reason(error)})"
        tolerance = _TOLERANCE if self._half is None else 1e-1
        if not all(agree(one, other, tolerance) for one, other in zip(expected, answers, strict=True)):
            return "the compiled model gives other outputs"
        return None


def _model(file: ModelFile, trust: str) -> torch.nn.Module:
    """A copy of a live module, the class of a file filled with its weights, or the module that a file pickles."""
    if file.module is not None:
        with quietly(_TREE_SPECS):
            module: torch.nn.Module = copy.deepcopy(file.module)
        return module
    if file.architecture is None:
        return state_dict.read_module(file.path, trust)
    checkpoint = state_dict.read(file.path)
    model = architecture.build(
        file.path, file.architecture, file.architecture_args, recorded=checkpoint.arguments, trust=trust
    )
    state_dict.fill(model, checkpoint)
    return model


def is_script(model: torch.nn.Module) -> bool:
    """True for TorchScript, of which Python has no code."""
    import torch

    return isinstance(model, torch.jit.ScriptModule)


def takes_names(model: torch.nn.Module, signature: Signature) -> bool:
    """True when every input is a parameter of `forward` by name; else inputs are passed in signature order."""
    if is_script(model):
        return False
    parameters = inspect.signature(model.forward).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return all(spec.name in parameters and parameters[spec.name].kind in named for spec in signature.inputs)


def lay_out(model: Any, layout: torch.memory_format) -> None:  # Any: the stubs of `to` lack memory_format
    """Convert the weights to a memory layout."""
    model.to(memory_format=layout)


def has_2d_convolution(model: torch.nn.Module) -> bool:
    """True when a layer is faster in the channels-last layout."""
    import torch

    return any(isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d) for module in model.modules())
