"""What the operator may set, and where each value came from. The only file that reads the environment.

Precedence, highest first: command line, environment, `.env`, `penstock.toml`, default. Every setting is
`PENSTOCK_<NAME>` in the environment and in `.env`; some answer to a second, well-known name as well.
"""

from __future__ import annotations

import difflib
import io
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, field_validator

from penstock.errors import ConfigError

PREFIX = "PENSTOCK_"
MIN_ADMIN_KEY = 16
"""Characters: a shorter key can be guessed."""
CONFIG_FILE = "penstock.toml"

TABLES = ("models",)
"""Settings that are tables of `penstock.toml`; the environment, which is flat, cannot hold them."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b|b)?", re.IGNORECASE)
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_size(value: int | str) -> int:
    """Bytes from `1048576`, `"16MiB"` or `"4 GB"`; raises ValueError for anything else."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("should be a size such as 16MiB, 4GB or a number of bytes")
    return int(float(match[1]) * _UNITS[match[2].lower()]) if match[2] else int(float(match[1]))


def _number(value: Any) -> Any:
    """Python counts True as 1; a setting does not."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _comma_list(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Whole = Annotated[int, BeforeValidator(_number)]
Size = Annotated[int, BeforeValidator(parse_size), BeforeValidator(_number)]
Policy = Annotated[Literal["off", "count", "warn", "refuse"], BeforeValidator(_lower)]
Millis = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)]


def _field(default: Any, description: str, *, alias: str | None = None, secret: bool = False, **limits: Any) -> Any:
    extra: dict[str, JsonValue] = {"alias": alias, "secret": secret}
    return Field(default, description=description, json_schema_extra=extra, validate_default=False, **limits)


class ModelSettings(BaseModel):
    """`[models.NAME]` in `penstock.toml`: what one model is given in place of the settings of the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: Whole | None = Field(None, ge=1, le=65536)
    max_queue_size: Whole | None = Field(None, ge=1)
    max_queue_bytes: Size | None = Field(None, ge=1)
    max_wait_ms: Millis | None = Field(None, ge=0, le=60_000)
    request_timeout_ms: Millis | None = Field(None, gt=0)


class Settings(BaseModel):
    """Every setting, checked. Its representation masks passwords."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    host: str = _field(
        "127.0.0.1", "Address to listen on; 0.0.0.0 for every interface.", alias="API_HOST", min_length=1
    )
    port: Whole = _field(8002, "Port of the HTTP server; 0 takes a free one.", alias="API_PORT", ge=0, le=65535)
    workers: Whole = _field(1, "Server processes; each holds its own copy of the models.", ge=1, le=256)
    registry: Path = _field(Path("registry"), "Directory of the model registry.")
    database_url: str | None = _field(
        None, "Database of the registry; without it, `registry.db` in the registry.", alias="DATABASE_URL", secret=True
    )
    model_path: Path | None = _field(None, "A bare model file to serve, without a registry.", alias="MODEL_PATH")
    model_type: Annotated[Literal["onnx", "openvino", "torchscript", "pytorch"] | None, BeforeValidator(_lower)] = (
        _field(None, "Format of `model_path`; without it, its suffix tells.", alias="MODEL_TYPE")
    )
    default_model: str | None = _field(None, "Model that answers where a route names none; else the first served.")
    device: Annotated[str, BeforeValidator(_lower)] = _field(
        "auto",
        "Where models run: auto, cpu, cuda, cuda:N or mps.",
        alias="DEVICE",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
    )
    trust: Annotated[Literal["data", "code", "native"], BeforeValidator(_lower)] = _field(
        "data", "What models may be beyond those the registry trusts: data, code (programs) or native (machine code)."
    )
    threads: Whole | None = _field(None, "Threads inside one run; without it, the usable cores.", ge=1, le=1024)
    shared_threads: bool = _field(False, "Run all ONNX models of a process on one pool of threads.")
    batch_size: Whole = _field(32, "Most rows in one run of a model.", alias="BATCH_SIZE", ge=1, le=65536)
    max_queue_size: Whole = _field(512, "Most rows waiting for one model; beyond it, 429.", ge=1)
    max_queue_bytes: Size = _field(
        256 * 2**20, "Most memory of the inputs waiting for one model; beyond it, 429.", ge=1
    )
    max_wait_ms: Millis = _field(0.0, "How long an idle model waits for company; 0 starts at once.", ge=0, le=60_000)
    request_timeout_ms: Millis = _field(
        30_000.0, "Longest a request may take; one that brings a deadline may take less.", gt=0
    )
    use_fp16: bool = _field(False, "Run in half precision where the device gains from it.", alias="USE_FP16")
    enable_onnx_optimization: bool = _field(
        True, "Let ONNX Runtime optimize the graph at load.", alias="ENABLE_ONNX_OPTIMIZATION"
    )
    cache_size: Whole = _field(0, "Answers remembered for equal inputs; 0 remembers none.", alias="CACHE_SIZE", ge=0)
    cache_bytes: Size = _field(0, "Most memory of remembered answers; 256MiB where only `cache_size` is set.", ge=0)
    on_input_range: Policy = _field(
        "count", "What becomes of inputs outside the range a model expects: off, count, warn or refuse."
    )
    on_output_range: Policy = _field("count", "The same of outputs outside their expected range.")
    on_nan_output: Policy = _field(
        "count", "The same of outputs that are NaN or infinite; a classification is refused in any case."
    )
    cache_dir: Path | None = _field(
        None, "Directory that keeps optimized models and choices of variants; without it, `.cache` in the registry."
    )
    choosing: Annotated[Literal["light", "all", "first"], BeforeValidator(_lower)] = _field(
        "light",
        "How a version's fastest variant is found: light (without loading PyTorch for it), all (measure every one), "
        "or first (the simplest that works).",
    )
    max_models: Whole = _field(8, "Most models loaded at once; the least recently used leaves.", ge=1)
    max_bytes: Size | None = _field(None, "Most memory of loaded models; without it, no limit.", ge=1)
    max_body_bytes: Size = _field(16 * 2**20, "Largest request body; beyond it, 413.", ge=1)
    cors_origins: Annotated[tuple[str, ...], BeforeValidator(_comma_list)] = _field(
        (), "Origins whose pages may call the server (comma list), or `*`.", alias="CORS_ORIGINS"
    )
    drain_timeout_s: Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)] = _field(
        30.0, "How long a stopping server waits for requests in flight.", ge=0
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = _field(
        "info", "Least serious message to log."
    )
    log_format: Annotated[Literal["json", "console"], BeforeValidator(_lower)] = _field(
        "json", "One JSON object a line, or lines for people."
    )
    access_log: bool = _field(False, "Log every request.")
    admin_key: str | None = _field(
        None,
        "Key of the routes below /admin; without it they answer only on a loopback address.",
        secret=True,
        min_length=MIN_ADMIN_KEY,
    )

    max_priority: Whole = _field(100, "Highest priority a request may ask for; 0 lets nobody overtake.", ge=0, le=100)
    models: dict[str, ModelSettings] = _field({}, "What single models are given instead, in tables `[models.NAME]`.")

    @field_validator("registry", "model_path", "cache_dir")
    @classmethod
    def _home(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser()

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"(sqlite|postgres|postgresql)(\+\w+)?://", value):
            raise ValueError("should begin with sqlite:// or postgresql://")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ValueError(f"should hold origins such as https://example.org, without a path; {origin!r} is none")
        return value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Names and values as shown to people."""
        return ((name, display(name, getattr(self, name))) for name in type(self).model_fields)


