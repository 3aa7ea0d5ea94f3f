"""Clients that send known requests, check every answer and account for each request."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from datetime import UTC, datetime
from typing import NamedTuple

from known_answers import Known

TIMEOUT_S = 20.0
"""Longer than a worker may be stopped before it is replaced and its replacement serves."""
RECONNECT = 25
"""Requests on one connection: every worker gets some."""
REASONS = {
    404: ("model-not-found",),
    429: ("overloaded",),
    503: ("model-not-ready", "database-unavailable"),
    504: ("deadline-exceeded",),
}
"""The refusals that are no failure, by status."""
OUTCOMES = ("right", "refused", "transport failure", "unexplained", "lost", "wrong")


class Expectations:
    """Which versions may answer for a model, and which models may be absent, from now on.

    A request may be answered as anything that held between its start and its reply.
    """

    def __init__(self, versions: Mapping[str, frozenset[str]]) -> None:
        self._lock = threading.Lock()
        self._versions = {model: [allowed] for model, allowed in versions.items()}
        self._absent: dict[str, list[bool]] = {model: [False] for model in versions}

    def expect(self, model: str, versions: frozenset[str]) -> None:
        with self._lock:
            self._versions[model].append(versions)

    def expect_also(self, model: str, versions: frozenset[str]) -> None:
        with self._lock:
            self._versions[model].append(self._versions[model][-1] | versions)

    def may_be_absent(self, model: str, absent: bool) -> None:
        with self._lock:
            self._absent[model].append(absent)

    def mark(self, model: str) -> tuple[int, int]:
        """The moment, for `since`."""
        with self._lock:
            return len(self._versions[model]) - 1, len(self._absent[model]) - 1

    def since(self, model: str, mark: tuple[int, int]) -> tuple[frozenset[str], bool]:
        """The versions that may have answered since then, and whether the model may have been absent."""
        with self._lock:
            return frozenset().union(*self._versions[model][mark[0] :]), any(self._absent[model][mark[1] :])


class Reply(NamedTuple):
    status: int
    version: str
    retry_after: str
    body: bytes


class Ledger:
    """What became of every request, by the fault during which it was sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.reasons: Counter[int] = Counter()
        self.examples: list[str] = []
        self.slowest: Counter[str] = Counter()
        """By fault, the most milliseconds that a request took, both attempts together."""
        self.fault = "none"
        self.running: dict[int, float] = {}
        """When the request that each client waits for was sent first, by the client's thread."""

    @property
    def sent(self) -> int:
        return self.total("sent")

    def total(self, what: str) -> int:
        with self._lock:
            return sum(count for (_, each), count in self.counts.items() if each == what)

    def add(self, fault: str, what: str, example: str = "", status: int = 0) -> None:
        with self._lock:
            self.counts[fault, what] += 1
            if status:
                self.reasons[status] += 1
            if example and len(self.examples) < 20:
                self.examples.append(f"{fault}: {what}: {example}")

    @contextlib.contextmanager
    def timed(self) -> Iterator[str]:
        """While a request is sent, and perhaps once more; the fault meanwhile."""
        fault, began, client = self.fault, time.monotonic(), threading.get_ident()
        with self._lock:
            self.running[client] = began
        try:
            yield fault
        finally:
            with self._lock:
                del self.running[client]
                self.slowest[fault] = max(self.slowest[fault], int((time.monotonic() - began) * 1000))

    def waits_since(self, moment: float) -> bool:
        """True while a request that was sent before has no final answer yet."""
        with self._lock:
            return any(began <= moment for began in self.running.values())

    def unaccounted(self) -> int:
        """Requests sent of which nothing is known: 0 once the clients have ended."""
        finals = ("right", "refused", "right at the second", "refused at the second", "lost", "wrong")
        return self.sent - sum(self.total(each) for each in finals)


