"""Load on a running server, and what came of it: `closed_loop` by concurrency, `open_loop` by rate."""

from __future__ import annotations

import asyncio
import resource
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from penstock.errors import InvalidInput, ModelNotReady, first_line
from penstock.toolchain.bench.connection import Target, make_target
from penstock.toolchain.bench.figures import Figures, curve_of, histogram_of
from penstock.toolchain.bench.generator import ClosedLoop, Generator, OpenLoop, Record

Arrivals = Literal["poisson", "constant"]
_MOST_REQUESTS = 20_000_000
_MOST_CONCURRENCY = 10_000
_BUSY = 0.9
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class LoadResult:
    """What a server did under load.

    `mode` is closed (`concurrency` requests in flight) or open (`rate` requests a second, whatever the server does).
    `requests` were sent or due. `throughput_per_second` counts successful replies within `seconds`.

    `latency` is that of successful requests and, with the time that they waited, of those that got no reply (`timeout`
    and `unanswered` in `errors`); None without any. In an open loop it counts from the time when a request was due;
    `from_send` counts from when it was sent, which leaves out the waits that a slow server causes. `refused` are
    replies 429; `errors` holds the other failures by status or kind. `curve` holds percentiles with their
    milliseconds, `histogram` from, to (in milliseconds) and count.
    """

    mode: Literal["closed", "open"]
    concurrency: int | None
    rate: float | None
    seconds: float
    requests: int
    succeeded: int
    refused: int
    errors: dict[str, int]
    throughput_per_second: float
    latency: Figures | None
    from_send: Figures | None = None
    curve: tuple[tuple[float, float], ...] = field(default=(), repr=False)
    histogram: tuple[tuple[float, float, int], ...] = field(default=(), repr=False)
    stopped: str | None = None
    """Why the run ended early, None when it did not."""
    warnings: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """Requests without a successful reply, refused ones left out."""
        return sum(self.errors.values())

    def to_json(self) -> dict[str, Any]:
        """As `penstock bench URL --json` prints it."""
        load = {"concurrency": self.concurrency} if self.mode == "closed" else {"rate": self.rate}
        return {
            "mode": self.mode,
            **load,
            "seconds": round(self.seconds, 3),
            "requests": self.requests,
            "succeeded": self.succeeded,
            "refused": self.refused,
            "errors": self.errors,
            "throughput_per_second": round(self.throughput_per_second, 2),
            **({} if self.latency is None else self.latency.to_json()),
            "percentiles_ms": {f"{percent:g}": round(ms, 4) for percent, ms in self.curve},
            "histogram_ms": [[round(low, 5), round(high, 5), count] for low, high, count in self.histogram],
            "stopped": self.stopped,
            "warnings": list(self.warnings),
        }


def closed_loop(target: Target | str, *, concurrency: int, seconds: float, timeout_s: float = 10.0) -> LoadResult:
    """Keep so many requests in flight for so long. A URL alone is asked with GET.

    It ends at the latest `timeout_s` after `seconds`, and earlier when the server is gone. Raises ModelNotReady when no
    server answers at all, and InvalidInput for figures that make no sense.
    """
    target = _checked(target, seconds, timeout_s)
    _require("concurrency", concurrency, 1, _MOST_CONCURRENCY)
    _allow_files(concurrency)
    record, took, cpu_s = _measured(target, lambda: ClosedLoop(target, concurrency, seconds, timeout_s))
    return _result(record, _warnings(record, took, cpu_s), concurrency=concurrency)


def open_loop(
    target: Target | str,
    rate: float,
    *,
    seconds: float,
    arrivals: Arrivals = "poisson",
    timeout_s: float = 10.0,
    max_connections: int = 1000,
    seed: int = 0,
) -> LoadResult:
    """Send `rate` requests a second for so long, however slowly the server answers. A URL alone is asked with GET.

    The time of every request is fixed beforehand, at constant distances or as a Poisson process, like the arrivals of
    many independent users; latency counts from that time. A generator that waits for replies before it goes on would
    leave out the requests that a slow server delays (coordinated omission). Ends and raises as `closed_loop` does.
    """
    target = _checked(target, seconds, timeout_s)
    if not 0 < rate * seconds <= _MOST_REQUESTS:
        raise InvalidInput(f"rate: {rate:g} requests a second for {seconds:g} s are not between 1 and {_MOST_REQUESTS}"
                           " requests", field="rate")  # fmt: skip
    _require("max_connections", max_connections, 1, _MOST_CONCURRENCY)
    due, files = due_times(rate, seconds, arrivals, seed), _allow_files(max_connections)
    record, took, cpu_s = _measured(target, lambda: OpenLoop(target, due, seconds, timeout_s, files))
    return _result(record, _warnings(record, took, cpu_s), rate=rate)


