"""How models run, as one frozen value: each field is a setting, a Python argument and what a backend receives.

`Settings` and `InferenceConfig` are `EngineOptions`, and `EngineOptions` are `BackendOptions`. The value that was read
at the edge is passed on unchanged, down to `Backend.open`; `override` replaces fields of it for one load. A new option
is a field here and the code that uses it; the rows of `formats` name it if it changes which variant is the fastest. The
keywords below the fields serve type checkers and editors only.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, Self, TypedDict, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from penstock.errors import ConfigError
from penstock.file_description import (
    FileDescription,
    labels_of,
    parse_arguments,
    parse_batch_axes,
    preprocess_of,
    tensor_list,
)
from penstock.formats import FORMATS, TIERS
from penstock.option_types import (
    LOWER,
    DeviceName,
    FileList,
    Float,
    HomePath,
    OptionalSize,
    Size,
    Whole,
    expectation,
    masked_database,
    one_of,
    parse_size,
    without_users,
    written_as,
)
from penstock.tensors import Signature

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")

Effort = Literal["light", "all", "first"]
"""How much a load may spend to find the fastest variant.

`light` leaves out what would bring PyTorch (seconds, 250 MB) into a process that does without it, and opens no further
variant after two seconds. `all` measures every variant. `first` takes the first that works and measures nothing.
"""

RangeAction = Literal["off", "count", "warn", "refuse"]

Action = Annotated[RangeAction, LOWER]


def option(default: Any, description: str, *, alias: str | None = None, secret: bool = False, **limits: Any) -> Any:
    """A field: its default, one sentence for help and docs, a second environment name, and pydantic's limits."""
    extra: dict[str, JsonValue] = {"alias": alias, "secret": secret}
    return Field(default, description=description, json_schema_extra=extra, validate_default=False, **limits)


def suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence about an unknown name: the nearest known one, compared without their common prefix."""
    matches = difflib.get_close_matches(name.removeprefix(prefix), [key.removeprefix(prefix) for key in known], n=1)
    return f"; did you mean {prefix}{matches[0]}?" if matches else "; docs/settings.md lists them all"


def is_secret(field: FieldInfo) -> bool:
    """True for a field whose value is never shown."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra["secret"] is True


def shown(name: str, field: FieldInfo, value: Any) -> Any:
    """The value for people: a secret is masked, and so are users and passwords in addresses."""
    if value is None or not is_secret(field):
        return without_users(value)
    return masked_database(str(value)) if name == "database_url" else "***"


class Options(BaseModel):
    """A frozen value that is checked when it is made.

    Raises ConfigError naming the field for a value out of range, and TypeError with the nearest name for an unknown
    one. The context of `model_validate` may be a function that writes the sentence from pydantic's error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), defer_build=True)

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, values: Any, validate: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if isinstance(values, Mapping):
            check_names(cls.__name__, values, cls.model_fields)
        sentence: Callable[[ErrorDetails], str] = info.context or cls._sentence
        try:
            return validate(values)
        except ValidationError as error:
            raise ConfigError(without_users(sentence(error.errors()[0]))) from None

    @classmethod
    def _sentence(cls, fault: ErrorDetails) -> str:
        """What is wrong with a value given in Python."""
        name = str(fault["loc"][0])
        path = ".".join(map(str, fault["loc"])) if name == "models" else name
        value = "the value" if is_secret(cls.model_fields[name]) else repr(fault["input"])
        return f"{path}: {value} {expectation(fault)}"

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Names and values as shown to people."""
        return ((name, shown(name, field, getattr(self, name))) for name, field in type(self).model_fields.items())

    def override(self, **changes: Any) -> Self:
        """The same options with some fields replaced. Raises ConfigError or TypeError, as the constructor does."""
        checked = type(self)(**changes)
        return self.model_copy(update={name: getattr(checked, name) for name in changes})


