"""Opens files elsewhere by fsspec, through sockets that are checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urljoin

from penstock.errors import ConfigError, InvalidInput
from penstock.registry.remote.addresses import Guard
from penstock.registry.remote.locations import Location, checked_parts, require_allowed

CONNECT_S, READ_S = 10.0, 30.0
"""Time for a connection, and for each part of an answer."""
_GOOGLE = "https://storage.googleapis.com"


class Files(Protocol):
    """What is needed of a file system of fsspec."""

    def open(self, path: str, mode: str, **how: Any) -> Any:
        """A file object to read from."""


@contextmanager
def file_system(place: Location, allowed: Iterable[str], guard: Guard, timeout_s: float) -> Iterator[Files]:
    """The file system for an address, with a time for each request; its connections are closed at the end.

    Raises ConfigError naming the extra.
    """
    opened = _web if place.scheme in ("http", "https") else _buckets
    try:
        made = opened(place, tuple(allowed), guard, timeout_s)
    except ImportError as error:
        raise ConfigError(f"{place.scheme}:// needs the package {error.name}; pip install 'penstock[remote]'") from None
    files, close = made
    try:
        yield files
    finally:
        close()


def _web(place: Location, allowed: tuple[str, ...], guard: Guard, timeout_s: float) -> Any:
    import aiohttp
    from fsspec.asyn import sync
    from fsspec.implementations.http import HTTPFileSystem

    sessions: list[Any] = []

    async def redirected(session: Any, context: Any, params: Any) -> None:  # noqa: ARG001
        """A redirect leads to what the list allows, or nowhere."""
        target = urljoin(str(params.url), params.response.headers.get("Location", ""))
        try:
            parts = checked_parts(target)
        except ValueError as error:
            raise InvalidInput(f"{place.url} redirects to an address that {error}", field="path") from None
        require_allowed(parts, allowed)

    async def client(**keywords: Any) -> Any:
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(redirected)
        sessions.append(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(socket_factory=guard.socket, use_dns_cache=False, force_close=True),
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S, sock_read=READ_S),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,  # what is compressed could be of any size
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[trace],
                **{name: value for name, value in keywords.items() if name != "loop"},
            )
        )
        return sessions[-1]

    files = HTTPFileSystem(get_client=client, skip_instance_cache=True)

    def close() -> None:
        for session in sessions:
            sync(files.loop, session.close)

    return files, close


def _buckets(place: Location, allowed: tuple[str, ...], guard: Guard, timeout_s: float) -> Any:  # noqa: ARG001
    """S3, and Google's storage by its interface for clients of S3; credentials are those that botocore finds."""
    import s3fs
    from fsspec.asyn import sync

    files = s3fs.S3FileSystem(
        skip_instance_cache=True,
        endpoint_url=_GOOGLE if place.scheme == "gs" else None,
        config_kwargs={
            "http_session_cls": _guarded_session(guard, timeout_s),
            "connect_timeout": CONNECT_S,
            "read_timeout": READ_S,
            "retries": {"max_attempts": 2},
        },
    )

    def close() -> None:
        client = getattr(files, "_s3", None)
        if client is not None:
            sync(files.loop, client.close)

    return files, close


def _guarded_session(guard: Guard, timeout_s: float) -> Any:
    """The class of botocore's connections, with our sockets and a time for each request."""
    import aiohttp
    from aiobotocore.httpsession import AIOHTTPSession

    class Session(AIOHTTPSession):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            own: dict[str, Any] = self.__dict__
            own["_connector_args"] = {**own["_connector_args"], "socket_factory": guard.socket, "use_dns_cache": False}
            own["_timeout"] = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S, sock_read=READ_S)

    return Session
