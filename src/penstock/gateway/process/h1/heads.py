"""What the head of a request may say, beyond what the parser (llhttp) checks itself."""

from __future__ import annotations

import re
from typing import TypeAlias
from urllib.parse import unquote

from penstock.errors import quoted, shortened
from penstock.gateway.problems import CLOSE, Refusal

Target: TypeAlias = tuple[str, str, str | None]
"""Path (decoded), query (raw), and the host of a target that is a whole URL."""

MAX_HEAD = 64 * 1024
MAX_HEADERS = 128
MAX_TARGET = 16 * 1024
UNUSUAL = frozenset(("expect", "transfer-encoding", "upgrade"))
"""Headers that need a closer look."""
"""Headers that `check_head` has to look at."""

_REMEMBERED = 512
"""Entries of each dictionary of what was seen before."""
_LONGEST_REMEMBERED = 128
_NAMES: dict[bytes, str] = {}
_TARGETS: dict[bytes, Target] = {}
KNOWN_HOSTS: set[str | None] = set()
"""Values of the header Host that were checked before; clients send few different ones."""

_HOST = re.compile(r"([A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(:\d{0,5})?")
_URL = re.compile(r"(?i)https?://([^/?@]+)(.*)")


def refused(status: int, detail: str) -> Refusal:
    """A refusal after which the connection closes, since what follows cannot be understood."""
    return Refusal(status, detail, headers=(CLOSE,))


def name_of(raw: bytes) -> str:
    """A header's name as it is looked up."""
    name = _NAMES.get(raw)
    if name is None:
        name = raw.lower().decode("latin-1")
        if len(_NAMES) < _REMEMBERED and len(raw) < _LONGEST_REMEMBERED:
            _NAMES[raw] = name
    return name


def target_of(url: bytes) -> Target:
    """The target of a request. Raises Refusal (400)."""
    known = _TARGETS.get(url)
    if known is not None:
        return known
    target = _read_target(url.decode("latin-1"))
    if len(_TARGETS) < _REMEMBERED and len(url) < _LONGEST_REMEMBERED:
        _TARGETS[url] = target
    return target


def _read_target(text: str) -> Target:
    authority, rest = None, text
    if not text.startswith("/") and text != "*":
        match = _URL.fullmatch(text)
        if match is None or not _HOST.fullmatch(match[1]):
            raise refused(400, f"the target of a request is a path or a URL, not {quoted(shortened(text))}")
        authority, rest = match[1], match[2]
    if "#" in text:
        raise refused(400, "the target of a request has no fragment (#)")
    path, _, query = rest.partition("?")
    return (unquote(path) if "%" in path else path) or "/", query, authority


def check_head(version: str, headers: dict[str, str], lists: dict[str, list[str]]) -> bool:
    """Raises the Refusal of a bad head; True if the client waits for `100 Continue` before it sends the body.

    `lists` has the values of headers that were sent several times.
    """
    if version not in ("1.1", "1.0"):
        raise refused(505, f"HTTP/{version} is not spoken here; use HTTP/1.1")
    if len(headers) + sum(len(values) - 1 for values in lists.values()) > MAX_HEADERS:
        raise refused(431, f"a request has at most {MAX_HEADERS} headers")
    _check_host(version, headers.get("host"), "host" in lists)
    _check_coding(version, headers.get("transfer-encoding"))
    return _expects_continue(version, lists.get("expect") or headers.get("expect"))


def check_size(url: bytes, headers: dict[str, str]) -> None:
    """Raises Refusal (431) for a large head."""
    if len(url) + sum(len(name) + len(value) + 4 for name, value in headers.items()) > MAX_HEAD:
        raise refused(431, f"the head of a request has at most {MAX_HEAD} bytes")


def _check_host(version: str, host: str | None, several: bool) -> None:
    if several or (host is None and version == "1.1"):
        raise refused(400, "a request names its host once, in the header Host")
    if host is None:
        return
    if not _HOST.fullmatch(host):
        raise refused(400, f"the header Host holds a name and perhaps a port, not {quoted(shortened(host))}")
    if len(KNOWN_HOSTS) < _REMEMBERED and len(host) < _LONGEST_REMEMBERED:
        KNOWN_HOSTS.add(host)


def _check_coding(version: str, coding: str | None) -> None:
    if coding is None:
        return
    if version == "1.0":
        raise refused(400, "Transfer-Encoding does not exist in HTTP/1.0")
    if coding.strip().lower() != "chunked":
        final = coding.rpartition(",")[2].strip().lower() == "chunked"
        raise refused(501 if final else 400, "of transfer codings, this server knows only chunked")


def _expects_continue(version: str, expect: str | list[str] | None) -> bool:
    if expect is None or version == "1.0":
        return False
    values = [expect] if isinstance(expect, str) else expect
    if any(value.strip().lower() != "100-continue" for value in values):
        raise refused(417, "of expectations, this server knows only 100-continue")
    return True


def head_of_body(headers: dict[str, str]) -> bytes:
    """A head with the framing of another one, and nothing else; empty if that has no body."""
    if "transfer-encoding" in headers:
        framing = "transfer-encoding: chunked"
    elif int(headers.get("content-length", "0")):
        framing = f"content-length: {headers['content-length']}"
    else:
        return b""
    return f"POST / HTTP/1.1\r\n{framing}\r\n\r\n".encode("ascii")