class BackendOptions(Options):
    """How a model runs on this machine: what `Backend.open` receives."""

    device: DeviceName = option("auto", "Where models run: auto, cpu, cuda, cuda:N or mps.", alias="DEVICE")
    precision: Annotated[str, LOWER, one_of(PRECISIONS)] = option(
        "fp32", "Precision: fp32, fp16 or bf16 (where the device gains from it), or int8 (variants that hold it)."
    )
    trust: Annotated[str, LOWER, one_of(TIERS)] = option(
        "data",
        "Models that may be opened besides those the registry trusts: data, code (programs) or native (machine code).",
    )
    threads: Whole | None = option(
        None, "Threads inside one run; the default is the number of usable cores.", ge=1, le=1024
    )
    shared_threads: bool = option(False, "Run all ONNX models of a process on one thread pool.")
    enable_onnx_optimization: bool = option(
        True, "Let ONNX Runtime optimize the graph at load.", alias="ENABLE_ONNX_OPTIMIZATION"
    )
    pin_memory: bool = option(True, "Copy inputs to a CUDA device from page-locked memory.")
    use_compile: bool = option(False, "Compile eager PyTorch models with torch.compile.")
    compile_mode: Annotated[str, LOWER, one_of(COMPILE_MODES)] | None = option(
        None, f"Mode of torch.compile: {', '.join(COMPILE_MODES)}."
    )
    cache_dir: HomePath | None = option(
        None, "Directory for optimized models and variant selections; the default is `.cache` in the registry."
    )
    unproven: Annotated[Literal["allow", "refuse"], LOWER] = option(
        "allow", "Models that no example input runs with: allow (load them with a warning) or refuse."
    )
    not_batchable: Annotated[Literal["serve", "refuse"], LOWER] = option(
        "serve", "Models whose rows are not shown to be independent: serve (each request alone) or refuse."
    )


