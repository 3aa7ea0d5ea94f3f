"""Runs TorchScript, the format that `torch.jit.trace` and `torch.jit.script` save.

PyTorch has deprecated it; it stays here for existing models. Its programs can read and write files: the catalog opens
them only when code is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.backends.base import BackendOptions, ModelFile, require_file
from penstock.backends.devices import torch_placement
from penstock.backends.torch.base import TorchBackend, load_error, reason, require_numbers, set_threads
from penstock.backends.torch.infer_signature import output_specs, signature_of
from penstock.backends.torch.pt2_archive import open_archive
from penstock.errors import InferenceError, ModelLoadError, UnsupportedFormat
from penstock.libraries import quietly
from penstock.tensors import Signature, TensorSpec

if TYPE_CHECKING:
    import torch

_DEPRECATED = r"`torch\.jit\.\w+` is"
"""The operator of a server did not choose the format."""


class TorchScriptBackend(TorchBackend):
    """One frozen script module."""

    format = "torchscript"
    _plain: Mapping[str, int] = {}
    """The parameters that are plain numbers, with their places."""

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> TorchScriptBackend:
        """Load an archive. Raises ModelLoadError or a subclass, naming the file.

        TorchScript records the names of inputs but neither types nor shapes, so the signature comes from the manifest.
        Sets the threads of PyTorch for the whole process.
        """
        require_file(file.path)
        signature = _require_signature(file)
        device, warnings = torch_placement(options.device)
        set_threads(options.threads)
        with quietly(_DEPRECATED):
            try:
                module = _load(file.path).to(str(device))
                backend = cls(module, signature, device, warnings=warnings, pin_memory=options.pin_memory)
            except RuntimeError as error:
                raise load_error(file.path, device, error) from None
            backend._by_name = _takes_names(file.path, module, signature)
            backend._plain = _plain_numbers(module)
            backend._lower(options.precision, device)
            backend._freeze()
            backend._require_signature(file.path)
        return backend

    @classmethod
    def signature_from_example(cls, file: ModelFile, example: Any, trust: str) -> Signature:  # noqa: ARG003
        """The signature that the program shows when it runs on `example`."""
        with quietly(_DEPRECATED):
            program = _Program(_load(file.path))
            return signature_of(file.path, program, example, program.names)

    @classmethod
    def outputs_from_runs(
        cls,
        file: ModelFile,
        inputs: Sequence[TensorSpec],
        trust: str,  # noqa: ARG003
    ) -> tuple[TensorSpec, ...]:
        """The outputs that the program gives for these inputs; raises ModelLoadError when it does not run."""
        with quietly(_DEPRECATED):
            return output_specs(file.path, _Program(_load(file.path)), inputs, file.example)

    def _call(self, tensors: dict[str, torch.Tensor]) -> Any:
        if not self._plain:
            return super()._call(tensors)
        return super()._call(_with_numbers(tensors, self._plain, by_name=self._by_name))

    def _freeze(self) -> None:
        """Turn weights and attributes into constants, which lets PyTorch fold operations on them."""
        import torch

        module: Any = self._model
        if hasattr(module, "training"):  # missing in a module that was saved frozen, which cannot be frozen again
            self._model = torch.jit.freeze(module)


class _Program:
    """A program that takes tensors for all its parameters, in their order."""

    def __init__(self, module: Any) -> None:
        self.names = [parameter.name for parameter in module.forward.schema.arguments[1:]]
        self._module = module
        self._plain = _plain_numbers(module)

    def __call__(self, *tensors: torch.Tensor) -> Any:
        given = dict(enumerate(tensors))
        return self._module(*_with_numbers(given, self._plain, by_name=False).values())


def _plain_numbers(module: Any) -> dict[str, int]:
    """The parameters that take an int, float or bool and no tensor, with their places."""
    parameters = module.forward.schema.arguments[1:]
    return {one.name: place for place, one in enumerate(parameters) if str(one.type) in ("int", "float", "bool")}


def _with_numbers(tensors: dict[Any, torch.Tensor], plain: Mapping[str, int], *, by_name: bool) -> dict[Any, Any]:
    """The arguments; a parameter that takes a plain number gets that of all rows. Raises InferenceError."""
    wanted = {*plain} if by_name else {list(tensors)[place] for place in plain.values() if place < len(tensors)}
    return {name: _number(name, tensor) if name in wanted else tensor for name, tensor in tensors.items()}


def _number(name: Any, tensor: torch.Tensor) -> Any:
    values = set(tensor.reshape(-1).tolist())
    if len(values) != 1:
        raise InferenceError(f"{name} is one number for all rows of a run, not {len(values)}")
    return values.pop()


def _require_signature(file: ModelFile) -> Signature:
    with open_archive(file.path, "constants.pkl", "a TorchScript archive"):
        pass
    if file.signature is None:
        raise UnsupportedFormat(
            f"{file.path}: TorchScript does not record the types and shapes of its inputs; publish it as an artifact "
            "with its signature, or export the model to ONNX or .pt2"
        )
    require_numbers(file.path, file.signature)
    return file.signature


def _load(path: Path) -> Any:
    import torch

    try:
        module: Any = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # mostly RuntimeError; an invalid archive may raise anything
        raise ModelLoadError(f"{path}: PyTorch cannot load it as TorchScript: {reason(error)}") from None
    return module.eval() if hasattr(module, "training") else module


def _takes_names(path: Path, module: Any, signature: Signature) -> bool:
    """True when every input is a parameter of the program by name; else inputs are passed in signature order.

    Raises ModelLoadError when the program takes another number of inputs.
    """
    parameters = module.forward.schema.arguments[1:]  # the first is the module itself
    required = [parameter.name for parameter in parameters if not parameter.has_default_value()]
    given = {spec.name for spec in signature.inputs}
    if not len(required) <= len(given) <= len(parameters):
        names = ", ".join(parameter.name for parameter in parameters)
        raise ModelLoadError(f"{path}: its signature has {len(given)} inputs, the program takes {names or 'none'}")
    return set(required) <= given <= {parameter.name for parameter in parameters}
