"""Runs ONNX models with ONNX Runtime."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.backends.base import (
    Backend,
    BackendOptions,
    InputHints,
    ModelFile,
    empty_outputs,
    no_rows,
    require_file,
    run_in_progress,
)
from penstock.backends.devices import Device
from penstock.backends.onnx.cost import depends_on_rows_only
from penstock.backends.onnx.errors import run_error
from penstock.backends.onnx.hints import read_hints
from penstock.backends.onnx.ports import Port, flatten, names_to_run, ports, run_with_bf16
from penstock.backends.onnx.ranks import without_shape
from penstock.backends.onnx.session import TENSORRT, Opened, open_session
from penstock.backends.onnx.weights import weigh
from penstock.datatypes import BF16, DATATYPES, as_text
from penstock.errors import InferenceError, InvalidInput, ModelLoadError, UnsupportedFormat
from penstock.tensors import Array, Arrays, Signature, TensorSpec, named_dims

if TYPE_CHECKING:
    import onnxruntime

_LOG_FATAL = 4
_SHRINK_FROM_BYTES = 1 << 20
_SHRINK_ABOVE_USUAL = 4
_USUAL_OVER_RUNS = 32


class OnnxBackend(Backend):
    """One ONNX Runtime session, shared by all threads that call `run`."""

    format = "onnx"
    own_threads = True

    def __init__(self, path: Path, opened: Opened, signature: Signature) -> None:
        device, self.warnings = opened.placement
        self.device = str(device)
        self.signature = signature
        self._path = path
        self.num_parameters, self.num_bytes = weigh(path) or (None, None)
        self.own_threads = not opened.shares_threads
        self._session: onnxruntime.InferenceSession | None = opened.session
        wanted = [spec.name for spec in signature.outputs]
        found = ports(path, "output", opened.session.get_outputs())
        self._output_names = names_to_run(found, wanted)
        self._of_maps = {port.name: port for port in found if port.of_map is not None and port.name in wanted}
        types = {spec.name: spec.dtype for spec in (*signature.inputs, *signature.outputs)}
        self._bf16_types = types if BF16 in types.values() else None
        self.metadata = opened.session.get_modelmeta().custom_metadata_map
        self._plain = _run_options()
        self._arena = _arena(device)
        self._shrinking = _run_options(shrink=self._arena)
        self._texts = [spec.name for spec in signature.inputs if spec.dtype == "BYTES"]
        self._usual_bytes = 0.0

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> OnnxBackend:
        """Load the model by its path. Raises IntegrityError, UnsupportedFormat or ModelLoadError naming the file."""
        require_file(file.path)
        opened = open_session(file.path, options)
        signature = _signature(file, opened.session)
        kinds = {spec.dtype for spec in (*signature.inputs, *signature.outputs)}
        if {BF16, "BYTES"} <= kinds:
            raise UnsupportedFormat(f"{file.path}: ONNX Runtime cannot run BF16 and text in one model")
        backend = cls(file.path, opened, signature)
        if options.precision == "fp16" and TENSORRT in opened.session.get_providers():
            backend.lowered_to = "fp16"
        return backend

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name, for one batch that the signature has validated."""
        session = self._session
        if session is None:
            raise InferenceError("the model is closed")
        size = 0
        for array in inputs.values():
            size += array.nbytes
        if not size and no_rows(inputs, self.signature):
            return empty_outputs(self.signature)
        for name in self._texts:  # ONNX Runtime would take the `repr` of bytes
            inputs = {**inputs, name: _text(name, inputs[name])}
        try:
            if self._bf16_types is None:
                outputs = session.run(self._output_names, inputs, self._options_for(size))
            else:
                options = self._options_for(size)
                outputs = run_with_bf16(session, self._output_names, inputs, self._bf16_types, options)
        except Exception as error:
            raise run_error(error) from None
        named = dict(zip(self._output_names, outputs, strict=True))
        return self._flattened(named) if self._of_maps else named

    def _flattened(self, named: dict[str, Any]) -> Arrays:
        whole: Arrays = {}
        for name, value in named.items():
            whole |= {name: value} if isinstance(value, np.ndarray) else flatten(name, value, self._of_maps)
        return {spec.name: whole[spec.name] for spec in self.signature.outputs}

    def input_hints(self) -> InputHints:
        """What the graph says of its inputs."""
        return read_hints(self._path)

    def cost_depends_on_rows_only(self) -> bool:
        """True for a graph without loops, branches and sizes from values, on inputs of fixed lengths and no text."""
        inputs = self.signature.inputs
        fixed = all(spec.row_elements >= 0 and spec.dtype != "BYTES" for spec in inputs)
        return fixed and depends_on_rows_only(self._path)

    def close(self) -> None:
        """Drop the session; its memory is freed when the last run has ended."""
        self._session = None

    def _options_for(self, size: int) -> onnxruntime.RunOptions:
        """Plain options, or options that shrink the arena after a batch far larger than usual (`size` in bytes).

        Without them the memory of one large batch stays allocated until the session closes. Threads may race on the
        running mean, which need not be exact.
        """
        usual = self._usual_bytes
        self._usual_bytes = usual + (size - usual) / _USUAL_OVER_RUNS
        shrinks = size > max(_SHRINK_FROM_BYTES, _SHRINK_ABOVE_USUAL * usual)
        stop = run_in_progress.stop
        if stop is None:
            return self._shrinking if shrinks else self._plain
        options = _run_options(shrink=self._arena if shrinks else None)  # its own: one run is stopped, not all
        stop.how = functools.partial(setattr, options, "terminate", True)
        if stop.asked:
            stop.how()
        return options