class Given(NamedTuple):
    """One value somebody set: as written, where, and what to call it in a sentence."""

    value: Any
    source: str
    label: str


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings in force and, by name, where each one came from."""

    settings: Settings
    sources: Mapping[str, str]


def alias_of(name: str) -> str | None:
    """The second environment name of a setting, None for most."""
    alias = _extra(name)["alias"]
    return None if alias is None else str(alias)


def display(name: str, value: Any) -> Any:
    """The value as it may be shown to people: passwords masked, tables with what was set in them."""
    if name in TABLES:
        return {key: table.model_dump(exclude_none=True) for key, table in value.items()}
    if value is None or not _extra(name)["secret"]:
        return value
    if name != "database_url":  # of its address only the password is a secret
        return "***"
    masked = re.sub(r"(://[^:@/]*):.*@", r"\1:***@", str(value))
    return re.sub(r"(?i)(password|secret|token)=[^&]*", r"\1=***", masked)


def load_settings(
    overrides: Mapping[str, Any] | None = None,
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> LoadedSettings:
    """Read every source once and check it.

    `overrides` are the command line's values by setting name; None means not given. `penstock.toml` and
    `.env` are looked for in `directory`, the current one unless given. Raises ConfigError with one line
    that names the setting and where it came from.
    """
    where = Path.cwd() if directory is None else directory
    given: dict[str, Given] = {}
    given.update(_from_toml(config_file or where / CONFIG_FILE, required=config_file is not None))
    given.update(_from_names(_read_dotenv(where / ".env"), ".env"))
    given.update(_from_names(os.environ if environ is None else environ, "environment"))
    given.update(_from_command_line(overrides or {}))
    try:
        settings = Settings.model_validate({name: item.value for name, item in given.items()})
    except ValidationError as error:
        raise ConfigError(_sentence(error, given)) from None
    sources = {name: given[name].source if name in given else "default" for name in Settings.model_fields}
    return LoadedSettings(settings, sources)


def suggest(name: str, value: str) -> None:
    """Set a variable that another library reads, unless whoever started this process has set it."""
    os.environ.setdefault(name, value)


def _extra(name: str) -> Mapping[str, Any]:
    extra = Settings.model_fields[name].json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _from_command_line(overrides: Mapping[str, Any]) -> Iterator[tuple[str, Given]]:
    for name, value in overrides.items():
        option = f"--{name.replace('_', '-')}"
        if name not in Settings.model_fields:
            raise ConfigError(f"{option} is not a setting{_near(name, Settings.model_fields)}")
        if value is not None:
            yield name, Given(value, "command line", option)


def _from_names(names: Mapping[str, str | None], place: str) -> Iterator[tuple[str, Given]]:
    """Settings from environment-like names. An empty value counts as not set; PENSTOCK_X goes before its alias."""
    present = {key: value for key, value in names.items() if value and not _set_by_kubernetes(key, value)}
    known = {f"{PREFIX}{name.upper()}": name for name in Settings.model_fields if name not in TABLES}
    for key in present:
        if key.startswith(PREFIX) and key not in known and not key.startswith(tuple(_package_prefixes())):
            raise ConfigError(f"{key} in {_the(place)} is not a setting{_near(key, known, PREFIX)}")
    for full, name in known.items():
        found = next((key for key in (full, alias_of(name)) if key in present), None)
        if found is not None:
            yield name, Given(present[found], f"{place} {found}", f"{found} in {_the(place)}")


def package_settings(package: str, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What an operator has set for a package of models: of `penstock_houses`, PENSTOCK_HOUSES_KEEP_DAYS as `keep_days`.

    From the environment and, below it, `.env`; an empty value counts as not set. Raises ConfigError for a `.env` that
    cannot be read. What the values mean is the package's to check.
    """
    prefix = f"{package.upper()}_"
    everything = {**_read_dotenv(Path.cwd() / ".env"), **(os.environ if environ is None else environ)}
    return {
        key.removeprefix(prefix).lower(): value for key, value in everything.items() if key.startswith(prefix) and value
    }