class Client(threading.Thread):
    """Sends requests one after the other until `over` is set. What fails is sent once more on a new connection."""

    def __init__(
        self,
        draw: Callable[[], Known],
        ports: tuple[int, int],
        expectations: Expectations,
        ledger: Ledger,
        over: threading.Event,
        pause_s: float = 0.0,
    ) -> None:
        """`ports`: of the first attempt, perhaps of a proxy, and of the second. It waits `pause_s` after a reply."""
        super().__init__(daemon=True)
        self._draw, self._ports, self._expectations = draw, ports, expectations
        self._ledger, self._over, self._pause_s = ledger, over, pause_s
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._over.is_set():
                connection = http.client.HTTPConnection("127.0.0.1", self._ports[0], timeout=TIMEOUT_S)
                with contextlib.closing(connection):
                    for _ in range(RECONNECT):
                        if self._over.is_set() or not self._timed(connection, self._draw()):
                            break
                        time.sleep(self._pause_s)
        except BaseException as error:
            self.error = error

    def _timed(self, connection: http.client.HTTPConnection, known: Known) -> bool:
        """True if the connection can be used again."""
        with self._ledger.timed() as fault:
            return self._one(connection, known, fault)

    def _one(self, connection: http.client.HTTPConnection, known: Known, fault: str) -> bool:
        mark = self._expectations.mark(known.model)
        self._ledger.add(fault, "sent")
        outcome, why, status = self._attempt(connection, known, mark)
        if outcome in ("transport failure", "unexplained"):
            first = f"{why} at {datetime.now(UTC):%H:%M:%S.%f}"
            self._ledger.add(fault, outcome, why if outcome == "unexplained" else "")
            again = http.client.HTTPConnection("127.0.0.1", self._ports[1], timeout=TIMEOUT_S)
            with contextlib.closing(again):
                outcome, why, status = self._attempt(again, known, mark)
                why += f" at {datetime.now(UTC):%H:%M:%S.%f}, after {first}" if outcome == "transport failure" else ""
            if outcome in ("transport failure", "unexplained"):
                outcome = "lost"
            elif outcome != "wrong":
                outcome += " at the second"
            self._ledger.add(fault, outcome, why, status)
            return False
        self._ledger.add(fault, outcome, why, status)
        return True

    def _attempt(
        self, connection: http.client.HTTPConnection, known: Known, mark: tuple[int, int]
    ) -> tuple[str, str, int]:
        """One of `OUTCOMES`, an example of what is not right, and the status of a refusal."""
        try:
            reply = _exchange(connection, known)
        except (http.client.HTTPException, OSError) as error:
            return "transport failure", f"{known.path}: {error!r}", 0
        versions, absent = self._expectations.since(known.model, mark)
        return judged(known, reply, known.right.keys() if known.pinned else versions, absent)


def judged(known: Known, reply: Reply, versions: Set[str], absent: bool) -> tuple[str, str, int]:
    """As `Client._attempt` returns it, for a whole reply."""
    told = f"{known.path}: {reply.status} {reply.version} {reply.body[:300]!r}"
    if reply.status == 200:
        right = known.right.get(reply.version)
        if right is None or reply.version not in versions:
            return "wrong", f"{told}: expected one of {sorted(versions)}", 0
        try:
            return ("right", "", 0) if right(reply.body) else ("wrong", told, 0)
        except (ValueError, LookupError, TypeError) as error:
            return "wrong", f"{told}: {error!r}", 0
    if reply.status >= 500 or reply.status in REASONS:
        if not _is_explained(reply):
            return "unexplained", told, 0
        return ("refused", "", reply.status) if reply.status != 404 or absent else ("wrong", told, 0)
    return "wrong", told, 0


def _is_explained(reply: Reply) -> bool:
    try:
        problem = json.loads(reply.body)
    except ValueError:
        return False
    kind, detail = str(problem.get("type", "")), problem.get("detail")
    if reply.status in (429, 503) and not reply.retry_after.isdigit():
        return False
    return (
        kind.removeprefix("urn:penstock:") in REASONS.get(reply.status, ())
        and bool(detail)
        and bool(problem.get("request_id"))
    )


def _exchange(connection: http.client.HTTPConnection, known: Known) -> Reply:
    connection.request("POST", known.path, known.body, dict(known.headers))
    reply = connection.getresponse()
    body = reply.read()
    if "content-length" not in reply.headers and not reply.chunked:
        raise http.client.IncompleteRead(body)  # http.client takes the end of a connection for that of a head
    version = reply.headers.get("x-penstock-model", "").partition(":")[2].partition("/")[0]
    if reply.headers.get("connection", "").lower() == "close":
        connection.close()  # http.client opens another one by itself
    return Reply(reply.status, version, reply.headers.get("retry-after", ""), body)
