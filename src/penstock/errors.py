"""The errors of Penstock, as one tree.

PenstockError
├── InvalidInput                  the caller's data, reference or argument is wrong; names the field
│   └── OutOfRange                an input or output is outside its expected range
├── ModelNotFound                 no such model, version or alias
├── Forbidden                     the caller's key does not reach the model
├── ModelNotReady                 known, but not answering now: loading, draining, stopped
├── Overloaded                    the queue is full; says when to retry
├── DeadlineExceeded              the caller's deadline passed; the request was dropped
├── ModelLoadError                a model cannot be loaded
│   ├── IntegrityError            a file is missing, altered or outside its artifact
│   ├── UnsupportedFormat         this machine cannot run the format of the model
│   ├── Untrusted                 it can run code, or lacks a signature, and was not trusted
│   └── GoldenMismatch            the model disagrees with its golden samples
├── InferenceError                a run of the model failed
│   ├── OutOfMemory
│   └── WorkerDied                the process that runs the model's code died or hung on the request
└── ConfigError                   a setting is wrong, or the machine does not meet it
    └── DatabaseUnavailable       a database is away, full or damaged; what needs none goes on

Errors have no status codes; `penstock.gateway.problems` maps them to HTTP.
The message of an error is one sentence that names the cause and the fix. It names options as Python arguments; `worded`
gives them the words of another surface.
"""

from __future__ import annotations

import errno
import re
from typing import Literal, NamedTuple

Surface = Literal["python", "cli", "server"]
"""Who reads a message: the author of a call, someone at the command line, or the operator of a server."""

_OPTIONS: dict[str, tuple[str, str]] = {
    "again=True": ("--again", '"again": true'),
    "force=True": ("--force", '"force": true'),
    "prove=False": ("--no-prove", "prove=False"),
    "no_batch=True": ("--no-batch", "PENSTOCK_MODEL_NO_BATCH=true"),
    "batch_axes={…}": ("--batch-axis NAME:AXIS", "PENSTOCK_MODEL_BATCH_AXIS=NAME:AXIS"),
    "example_input=…": ("--example FILE", "PENSTOCK_MODEL_EXAMPLE=FILE"),
    "inputs=[…]": ("--input NAME:TYPE:SHAPE", "PENSTOCK_MODEL_INPUTS=NAME:TYPE:SHAPE"),
    "model=…": ("--model NAME", "model=…"),
    "model_store=…": ("--model-store DIR", "model_store=…"),
    "labels=[…]": ("--labels FILE", "PENSTOCK_MODEL_LABELS=FILE"),
    "out=…": ("--out FILE", "out=…"),
    "payload=…": ("--payload FILE", "payload=…"),
    "plain=True": ("--plain", "plain=True"),
    "preprocess={…}": ("--preprocess FILE", "PENSTOCK_MODEL_PREPROCESS=FILE"),
    'architecture="module:Class"': ("--architecture module:Class", "PENSTOCK_MODEL_ARCHITECTURE=module:Class"),
    "architecture_args={…}": ("--architecture-args '{…}'", "PENSTOCK_MODEL_ARCHITECTURE_ARGS={…}"),
}
"""Arguments of Python, and what they are at the command line and on a server."""
_SETTINGS = {"trust": "PENSTOCK_TRUST", "device": "PENSTOCK_DEVICE", "task": "PENSTOCK_MODEL_TASK"}
_REMEDY = re.compile(
    rf"(?<![\w\"])(?:({'|'.join(map(re.escape, _OPTIONS))})(?!\w)|({'|'.join(_SETTINGS)})=\"([\w:.+-]+)\")"
)


def worded(text: str, surface: Surface) -> str:
    """A message in the words of its reader.

    Messages name an option as a Python argument, `trust="code"`; at the command line that is `--trust code`, and on a
    server `PENSTOCK_TRUST=code`. What is open is written `labels=[…]`.
    """
    if surface == "python" or "=" not in text:
        return text

    def say(match: re.Match[str]) -> str:
        option, name, value = match.groups()
        if option is not None:
            return _OPTIONS[option][surface == "server"]
        return f"--{name} {value}" if surface == "cli" else f"{_SETTINGS[name]}={value}"

    return _REMEDY.sub(say, text)


def shortened(text: str, longest: int = 200) -> str:
    """`text`, cut to `longest` characters and an ellipsis."""
    return text if len(text) <= longest else f"{text[:longest]}…"