class ModelOptions(BaseModel):
    """`[models.NAME]` in `penstock.toml`: options of one model, in place of those of the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    batch_size: Whole | None = Field(None, ge=1, le=65536)
    max_queue_size: Whole | None = Field(None, ge=1)
    max_queue_bytes: Size | None = Field(None, ge=1)
    max_wait_ms: Float | None = Field(None, ge=0, le=60_000)
    request_timeout_ms: Float | None = Field(None, gt=0)


class EngineOptions(BackendOptions):
    """How an engine, a manager or a predictor runs models. Rows are those of all requests together."""

    model_path: str | Path | None = option(None, "A model file to serve, without a registry.", alias="MODEL_PATH")
    model_type: Annotated[str, LOWER, one_of(FORMATS)] | None = option(
        None, "Format of `model_path`; the default follows from its suffix and content.", alias="MODEL_TYPE"
    )
    model_task: str | None = option(
        None, "Kind of task of a model file, such as vector-classification; the default follows from the file."
    )
    model_labels: HomePath | None = option(
        None, "Text file with the names of a model file's classes, one a line; it is a classifier then."
    )
    model_preprocess: HomePath | None = option(
        None, "JSON file with the configuration of a model file's task, or with its list of steps."
    )
    model_example: HomePath | None = option(
        None, "File (.npz, .npy, .json) with an input that a model file runs with.", alias="MODEL_EXAMPLE"
    )
    model_inputs: (
        Annotated[str, written_as(tensor_list, "inputs such as x:FP32:-1,3,32,32, several separated by spaces")] | None
    ) = option(
        None,
        "Inputs of a model file that does not record them, such as `x:FP32:-1,3,32,32`; separated by spaces.",
        alias="MODEL_INPUTS",
    )
    model_architecture: str | None = option(
        None, "Class that a file of weights fills, as `module:Class`.", alias="MODEL_ARCHITECTURE"
    )
    model_architecture_args: Annotated[str, written_as(parse_arguments, "a JSON object")] | None = option(
        None, "Arguments of that class's constructor, a JSON object."
    )
    model_batch_axis: Annotated[str, written_as(parse_batch_axes, "axes by name, such as x:0,h:1")] | None = option(
        None, "Batch axis of a model file's inputs and outputs by name, such as `x:0,h:1`."
    )
    model_no_batch: bool = option(False, "A model file has no batch axis: each request is one run.")
    default_model: str | None = option(
        None, "Model that answers requests that name none; the default is the first one served."
    )
    registry: str | Path | None = option(None, "Directory of the model registry.")
    database_url: str | None = option(
        None,
        "Database of the registry; the default is `registry.db` in the registry.",
        alias="DATABASE_URL",
        secret=True,
    )
    require_signed: FileList = option(
        (),
        "Public keys (PEM) and identities (JSON), a comma list of files; one of them has to have signed every model.",
    )
    batch_size: Whole = option(32, "Maximum rows in one run of a model.", alias="BATCH_SIZE", ge=1, le=65536)
    max_queue_size: Whole = option(512, "Maximum rows that wait for one model; beyond it, 429.", ge=1)
    max_queue_bytes: Size = option(
        256 * 2**20, "Maximum memory of the inputs that wait for one model; beyond it, 429.", ge=1
    )
    max_wait_ms: Float = option(
        0.0, "Maximum time an idle model waits to fill a batch; 0 dispatches at once.", ge=0, le=60_000
    )
    use_dynamic_batching: bool = option(True, "Let several requests share one run of a model.")
    request_timeout_ms: Float = option(
        30_000.0, "Deadline of a request that sets none, and the maximum for one that does.", gt=0
    )
    cache_size: Whole = option(0, "Maximum cached answers to equal inputs; 0 caches none.", alias="CACHE_SIZE", ge=0)
    cache_bytes: Size = option(0, "Maximum memory of cached answers; 256MiB if only `cache_size` is set.", ge=0)
    on_input_range: Action = option(
        "count", "Action on inputs outside the range a model expects: off, count, warn or refuse."
    )
    on_output_range: Action = option(
        "count", "Action on outputs outside their expected range: off, count, warn or refuse."
    )
    on_nan_output: Action = option(
        "count",
        "Action on NaN or infinite outputs: off, count, warn or refuse; classification always refuses them.",
    )
    choosing: Annotated[Effort, LOWER] = option(
        "light",
        "How the fastest variant of a version is selected: light (never imports PyTorch just to measure), "
        "all (measures every variant) or first (the simplest that works).",
    )
    max_models: Whole = option(8, "Maximum loaded models; the least recently used is evicted.", ge=1)
    max_bytes: OptionalSize = option(None, "Maximum memory of loaded models; the default is no limit.")
    models: dict[str, ModelOptions] = option({}, "Options of single models, in tables `[models.NAME]`.")

    @classmethod
    def of(cls, config: EngineOptions | Mapping[str, Any] | None) -> EngineOptions:
        """The options as given, from a mapping of their names, or the defaults. Raises ConfigError or TypeError."""
        return config if isinstance(config, EngineOptions) else cls(**(config or {}))

    @property
    def byte_budget(self) -> int | None:
        """`max_bytes` as a number."""
        return None if self.max_bytes is None else parse_size(self.max_bytes)

    @property
    def default_ref(self) -> str | None:
        """The reference of the model that answers requests that name none."""
        return self.default_model if self.model_path is None else str(self.model_path)

    @property
    def file_description(self) -> FileDescription:
        """What the options state about model files. Raises ConfigError for a file that cannot be read."""
        return FileDescription(
            task=self.model_task,
            labels=labels_of(self.model_labels) if self.model_labels else (),
            preprocess=preprocess_of(self.model_preprocess) if self.model_preprocess else {},
            example=self.model_example,
            batch_axes=parse_batch_axes(self.model_batch_axis or ""),
            no_batch=self.model_no_batch,
            signature=Signature(tensor_list(self.model_inputs), ()) if self.model_inputs else None,
            architecture=self.model_architecture,
            architecture_args=parse_arguments(self.model_architecture_args or "{}"),
        )


class BackendKeywords(TypedDict, total=False):
    """The fields of BackendOptions as keywords; None leaves an option as it is."""

    device: str | None
    precision: str | None
    trust: str | None
    threads: int | None
    shared_threads: bool | None
    enable_onnx_optimization: bool | None
    pin_memory: bool | None
    use_compile: bool | None
    compile_mode: str | None
    cache_dir: Path | None
    unproven: Literal["allow", "refuse"] | None
    not_batchable: Literal["serve", "refuse"] | None


class EngineKeywords(BackendKeywords, total=False):
    """The fields of EngineOptions as keywords, but for `registry`; None leaves an option as it is."""

    model_path: str | Path | None
    model_type: str | None
    model_task: str | None
    model_labels: Path | None
    model_preprocess: Path | None
    model_example: Path | None
    model_inputs: str | None
    model_architecture: str | None
    model_architecture_args: str | None
    model_batch_axis: str | None
    model_no_batch: bool | None
    default_model: str | None
    database_url: str | None
    require_signed: str | Path | Sequence[str | Path] | None
    batch_size: int | None
    max_queue_size: int | None
    max_queue_bytes: int | None
    max_wait_ms: float | None
    use_dynamic_batching: bool | None
    request_timeout_ms: float | None
    cache_size: int | None
    cache_bytes: int | None
    on_input_range: RangeAction | None
    on_output_range: RangeAction | None
    on_nan_output: RangeAction | None
    choosing: Effort | None
    max_models: int | None
    max_bytes: int | str | None
    models: Mapping[str, ModelOptions] | None


def given(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that were given: those that are not None."""
    return {name: value for name, value in keywords.items() if value is not None}