def _text(name: str, array: Array) -> Array:
    """A BYTES input as str. Raises InvalidInput naming the tensor and who asks for text."""
    try:
        return as_text(name, array)
    except InvalidInput as error:
        raise InvalidInput(f"{error}, which ONNX Runtime requires", field=name) from None


def _run_options(shrink: str | None = None) -> onnxruntime.RunOptions:
    """Options created once: without any, ONNX Runtime creates them in every run."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.log_severity_level = _LOG_FATAL  # the exception has what it would print
    if shrink is not None:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrink)
    return options


def _arena(device: Device) -> str:
    return f"gpu:{device.number}" if device.kind == "cuda" else "cpu:0"


def _signature(file: ModelFile, session: onnxruntime.InferenceSession) -> Signature:
    """The manifest's signature, checked against the session; for a bare file the session's own."""
    if file.signature is None:
        return _own_signature(file.path, session)
    inputs, outputs = _ports(file.path, session)
    _require_same(file.path, "inputs", file.signature.inputs, inputs)
    named = {spec.name for spec in file.signature.outputs}
    used = [port for port in outputs if port.name in named]  # a file may have more outputs
    _require_same(file.path, "outputs", file.signature.outputs, used or outputs)
    return file.signature.with_dims({port.name: named_dims(port.shape) for port in inputs})


def _ports(path: Path, session: onnxruntime.InferenceSession) -> tuple[list[Port], list[Port]]:
    return ports(path, "input", session.get_inputs()), ports(path, "output", session.get_outputs())


def _own_signature(path: Path, session: onnxruntime.InferenceSession) -> Signature:
    sides = [tuple(port.spec() for port in side) for side in _ports(path, session)]
    single = any(not spec.shape for side in sides for spec in side)
    unranked = without_shape(path) if single else frozenset()
    inputs, outputs = (
        tuple(replace(spec, ranked=bool(spec.shape) or spec.name not in unranked) for spec in side) for side in sides
    )
    return Signature(inputs, outputs)


def _require_same(path: Path, side: str, recorded: tuple[TensorSpec, ...], found: list[Port]) -> None:
    """Names and types must agree, and for inputs every length the graph has fixed; a manifest may fix more.

    The lengths of outputs in a graph are often wrong, and runs do not depend on them.
    """
    given = {value.name: value for value in found}
    fits = _same_type if side == "outputs" else _same_type_and_lengths
    if given.keys() == {spec.name for spec in recorded} and all(fits(spec, given[spec.name]) for spec in recorded):
        return
    wanted = ", ".join(f"{spec.name} {DATATYPES[spec.dtype].onnx} {list(spec.shape)}" for spec in recorded)
    has = ", ".join(f"{value.name} {value.type} {_shape(value)}" for value in found)
    raise ModelLoadError(f"{path}: its manifest says the {side} are {wanted}; the file has {has}")


def _same_type(spec: TensorSpec, value: Port) -> bool:
    return DATATYPES[spec.dtype].onnx == str(value.type)


def _same_type_and_lengths(spec: TensorSpec, value: Port) -> bool:
    shape = _shape(value)
    pairs = zip(shape, spec.shape, strict=False)
    ranks_agree = not shape or len(shape) == len(spec.shape)  # empty: the graph does not record it
    return _same_type(spec, value) and ranks_agree and all(fixed in (-1, length) for fixed, length in pairs)


def _shape(value: Port) -> list[int]:
    """Symbolic and unnamed dimensions are free (-1); fixed ones, including a fixed batch, are unchanged."""
    return [length if isinstance(length, int) else -1 for length in value.shape]