def printable(text: str, longest: int | None = None) -> str:
    """`text` on one line, with control characters escaped; cut to `longest` characters when given."""
    plain = text if text.isprintable() else ascii(text)[1:-1]
    return plain if longest is None else shortened(plain, longest)


def quoted(text: object, longest: int = 80) -> str:
    """`text` in quotes, on one line, with control characters escaped, cut to `longest` characters."""
    written = repr(str(text))
    return written if len(written) <= longest else f"{written[:longest]}…'"


def first_line(error: BaseException, longest: int = 200) -> str:
    """The first line of an error's message without its full stop; the error's type when it has no message."""
    lines = str(error).strip().splitlines()
    return shortened(lines[0].rstrip(".") if lines else type(error).__name__, longest)


def type_and_message(error: BaseException, longest: int = 500) -> str:
    """The error's type and its message on one line, for an error of foreign code."""
    return shortened(f"{type(error).__name__}: {' '.join(str(error).split())}", longest)


_DISKS = {
    errno.ENOSPC: "the disk that holds {} is full; free space on it",
    errno.EDQUOT: "the quota on the disk that holds {} is used up; free space or raise the quota",
    errno.EROFS: "the disk that holds {} is mounted read-only; mount it for writing or choose another place",
    errno.EFBIG: "a file on the disk that holds {} would be larger than is allowed; raise the limit (ulimit -f)",
    errno.EIO: "the disk that holds {} does not work (input/output error); check it",
}


def disk_problem(error: BaseException, what: object) -> str | None:
    """The sentence for a disk that takes no more of `what`: full, over quota, read-only, broken; None for others."""
    problem = _DISKS.get(error.errno or 0) if isinstance(error, OSError) else None
    return None if problem is None else problem.format(what)


def is_full(error: OSError) -> bool:
    """True for a disk without room, or without room for this user."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def not_written(error: OSError, what: object) -> str:
    """The sentence for something that cannot be written."""
    return disk_problem(error, what) or f"{what} cannot be written: {error.strerror or error}"


_JSON_WORDS = {
    "valid tuple": "valid list",
    "valid dictionary": "valid object",
    "Tuple": "List",
    "Dictionary": "Object",
    "None": "null",
    "True": "true",
    "False": "false",
}
_PYTHON_WORDS = re.compile(rf"\b({'|'.join(_JSON_WORDS)})\b(?: or instance of \w+)?")


def in_json_words(message: str) -> str:
    """A message of Pydantic about a document, with the words of JSON: list, object, null and true."""
    return _PYTHON_WORDS.sub(lambda found: _JSON_WORDS[found[1]], message)


class FieldError(NamedTuple):
    """One fault in one field of a request; `field` is a path such as `input_data[3]`."""

    field: str
    message: str


class PenstockError(Exception):
    """Root of the tree; `str(error)` is one sentence."""


class InvalidInput(PenstockError):
    """The caller's data is wrong. `errors` lists every faulty field that was found."""

    def __init__(self, message: str, *, field: str | None = None, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message)
        if field is not None and not errors:
            errors = (FieldError(field, message.removeprefix(f"{field}: ")),)
        self.errors = errors


class OutOfRange(InvalidInput):
    """An input or an output of the model is outside its expected range, or not finite."""

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


class Forbidden(PenstockError):
    """The key of the caller does not reach the model."""


class ModelNotReady(PenstockError):
    """The model or the server does not answer now."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(PenstockError):
    """The queue is full. `retry_after_s` estimates when it has room."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(PenstockError):
    """The deadline passed before the answer was ready."""


class ModelLoadError(PenstockError):
    """A model cannot be loaded."""


class IntegrityError(ModelLoadError):
    """A file of an artifact is missing, altered, or leaves its directory."""


class UnsupportedFormat(ModelLoadError):
    """The machine cannot run the format of the model."""


class Untrusted(ModelLoadError):
    """The model can run code, or lacks a signature that is required, and is not trusted."""


class GoldenMismatch(ModelLoadError):
    """The model's outputs for its golden samples differ beyond the recorded tolerance."""


class InferenceError(PenstockError):
    """A run of the model failed."""


class OutOfMemory(InferenceError):
    """A batch of one request does not fit into the memory of the device."""


class WorkerDied(InferenceError):
    """The process that runs the model's code died on a batch twice, or did not come back from it."""


class ConfigError(PenstockError):
    """A setting is wrong, or the machine does not meet it."""


class DatabaseUnavailable(ConfigError):
    """A database is away, full or damaged."""
