"""Types of options: what their values look like in text, and the sentence for a value that is none."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import ErrorDetails

from penstock.patterns import checked_pattern

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


_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(us|µs|ms|s|m|min|h)?", re.IGNORECASE)
_LONGEST_S = 366 * 86400.0
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_duration(value: float | str, unit: str = "s") -> float:
    """Seconds from `"20ms"`, `"90s"`, `"2m"` or `"1.5h"`; a number alone counts in `unit`.

    Raises ValueError for anything else, and for what is not positive.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("should be a time such as 20ms, 90s or 2m")
    match = _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("should be a time such as 20ms, 90s or 2m")
    seconds = float(match[1]) * _SECONDS[(match[2] or unit).lower()]
    if not 0 < seconds < _LONGEST_S:
        raise ValueError("should be longer than 0 and shorter than a year")
    return seconds


_RATE = re.compile(r"(\d{1,9})/(\d{0,6})(s|min|m|h|d)", re.IGNORECASE)
_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Rate(NamedTuple):
    """So many requests in so many seconds; also how many may come at once."""

    requests: int
    seconds: float


def parse_rate(text: str) -> Rate:
    """The rate of `600/m`, `10/s` or `100/10s`. Raises ValueError for anything else, and for none."""
    match = _RATE.fullmatch(text.replace(" ", ""))
    count, every = (0, 0) if match is None else (int(match[1]), int(match[2] or 1))
    if match is None or not count or not every:
        raise ValueError("should be a number of requests in a time, such as 600/m or 10/s")
    return Rate(count, every * _PERIODS[match[3][0].lower()])


_SPAN = re.compile(r"(\d{1,9})([smhdw])", re.IGNORECASE)
_SPANS = _PERIODS | {"w": 7 * 86400.0}
_LONGEST_SPAN_S = 100 * 366 * 86400.0


def parse_span(text: str) -> float:
    """Seconds from `90s`, `15m`, `12h`, `30d` or `8w`. Raises ValueError for anything else."""
    match = _SPAN.fullmatch(text.replace(" ", ""))
    seconds = 0.0 if match is None else int(match[1]) * _SPANS[match[2].lower()]
    if match is None or seconds > _LONGEST_SPAN_S:
        raise ValueError("should be a time such as 12h or 30d")
    return seconds


def _number(value: Any) -> Any:
    """Python counts True as 1; an option does not."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def one_of(names: Collection[str]) -> AfterValidator:
    """Accepts these names only; raises ValueError that lists them."""

    def check(value: str) -> str:
        if value not in names:
            *first, last = (repr(name) for name in names)
            raise ValueError(f"should be {', '.join(first)} or {last}")
        return value

    return AfterValidator(check)


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise ValueError("should be auto, cpu, cuda, cuda:N or mps")
    return value


MOST_WORKERS = 256


def _workers(value: Any) -> Any:
    """`auto` or a number of processes, also as text."""
    text = str(value).strip().lower()
    if text == "auto":
        return text
    if isinstance(value, int | str) and text.isdecimal() and 1 <= int(text) <= MOST_WORKERS:
        return int(text)
    raise ValueError(f"should be auto or a whole number from 1 to {MOST_WORKERS}")


def _comma_list(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _file_list(value: Any) -> Any:
    return (value,) if isinstance(value, Path) else _comma_list(value)


def _optional_size(value: Any) -> Any:
    return value if value is None else parse_size(_number(value))


def _positive(value: int | str | None) -> int | str | None:
    if isinstance(value, int) and value < 1:
        raise ValueError("should be greater than or equal to 1")
    return value


def written_as(read: Callable[[str], object], form: str) -> AfterValidator:
    """Keeps the text, and raises ValueError where `read` does: what it should be, and what is wrong with it."""

    def check(value: str) -> str:
        try:
            read(value)
        except ValueError as error:
            raise ValueError(f"should be {form}: {error}") from None
        return value

    return AfterValidator(check)


def _networks(value: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses as networks of one; `unix` for proxies over a Unix socket."""
    for network in value:
        try:
            if network != "unix":
                ip_network(network)
        except ValueError:
            raise ValueError(
                f"should hold addresses such as 10.0.0.5 or 10.0.0.0/8, or unix; {network!r} is none"
            ) from None
    return value


_ADDRESS = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*+([ -~]*)")


def _web_address(value: str) -> str:
    if not _ADDRESS.fullmatch(value):
        raise ValueError("should be an address such as http://localhost:4318, without a query")
    return value


