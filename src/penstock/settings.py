"""The settings of a server, and the source of each value. The only file that reads the environment.

Options of models, engine and backends are defined in `penstock.options`; they are settings as well.

Precedence, highest first: command line, environment, `.env`, `penstock.toml`, default. Every setting is
`PENSTOCK_<NAME>` in the environment and in `.env`; some answer to a second, well-known name as well.
"""

from __future__ import annotations

import io
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from dotenv import dotenv_values
from pydantic import field_validator, model_validator
from pydantic_core import ErrorDetails

from penstock.errors import ConfigError
from penstock.option_types import (
    LOWER,
    Expressions,
    Float,
    HeaderList,
    HomePath,
    HostNames,
    Origins,
    Size,
    WebAddress,
    Webhooks,
    Whole,
    Workers,
    expectation,
    masked_address,
)
from penstock.options import ModelOptions, is_secret, option, shown, suggestion
from penstock.setting_groups.access import AccessSettings
from penstock.setting_groups.overload import OverloadSettings
from penstock.setting_groups.python_models import PythonModelSettings
from penstock.setting_groups.trust import TrustSettings

PREFIX = "PENSTOCK_"
MIN_ADMIN_KEY = 16
"""Characters: a shorter key can be guessed."""
CONFIG_FILE = "penstock.toml"

_OWN_FLAGS = ("model_path", "model_type")
"""Settings whose options have the same name; those of other `model_…` settings lack the prefix."""

TABLES = ("models",)
"""Settings that are tables of `penstock.toml`; the environment, which is flat, cannot hold them."""


def is_admin_key(text: str) -> bool:
    """True for a key that is long enough and that every client can send in a header."""
    return len(text) >= MIN_ADMIN_KEY and text.isascii() and text.isprintable() and text == text.strip()


