"""Every error Penstock raises on purpose, as one tree.

PenstockError
├── InvalidInput                  the caller's data, reference or argument is wrong; names the field
│   └── OutOfRange                a value is outside what the model was made for, or its answer is
├── ModelNotFound                 no such model, version or alias
├── ModelNotReady                 known, but not answering now: loading, draining, stopped
├── Overloaded                    the queue is full; says when to come back
├── DeadlineExceeded              the caller's deadline passed; the work was dropped
├── ModelLoadError                a model could not be brought up
│   ├── IntegrityError            a file is missing, altered or outside its artifact
│   ├── UnsupportedFormat         nothing here can run this form of model
│   ├── Untrusted                 this form of model can run code, and nobody said that it may
│   └── GoldenMismatch            the model disagrees with its golden samples
├── InferenceError                the model failed while it ran
│   ├── OutOfMemory
│   └── WorkerDied
└── ConfigError                   a setting or the machine is not fit to start

These are domain words: no status codes here. `penstock.gateway.problems` maps them onto HTTP.
The message of an error is one sentence meant for the person who can mend the cause.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


def printable(name: str) -> str:
    """A name as a sentence may repeat it: what would break the line is escaped."""
    return name if name.isprintable() else ascii(name)[1:-1]


class FieldError(NamedTuple):
    """One fault in one field of a request; `field` is a path such as `input_data[3]`."""

    field: str
    message: str


class PenstockError(Exception):
    """Root of the tree; `str(error)` is the sentence to show."""


class InvalidInput(PenstockError):
    """The caller's data is wrong. `errors` names every faulty field that was found."""

    def __init__(self, message: str, *, field: str | None = None, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        if field is not None and not errors:
            errors = (FieldError(field, message.removeprefix(f"{field}: ")),)
        self.errors = errors


class OutOfRange(InvalidInput):
    """An input, or what the model answers to it, is outside its expected range or is no finite number."""

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        errors: tuple[FieldError, ...] = (),
        side: Literal["input", "output"] = "input",
        tensor: str = "",
        kind: Literal["below", "above", "not_finite"] = "not_finite",
    ) -> None:
        """`side` is input or output, `kind` below, above or not_finite; the field is the tensor unless given."""
        super().__init__(message, field=field or tensor or None, errors=errors)
        self.side: Literal["input", "output"] = side
        self.tensor = tensor
        self.kind: Literal["below", "above", "not_finite"] = kind


class ModelNotFound(PenstockError):
    """No such model, version or alias."""


class ModelNotReady(PenstockError):
    """The model or the server is known but does not answer now."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(PenstockError):
    """The queue is full. `retry_after_s` estimates when it will have room."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(PenstockError):
    """The caller's deadline passed before the answer was there."""


class ModelLoadError(PenstockError):
    """A model could not be brought up."""


class IntegrityError(ModelLoadError):
    """A file of an artifact is missing, altered, or leaves its directory."""


class UnsupportedFormat(ModelLoadError):
    """Nothing on this machine can run this form of model."""


class Untrusted(ModelLoadError):
    """The model is of a form that can run code of its own, and nobody said that it may."""


class GoldenMismatch(ModelLoadError):
    """The model's answers to its golden samples differ beyond the recorded tolerance."""


class InferenceError(PenstockError):
    """The model failed while it ran."""


class OutOfMemory(InferenceError):
    """A batch of one request does not fit into the device's memory."""


class WorkerDied(InferenceError):
    """The process that ran the model is gone."""


class ConfigError(PenstockError):
    """A setting, or the machine, is not fit to start."""