def due_times(rate: float, seconds: float, arrivals: Arrivals, seed: int = 0) -> list[float]:
    """When requests are due, in seconds from the start: `rate * seconds` of them, at least one.

    Poisson arrivals of a known number are independent and uniform. Raises InvalidInput for unknown arrivals.
    """
    count = max(1, round(rate * seconds))
    if arrivals == "constant":
        return [number / rate for number in range(count)]
    if arrivals != "poisson":
        raise InvalidInput(f"arrivals: {arrivals!r} is neither poisson nor constant", field="arrivals")
    due: list[float] = np.sort(np.random.default_rng(seed).uniform(0, seconds, count)).tolist()
    return due


def _checked(target: Target | str, seconds: float, timeout_s: float) -> Target:
    _require("seconds", seconds, 0.01, 86_400)
    _require("timeout_s", timeout_s, 0.01, 3600)
    return make_target(target, method="GET") if isinstance(target, str) else target


def _require(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise InvalidInput(f"{name}: {value:g} is not between {least:g} and {most:g}", field=name)


def _allow_files(wanted: int) -> int:
    """Raise this process's limit of open files to what the connections need; how many connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + 64
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - 64))


def _measured(target: Target, make: Callable[[], Generator]) -> tuple[Record, float, float]:
    """The record of a run, its wall time and the CPU time of this process."""

    async def run() -> Record:
        return await make().run()

    started, cpu = time.perf_counter(), time.process_time()
    try:
        record = _run(run())
    except ssl.SSLError as error:
        raise ModelNotReady(f"{target.address}: no secure connection: {first_line(error)}") from None
    except TimeoutError:
        how = "a secure connection" if target.tls else "a connection"
        raise ModelNotReady(f"{target.address}: no server answers there (it does not accept {how})") from None
    except OSError as error:
        why = error.strerror or first_line(error)
        raise ModelNotReady(f"{target.address}: no server answers there ({why})") from None
    return record, time.perf_counter() - started, time.process_time() - cpu


def _run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run on uvloop's event loop where it is installed, which serves about twice as many requests."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _warnings(record: Record, took: float, cpu_s: float) -> tuple[str, ...]:
    """What makes the figures doubtful."""
    found = []
    if cpu_s > _BUSY * took:
        found.append("the load generator used a whole core: it may have been slower than the server")
    if len(record.lateness) > 10:
        late, p50 = np.percentile(record.lateness, 99), np.median(record.latencies or [0.0])
        if late > max(0.002, p50):
            found.append(f"1 % of the requests were sent {late * 1000:.1f} ms late or more: this machine is busy")
    return tuple(found)


def _result(
    record: Record,
    warnings: Sequence[str],
    *,
    concurrency: int | None = None,
    rate: float | None = None,
) -> LoadResult:
    good = {status for status in record.statuses if 200 <= status < 300}
    failures = {str(status): n for status, n in sorted(record.statuses.items()) if status not in {*good, 429}}
    return LoadResult(
        mode="open" if concurrency is None else "closed",
        concurrency=concurrency,
        rate=rate,
        seconds=record.duration,
        requests=record.requests,
        succeeded=sum(record.statuses[status] for status in good),
        refused=record.statuses[429],
        errors={**failures, **dict(sorted(record.errors.items()))},
        throughput_per_second=record.in_time / record.duration,
        latency=Figures.of(record.latencies) if record.latencies else None,
        from_send=Figures.of(record.from_send) if record.from_send else None,
        curve=curve_of(record.latencies),
        histogram=histogram_of(record.latencies),
        stopped=record.stopped,
        warnings=tuple(warnings),
    )