def _package_prefixes() -> Iterator[str]:
    """How the settings of installed packages begin that are called penstock_…; asked for names that nobody else has."""
    for group in ("penstock.tasks", "penstock.routes", "penstock.artifacts"):
        for point in entry_points(group=group):
            package = point.module.partition(".")[0]
            if package.startswith("penstock_"):
                yield f"{package.upper()}_"


_KUBERNETES = re.compile(r"PENSTOCK_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")


def _set_by_kubernetes(key: str, value: str) -> bool:
    """True for what Kubernetes sets in every pod beside a Service named penstock: PENSTOCK_PORT=tcp://… and others."""
    link = key.startswith(PREFIX) and key.endswith("_PORT") and re.match(r"(tcp|udp|sctp)://", value)
    return bool(link or _KUBERNETES.fullmatch(key))


def _from_toml(path: Path, *, required: bool) -> Iterator[tuple[str, Given]]:
    if not required and not path.exists():
        return
    shown = path.name if path.name == CONFIG_FILE else str(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the configuration cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    for name, value in table.items():
        if name not in Settings.model_fields:
            raise ConfigError(f"{name} in {shown} is not a setting{_near(name, Settings.model_fields)}")
        yield name, Given(value, shown, f"{name} in {shown}")


def _read_dotenv(path: Path) -> Mapping[str, str | None]:
    if not path.is_file():
        return {}
    try:
        return dotenv_values(stream=io.StringIO(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        ) from None


def _the(place: str) -> str:
    return "the environment" if place == "environment" else place


def _near(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Ends a sentence with the nearest name there is, compared without the prefix they all share."""
    matches = difflib.get_close_matches(name.removeprefix(prefix), [key.removeprefix(prefix) for key in known], n=1)
    return f"; did you mean {prefix}{matches[0]}?" if matches else "; docs/settings.md lists them all"


_PLAIN = {
    "int_parsing": "should be a whole number",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "bool_parsing": "should be true or false (1, 0, yes, no, on and off work too)",
    "bool_type": "should be true or false",
    "string_type": "should be text",
    "tuple_type": "should be a comma list, or a list of texts",
    "path_type": "should be a path",
    "finite_number": "should be a finite number",
    "model_type": "should be a table",
    "dict_type": "should be tables, such as [models.digits]",
}
"""Pydantic's error types, in words that fit every source."""


def _sentence(error: ValidationError, given: Mapping[str, Given]) -> str:
    """One line for the first fault: which setting, from where, what it holds and what it should hold."""
    fault = error.errors()[0]
    name = str(fault["loc"][0])
    item = given[name]
    if len(fault["loc"]) > 1 and name in TABLES:
        path = ".".join(map(str, fault["loc"]))
        item = Given(fault["input"], item.source, f"{path} in {item.source}")
        if fault["type"] == "extra_forbidden":
            return f"{item.label} is not a setting{_near(str(fault['loc'][-1]), ModelSettings.model_fields)}"
    wanted = _PLAIN.get(fault["type"]) or fault["msg"].removeprefix("Value error, ").removeprefix(
        "Input "
    ).removeprefix("String ")
    if fault["type"] == "string_pattern_mismatch":
        wanted = "should be auto, cpu, cuda, cuda:N or mps"
    holds = "" if _extra(name)["secret"] else f" is {item.value!r}; it"
    return f"{item.label}{holds} {wanted}"