def masked_address(url: str) -> str:
    """An address for people: only the host, since user, path and query of a webhook may be secrets."""
    match = re.match(r"(https?)://(?:[^/?#]*@)?([^/?#]*)", url)
    return "***" if match is None else f"{match[1]}://{match[2]}/***"


def _webhooks(value: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError without the values, which hold secrets."""
    for number, url in enumerate(value, start=1):
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # no port
            valid = False
        if not valid or not url.isascii() or not url.isprintable() or re.search(r"[\s\\<>\"{}|^`]", url):
            raise ValueError(
                f"should be a comma list of addresses such as https://example.org/hook; entry {number} is none"
            )
    return tuple(dict.fromkeys(value))


_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:.]+\]")
"""A host name, an IPv4 address, or an IPv6 address in brackets, as in a URL."""


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    for origin in value:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
            raise ValueError(f"should hold origins such as https://example.org, without a path; {origin!r} is none")
    return value


def _host_names(value: tuple[str, ...]) -> tuple[str, ...]:
    for host in value:
        if host != "*" and not _HOST.fullmatch(host):
            raise ValueError(f"should hold names such as models.example.org, without a port; {host!r} is none")
    return tuple(host.lower().removesuffix(".") for host in value)


def headers_in(text: str) -> dict[str, str]:
    """The headers in a comma list of name=value, with percent-encoded values. Raises ValueError."""
    found = {}
    for number, part in enumerate(filter(None, (part.strip() for part in text.split(","))), start=1):
        match = _HEADER.fullmatch(part)
        value = "" if match is None else unquote(match[2])
        if match is None or not (value.isascii() and value.isprintable()):  # without the value, which is a secret
            raise ValueError(f"should be a comma list of name=value; entry {number} is none")
        found[match[1].lower()] = value
    return found


def _header_list(value: str) -> str:
    headers_in(value)
    return value


def without_users(value: Any) -> Any:
    """A value for people: in addresses, also those in lists, `***` in place of user and password."""
    if isinstance(value, str):
        return re.sub(r"://[^/?#\s]*@", "://***@", value)
    return type(value)(map(without_users, value)) if type(value) in (list, tuple) else value


def masked_database(address: str) -> str:
    """The address of a database without its passwords."""
    masked = re.sub(r"(://[^:@/]*):.*@", r"\1:***@", address)
    return re.sub(r"(?i)(password|secret|token)=[^&]*", r"\1=***", masked)


MOST_PATTERNS = 50


def _list_of_one(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _expressions(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) > MOST_PATTERNS:
        raise ValueError(f"should hold {MOST_PATTERNS} expressions at most")
    for text in value:
        checked_pattern(text)
    return value


LOWER = BeforeValidator(_lower)
Whole = Annotated[int, BeforeValidator(_number)]
Size = Annotated[int, BeforeValidator(parse_size), BeforeValidator(_number)]
Float = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
TextList = Annotated[tuple[str, ...], BeforeValidator(_comma_list)]
Origins = Annotated[tuple[str, ...], AfterValidator(_origins), BeforeValidator(_comma_list)]
Networks = Annotated[tuple[str, ...], AfterValidator(_networks), BeforeValidator(_comma_list)]
HostNames = Annotated[tuple[str, ...], AfterValidator(_host_names), BeforeValidator(_comma_list)]
Webhooks = Annotated[tuple[str, ...], AfterValidator(_webhooks), BeforeValidator(_comma_list)]
"""Addresses, each once."""
HeaderList = Annotated[str, AfterValidator(_header_list)]
"""As `headers_in` reads it."""
HomePath = Annotated[Path, AfterValidator(Path.expanduser)]
"""`~` is the home directory, where no shell expands it."""
FileList = Annotated[tuple[HomePath, ...], BeforeValidator(_file_list)]
Workers = Annotated[int | Literal["auto"], BeforeValidator(_workers)]
DeviceName = Annotated[str, LOWER, AfterValidator(_device)]
Expressions = Annotated[tuple[str, ...], AfterValidator(_expressions), BeforeValidator(_list_of_one)]
"""Regular expressions, whose commas separate nothing."""
OptionalSize = Annotated[int | str | None, AfterValidator(_positive), BeforeValidator(_optional_size)]
"""A size that is kept as it was written; None is none."""

_EXPECTED = {
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


def expectation(fault: ErrorDetails) -> str:
    """What a value should be, such as `should be a whole number`."""
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    return _EXPECTED.get(fault["type"], message)
