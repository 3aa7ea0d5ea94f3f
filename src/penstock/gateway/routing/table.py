"""The table of routes: which row answers a path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from penstock.errors import shortened
from penstock.gateway.http import Endpoint
from penstock.gateway.problems import Refusal

_NO_PARAMS: Mapping[str, str] = {}


class Routes:
    """Finds the row for a path: a dictionary for plain paths, segment by segment for those with parameters."""

    def __init__(self, table: tuple[Endpoint, ...]) -> None:
        self.set(table)

    def set(self, table: tuple[Endpoint, ...]) -> None:
        """Replace all rows; of two rows that match a path, the first one counts."""
        self.table = table
        self._plain: dict[str, dict[str, Endpoint]] = {}
        self._templates: dict[str, tuple[re.Pattern[str], dict[str, Endpoint]]] = {}
        for row in table:
            if "{" in row.path:
                pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", row.path))
                self._templates.setdefault(row.path, (pattern, {}))[1][row.method] = row
            else:
                self._plain.setdefault(row.path, {})[row.method] = row

    def forget_heads(self) -> None:
        """Another identity of the same rows: what was remembered of heads by the identity of the table is void."""
        self.table = (*self.table,)

    def find(self, method: str, path: str) -> tuple[Endpoint, Mapping[str, str]]:
        """The row and the path's parameters. Raises Refusal: 404 for an unknown path, 405 for another method."""
        methods, params = self._methods(path)
        row = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        if row is not None:
            return row, params
        shorter = path.rstrip("/")
        if not methods and shorter and shorter != path and self._methods(shorter)[0]:
            location = "../" + shorter.rpartition("/")[2]
            raise Refusal(307, "this path has no trailing slash", headers=[("location", quote(location))])
        if not methods:
            raise Refusal(404, f"there is nothing at {shortened(path)}; /docs lists every route")
        allowed = ", ".join(self.methods(path))
        raise Refusal(405, f"{shortened(path)} takes {allowed}", headers=[("allow", allowed)])

    def knows(self, path: str) -> bool:
        """True when some method is served at this path."""
        return path in self._plain or bool(self._methods(path)[0])

    def methods(self, path: str) -> list[str]:
        """The methods served at this path; none for an unknown one."""
        methods = self._methods(path)[0]
        return sorted({*methods, "HEAD"} if "GET" in methods else methods)

    def _methods(self, path: str) -> tuple[Mapping[str, Endpoint], Mapping[str, str]]:
        found = self._plain.get(path)
        if found is not None:
            return found, _NO_PARAMS
        for pattern, methods in self._templates.values():
            match = pattern.fullmatch(path)
            if match is not None:
                return methods, match.groupdict()
        return {}, _NO_PARAMS