class Settings(AccessSettings, TrustSettings, OverloadSettings, PythonModelSettings):
    """Every setting, checked: the options of the engine and those of the server. Its representation masks passwords."""

    host: str = option(
        "127.0.0.1", "Address to listen on; 0.0.0.0 for every interface.", alias="API_HOST", min_length=1
    )
    port: Whole = option(8002, "Port of the HTTP server; 0 takes a free one.", alias="API_PORT", ge=0, le=65535)
    server: Annotated[Literal["h1", "granian"], LOWER] = option(
        "h1", "HTTP server: h1 (the built-in one, HTTP/1.1) or granian (HTTP/1.1 and HTTP/2)."
    )
    uds: HomePath | None = option(
        None, "Path of a Unix socket to listen on, in place of the address; its user administers without a key."
    )
    root_path: str = option(
        "", "Path under which a proxy serves this server, such as /ml; requests may come with or without it."
    )
    tls_cert: HomePath | None = option(
        None, "Certificate and its chain (PEM): the server then speaks HTTPS; read again at SIGHUP."
    )
    tls_key: HomePath | None = option(None, "Private key of `tls_cert` (PEM), if it is not in the same file.")
    tls_client_ca: HomePath | None = option(
        None, "Certificates (PEM) of which one has to have signed the certificate of a client."
    )
    workers: Workers = option(
        1, "Server processes, each with its own copy of the models; auto for one for each core that may be used."
    )
    registry: HomePath = option(Path("registry"), "Directory of the model registry.")
    model_path: HomePath | None = option(None, "A model file to serve, without a registry.", alias="MODEL_PATH")
    strict: bool = option(
        False, "Refuse to start if any model cannot be served; else the others are served, and readiness names it."
    )
    use_fp16: bool = option(
        False, "Run in half precision where the device gains from it, if `precision` is not set.", alias="USE_FP16"
    )
    max_body_bytes: Size = option(16 * 2**20, "Maximum size of a request body; beyond it, 413.", ge=1)
    compress_from_bytes: Size = option(
        1024, "Least size of a reply that is compressed for a client that asks for it; 0 for none.", ge=0
    )
    max_priority: Whole = option(
        100, "Highest priority a request may set; with 0 all requests have the same.", ge=0, le=100
    )
    cors_origins: Origins = option(
        (), "Origins whose pages may call the server (comma list), or `*`.", alias="CORS_ORIGINS"
    )
    allowed_hosts: HostNames = option(
        (),
        "Host names that requests may be addressed to (comma list), with `*.` for all names below one, or `*` for any; "
        "on a loopback address those of this machine are always allowed.",
    )
    max_connections: Whole = option(
        0, "Maximum open connections of a process; 0 for as many as the limit of open files allows.", ge=0
    )
    max_connections_per_address: Whole = option(0, "Maximum open connections of one client address; 0 for any.", ge=0)
    header_timeout_s: Float = option(
        10.0, "Time for the head of a request, and for the first byte of a new connection.", gt=0
    )
    body_timeout_s: Float = option(
        30.0, "Time in which a body makes progress, at 500 bytes a second at least; also a reply that is read.", gt=0
    )
    keep_alive_s: Float = option(75.0, "Time for which an idle connection stays open between two requests.", gt=0)
    drain_grace_s: Float = option(
        0.0, "Time for which a stopping server still accepts connections, and answers predictions with 503.", ge=0
    )
    drain_timeout_s: Float = option(30.0, "Maximum time a stopping server waits for requests in flight.", ge=0)
    hang_timeout_s: Float = option(
        30.0,
        "Time after which a process ends with exit code 1 if its event loop stands still, or if a run continues that "
        "no request waits for; 0 for never.",
        ge=0,
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LOWER] = option(
        "info", "Lowest level of the messages to log: debug, info, warning or error."
    )
    log_format: Annotated[Literal["json", "console"], LOWER] = option(
        "json", "Format of the log: json (one object a line) or console (for people)."
    )
    access_log: bool = option(False, "Log every request.")
    prediction_stats: bool = option(
        True, "Count predicted classes, confidences and output values for /stats and /metrics."
    )
    drift_window_s: Float = option(
        3600.0, "Length of the windows that are compared with the reference of a model; 0 for no drift.", ge=0
    )
    drift_min_rows: Whole = option(
        500, "Sampled rows that a window needs for a verdict; with fewer it goes on through the next ones.", ge=50
    )
    drift_psi: Float = option(
        0.1, "Least distance from the reference (population stability index) that is an alarm; nearer, a warning.", ge=0
    )
    redact_patterns: Expressions = option(
        (),
        "Regular expressions of what logs must not hold, besides e-mail addresses and the like; the environment holds "
        "one expression, which may have alternatives.",
    )
    alert_webhooks: Webhooks = option(
        (), "Addresses that alerts are sent to (comma list), with the payload of an Alertmanager webhook.", secret=True
    )
    otlp_endpoint: WebAddress | None = option(
        None,
        "Base address of an OpenTelemetry collector (OTLP over HTTP), such as http://localhost:4318: traces of "
        "requests are sent there.",
    )
    otlp_headers: HeaderList | None = option(
        None,
        "Headers for the collector, as name=value (comma list); values may be percent-encoded.",
        alias="OTEL_EXPORTER_OTLP_HEADERS",
        secret=True,
    )
    otlp_service_name: str = option(
        "penstock", "Name of this service in its traces.", alias="OTEL_SERVICE_NAME", min_length=1
    )
    trace_sample: Float = option(
        0.01, "Share of the requests that are traced, unless their caller decides (header traceparent).", ge=0, le=1
    )
    prediction_log: HomePath | None = option(
        None, "Directory that a sample of the predictions is logged to, with their answers; not set for no log."
    )
    prediction_log_sample: Float = option(
        0.01, "Share of the requests that are logged, chosen by the hash of their key or id.", ge=0, le=1
    )
    prediction_log_inputs: Annotated[Literal["none", "sampled", "disagreements"], LOWER] = option(
        "none",
        "Whether inputs are logged as well: none, sampled (of every logged request) or disagreements (of "
        "requests whose copy another version answered otherwise). A manifest may forbid it.",
    )
    prediction_log_bytes: Size = option(
        2**30, "Maximum size of the prediction log; beyond it, its oldest segments are removed.", ge=2**20
    )
    prediction_log_days: Float = option(
        30.0, "Days after which segments of the prediction log are removed.", gt=0, le=36500
    )
    admin_key: str | None = option(
        None,
        "Key of the routes below /admin; the default is one that the first server generates and keeps in `admin.key` "
        "beside the registry's database.",
        secret=True,
        min_length=MIN_ADMIN_KEY,
    )

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"(sqlite|postgres|postgresql)(\+\w+)?://", value):
            raise ValueError("should begin with sqlite:// or postgresql://")
        return value

    @field_validator("root_path")
    @classmethod
    def _below_the_root(cls, value: str) -> str:
        path = value.rstrip("/")
        if path and not re.fullmatch(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+", path):
            raise ValueError("should be a path such as /ml")
        return path

    @field_validator("admin_key")
    @classmethod
    def _sendable(cls, value: str | None) -> str | None:
        if value is not None and not is_admin_key(value):
            raise ValueError("should be printable ASCII characters without spaces at the ends, as headers hold them")
        return value

    @model_validator(mode="after")
    def _half_precision(self) -> Self:
        """`use_fp16` is another way to set `precision`, which alone is read."""
        if self.use_fp16 and "precision" not in self.model_fields_set:
            self.__dict__["precision"] = "fp16"  # the value is still being made; afterwards it is frozen
        return self

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Names and values as shown to people."""
        return ((name, display(name, getattr(self, name))) for name in type(self).model_fields)


NAMES = tuple(dict.fromkeys((*Settings.__annotations__, *Settings.model_fields)))
"""Every setting: the server's own first."""


class Given(NamedTuple):
    """One value that was set: as written, its source, and its label in error messages."""

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
    extra = Settings.model_fields[name].json_schema_extra
    alias = extra["alias"] if isinstance(extra, dict) else None
    return None if alias is None else str(alias)


def display(name: str, value: Any) -> Any:
    """The value with passwords masked; a table as a mapping of what was set in it."""
    if name in TABLES:
        return {key: table.model_dump(exclude_none=True) for key, table in value.items()}
    if name == "alert_webhooks":
        return tuple(map(masked_address, value))
    return shown(name, Settings.model_fields[name], value)


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
    values = {name: item.value for name, item in given.items()}
    settings = Settings.model_validate(values, context=lambda fault: _sentence(fault, given))
    sources = {name: given[name].source if name in given else "default" for name in NAMES}
    return LoadedSettings(settings, sources)


def environment_of_workers() -> dict[str, str]:
    """The variables for processes that run user code: all but Penstock's own, which may hold keys."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def taken_from_environment(*names: str) -> list[str]:
    """The values of variables that are meant for this process alone: they are removed, so that no child has them."""
    return [os.environ.pop(name, "") for name in names]


def environment() -> dict[str, str]:
    """A copy of the environment, for the settings of another server."""
    return dict(os.environ)


def suggest(name: str, value: str) -> None:
    """Set an environment variable that another library reads, unless it is set already."""
    os.environ.setdefault(name, value)


def _from_command_line(overrides: Mapping[str, Any]) -> Iterator[tuple[str, Given]]:
    for name, value in overrides.items():
        flag = f"--{(name if name in _OWN_FLAGS else name.removeprefix('model_')).replace('_', '-')}"
        if name not in Settings.model_fields:
            raise ConfigError(f"{flag} is not a setting{suggestion(name, Settings.model_fields)}")
        if value is not None:
            yield name, Given(value, "command line", flag)


def _from_names(names: Mapping[str, str | None], place: str) -> Iterator[tuple[str, Given]]:
    """Settings from environment names. An empty value counts as not set; PENSTOCK_X takes precedence over its alias."""
    present = {key: value for key, value in names.items() if value and not _set_by_kubernetes(key, value)}
    known = {f"{PREFIX}{name.upper()}": name for name in Settings.model_fields if name not in TABLES}
    for key in present:
        if key.startswith(PREFIX) and key not in known and not key.startswith(tuple(_package_prefixes())):
            raise ConfigError(f"{key} in {_the(place)} is not a setting{suggestion(key, known, PREFIX)}")
    for full, name in known.items():
        found = next((key for key in (full, alias_of(name)) if key in present), None)
        if found is not None:
            yield name, Given(present[found], f"{place} {found}", f"{found} in {_the(place)}")


def package_settings(package: str, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The settings of a plugin package: for `penstock_houses`, PENSTOCK_HOUSES_KEEP_DAYS as `keep_days`.

    From the environment and, below it, `.env`; an empty value counts as not set. The package checks the values.
    Raises ConfigError for a `.env` that cannot be read.
    """
    prefix = f"{package.upper()}_"
    everything = {**_read_dotenv(Path.cwd() / ".env"), **(os.environ if environ is None else environ)}
    return {
        key.removeprefix(prefix).lower(): value for key, value in everything.items() if key.startswith(prefix) and value
    }


def _package_prefixes() -> Iterator[str]:
    """Prefixes of the settings of installed packages named penstock_…; looked up for unknown names only."""
    for group in ("penstock.tasks", "penstock.routes", "penstock.artifacts"):
        for point in entry_points(group=group):
            package = point.module.partition(".")[0]
            if package.startswith("penstock_"):
                yield f"{package.upper()}_"


_KUBERNETES = re.compile(r"PENSTOCK_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")


def _set_by_kubernetes(key: str, value: str) -> bool:
    """True for variables that Kubernetes sets in a namespace with a Service named penstock: PENSTOCK_PORT=tcp://…."""
    link = key.startswith(PREFIX) and key.endswith("_PORT") and re.match(r"(tcp|udp|sctp)://", value)
    return bool(link or _KUBERNETES.fullmatch(key))


def _from_toml(path: Path, *, required: bool) -> Iterator[tuple[str, Given]]:
    if not required and not path.exists():
        return
    label = path.name if path.name == CONFIG_FILE else str(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the configuration cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    for name, value in table.items():
        if name not in Settings.model_fields:
            raise ConfigError(f"{name} in {label} is not a setting{suggestion(name, Settings.model_fields)}")
        yield name, Given(value, label, f"{name} in {label}")


def _read_dotenv(path: Path) -> Mapping[str, str | None]:
    if not path.is_file():
        return {}
    try:
        return dotenv_values(stream=io.StringIO(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"{path} cannot be read: {why}") from None


def _the(place: str) -> str:
    return "the environment" if place == "environment" else place


def _sentence(fault: ErrorDetails, given: Mapping[str, Given]) -> str:
    """One line: which setting is wrong, where it was set, what it holds and what it should hold."""
    name = str(fault["loc"][0])
    item = given[name]
    if len(fault["loc"]) > 1 and name in TABLES:
        path = ".".join(map(str, fault["loc"]))
        item = Given(fault["input"], item.source, f"{path} in {item.source}")
        if fault["type"] == "extra_forbidden":
            return f"{item.label} is not a setting{suggestion(str(fault['loc'][-1]), ModelOptions.model_fields)}"
    holds = "" if is_secret(Settings.model_fields[name]) else f" is {item.value!r}; it"
    return f"{item.label}{holds} {expectation(fault)}"