_NAMES_ELSEWHERE = {
    "batch_timeout": "max_wait_ms, in milliseconds",
    "batch_timeout_ms": "max_wait_ms",
    "compile": "use_compile",
    "dtype": 'precision, such as precision="fp16"',
    "half": 'precision="fp16"',
    "max_batch_size": "batch_size",
    "max_batch_delay": "max_wait_ms, in milliseconds",
    "max_latency_ms": "max_wait_ms",
    "num_threads": "threads",
    "optimize_model": "use_compile=True, or `optimizations` of Predictor; optimize_for_inference() takes a module",
    "quantize": 'optimizations=["quantization"] of Predictor',
    "queue_size": "max_queue_size",
    "timeout": "request_timeout_ms, in milliseconds",
    "use_fp16": 'precision="fp16"',
}
"""Names that other tools and older code use, and the option that does the same here."""


def check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises TypeError for a name that is not known, with the one that does the same or the nearest."""
    known = set(known)
    for name in names:
        if name not in known:
            same = f"; use {_NAMES_ELSEWHERE[name]}" if name in _NAMES_ELSEWHERE else suggestion(name, known)
            raise TypeError(f"{what}() has no option {name!r}{same}")


_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def also_named(**names: str) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """Let callers give an argument by another name as well: `also_named(data="values")` accepts `data=`."""

    def add(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        @functools.wraps(function)
        def call(*args: _Parameters.args, **keywords: _Parameters.kwargs) -> _Result:
            for other in names.keys() & keywords.keys():
                own = names[other]
                if own in keywords:
                    raise TypeError(f"{function.__name__}() got {other!r} and {own!r}, which are one argument")
                keywords[own] = keywords.pop(other)
            return function(*args, **keywords)

        return call

    return add


_Callable = TypeVar("_Callable", bound=Callable[..., Any])


def with_option_help(keywords: Any) -> Callable[[_Callable], _Callable]:
    """Add the description of each backend option, and of each of these keywords, to a docstring."""
    accepted = {*BackendOptions.model_fields, *keywords.__annotations__}
    names = [name for name in EngineOptions.model_fields if name in accepted]
    lines = "\n".join(f"    {name}: {EngineOptions.model_fields[name].description}" for name in names)

    def add(function: _Callable) -> _Callable:
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:\n{lines}\n"
        return function

    return add
