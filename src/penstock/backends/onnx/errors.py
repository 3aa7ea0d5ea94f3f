"""Turns the messages of ONNX Runtime, which have many lines and source locations, into one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from penstock.errors import InferenceError, IntegrityError, ModelLoadError, OutOfMemory, UnsupportedFormat, shortened


class _Refusal(NamedTuple):
    """A message of ONNX Runtime and its meaning; the groups of the pattern fill the sentence."""

    pattern: re.Pattern[str]
    error: type[ModelLoadError]
    sentence: str


_REFUSALS = tuple(
    _Refusal(re.compile(pattern), error, sentence)
    for pattern, error, sentence in (
        (
            r"External data path does not exist: \"(?:.*/)?(.*)\"",
            IntegrityError,
            "its external data file {0} is missing; put it next to the model",
        ),
        (
            r"External data path validation failed for initializer: (\S+)\. Error",
            IntegrityError,
            "the external data of {0} is not in the model's directory",
        ),
        (
            r"External initializer: (\S+) offset: .* are out of bounds",
            IntegrityError,
            "the external data file of {0} is shorter than the model needs",
        ),
        (
            r"[Ee]xternal data|kTensorProtoMemoryAddressTag|HasExternalDataInMemory",
            IntegrityError,
            "it points to external data in a way that is not allowed",
        ),
        (
            r"INVALID_PROTOBUF|No graph was found|ModelProto does not have a graph",
            IntegrityError,
            "the file is damaged or not an ONNX model; export or copy it again",
        ),
        (
            r"No Op registered for (\S+) with domain_version of (\d+)",
            UnsupportedFormat,
            "this ONNX Runtime has no operator {0} in opset {1}; export the model with another opset",
        ),
        (
            r"Fatal error: (\S*?):(\w+)\(-?\d+\) is not a registered function/op",
            UnsupportedFormat,
            "it uses the custom operator {0}:{1}, and custom operators are not loaded; export it without",
        ),
        (
            r"Opset (\d+) is under development",
            UnsupportedFormat,
            "this ONNX Runtime does not support opset {0}; export the model with a lower one or update onnxruntime",
        ),
        (
            r"Unsupported model IR version: (\d+), max supported IR version: (\d+)",
            UnsupportedFormat,
            "it has ONNX IR version {0}, this ONNX Runtime reads up to {1}; update onnxruntime",
        ),
        (
            r"Could not find an implementation for (\w+)",
            UnsupportedFormat,
            "this ONNX Runtime has no kernel for the operator {0} with these datatypes",
        ),
    )
)


def load_error(path: Path, message: str) -> ModelLoadError:
    """The error for a model that ONNX Runtime does not load: what is wrong with the file, and what to do."""
    for refusal in _REFUSALS:
        match = refusal.pattern.search(message)
        if match is not None:
            return refusal.error(f"{path}: {refusal.sentence.format(*match.groups())}")
    if _is_memory(message):
        return ModelLoadError(f"{path}: the model does not fit into memory")
    return ModelLoadError(f"{path}: ONNX Runtime could not load the model: {_detail(message)}")


def run_error(error: Exception) -> InferenceError:
    """The error for a run that failed."""
    if isinstance(error, MemoryError) or _is_memory(str(error)):
        return OutOfMemory("the batch does not fit into memory")
    if "terminate flag" in str(error):
        return InferenceError("the run was stopped, since it took too long")
    return InferenceError(f"the model could not run the batch: {_detail(str(error))}")


def _is_memory(message: str) -> bool:
    return re.search(r"Failed to allocate|out of memory|bad_alloc|bad allocation|OUT_OF_MEMORY", message) is not None


_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"|Load model from .*? failed:"
    r"|Status Message: "
    r"|[\w./\\-]+\.(?:cc|h|cpp|cu):\d+ (?:[^()]*\([^()]*(?:\([^()]*\)[^()]*)*\)(?: const)? ?|\w+ )?"
)


def _detail(message: str) -> str:
    """One line of ONNX Runtime's message, without its codes and its source locations."""
    line = " ".join(_NOISE.sub("", message).split()).rstrip(".")
    return shortened(line)
