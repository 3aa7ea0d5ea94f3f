"""Runs TorchScript, the format that `torch.jit.trace` and `torch.jit.script` save.

PyTorch has deprecated it; it stays here for existing models. Its programs can read and write files: the catalog opens
them only when code is trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.backends.base import BackendOptions, ModelFile, require_file
from penstock.backends.devices import torch_placement
from penstock.backends.torch.base import TorchBackend, load_error, reason, require_numbers, set_threads
from penstock.backends.torch.infer_signature import output_specs
from penstock.backends.torch.pt2_archive import open_archive
from penstock.backends.torch.quiet import quietly
from penstock.errors import ModelLoadError, UnsupportedFormat
from penstock.tensors import Arrays, Signature, TensorSpec

_DEPRECATED = r"`torch\.jit\.\w+` is"
"""The operator of a server did not choose the format."""


class TorchScriptBackend(TorchBackend):
    """One frozen script module."""

    format = "torchscript"

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
            backend._lower(options.precision, device)
            backend._freeze()
            backend._require_signature(file.path)
        return backend

    @classmethod
    def outputs_from_runs(
        cls,
        file: ModelFile,
        batches: Sequence[Arrays],
        trust: str,  # noqa: ARG003
    ) -> tuple[TensorSpec, ...]:
        """The outputs that the program gives for `batches`; raises ModelLoadError when it does not run."""
        with quietly(_DEPRECATED):
            return output_specs(file.path, _load(file.path), batches)

    def _freeze(self) -> None:
        """Turn weights and attributes into constants, which lets PyTorch fold operations on them."""
        import torch

        module: Any = self._model
        if hasattr(module, "training"):  # missing in a module that was saved frozen, which cannot be frozen again
            self._model = torch.jit.freeze(module)


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
