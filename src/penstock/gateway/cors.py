"""Cross-origin requests: which pages of other origins may call, as the Fetch standard wants it."""

from __future__ import annotations

from penstock.gateway.http import Call, Headers, Reply, Routes

_REQUEST_HEADERS = (
    "Accept, Accept-Language, Authorization, Content-Language, Content-Type, "
    "X-Penstock-Key, X-Penstock-Priority, X-Request-ID, X-Request-Timeout-Ms"
)
_EXPOSED = "Retry-After, Server-Timing, X-Penstock-Model, X-Request-ID"
_PREFLIGHT_AGE_S = "600"


class Cors:
    """Allows the origins of the settings, or every origin with `*`. Credentials are not used, so `*` is safe."""

    def __init__(self, origins: tuple[str, ...], routes: Routes) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origins)
        self._routes = routes

    def allow(self, call: Call, headers: Headers) -> None:
        """Add to a reply's headers what lets the page read it."""
        if not self._any:
            headers.append(("vary", "Origin"))
        origin = call.header("origin")
        if origin is not None and (self._any or origin in self._origins):
            headers.append(("access-control-allow-origin", "*" if self._any else origin))
            headers.append(("access-control-expose-headers", _EXPOSED))

    def preflight(self, call: Call) -> Reply | None:
        """The reply to a preflight for a route there is; None when the call is none."""
        if call.header("origin") is None or call.header("access-control-request-method") is None:
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
