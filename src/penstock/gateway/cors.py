"""Cross-origin requests (CORS), as the Fetch standard defines them."""

from __future__ import annotations

from typing import ClassVar

from penstock.gateway.http import Call, Headers, Reply, Step
from penstock.gateway.routing.table import Routes

_REQUEST_HEADERS = (
    "Accept, Accept-Language, Authorization, Content-Language, Content-Type, X-API-Key, X-Penstock-Admin-Key, "
    "X-Penstock-Key, X-Penstock-Priority, X-Request-ID, X-Request-Timeout-Ms"
)
_EXPOSED = "Retry-After, Server-Timing, X-Penstock-Flags, X-Penstock-Model, X-Request-ID"
_PREFLIGHT_AGE_S = "600"


class Cors(Step):
    """Allows the origins of the settings, or every origin with `*`. Credentials are not used, so `*` is safe."""

    def __init__(self, origins: tuple[str, ...], routes: Routes) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origins)
        self._routes = routes

    by_head: ClassVar[bool] = True

    def add_headers(self, call: Call, headers: Headers) -> None:
        """Let a page of an allowed origin read the reply."""
        if not self._any:
            headers.append(("vary", "Origin"))
        origin = call.header("origin")
        if origin is not None and (self._any or origin in self._origins):
            headers.append(("access-control-allow-origin", "*" if self._any else origin))
            headers.append(("access-control-expose-headers", _EXPOSED))

    def answer(self, call: Call) -> Reply | None:
        """The reply to a preflight request for a known path; None for any other request."""
        if call.method != "OPTIONS" or None in (call.header("origin"), call.header("access-control-request-method")):
            return None
        methods = self._routes.methods(call.path)
        if not methods:
            return None
        headers = [
            ("access-control-allow-methods", ", ".join(methods)),
            ("access-control-allow-headers", _REQUEST_HEADERS),
            ("access-control-max-age", _PREFLIGHT_AGE_S),
        ]
        return Reply(204, headers, b"")
