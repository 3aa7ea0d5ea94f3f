"""What is done to the server while clients send requests, and in which order: drawn from a seed."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from fault_proxy import MODES
from linear_models import weights
from live_servers import children

if TYPE_CHECKING:
    from trial import Trial

Fault: TypeAlias = "Callable[[Trial, random.Random], None]"
GOOD = ("v1.0", "v2.0", "v3.0")
"""Versions of `vec` that may answer; the alias and the routes move between the first two."""
BROKEN = "v9.0"
"""A version of `vec` whose golden samples are those of another model."""
SEEDS = {"v1.0": 0, "v2.0": 1, "v3.0": 3}


class Step(NamedTuple):
    """One fault of a schedule, and the seed of all that it draws."""

    fault: str
    seed: int


def schedule(seed: int, count: int, kinds: list[str]) -> list[Step]:
    """Every kind once before any comes again."""
    chance = random.Random(f"faults/{seed}")
    steps: list[Step] = []
    while len(steps) < count:
        steps += [Step(kind, chance.getrandbits(32)) for kind in chance.sample(kinds, len(kinds))]
    return steps[:count]


def _kill(trial: Trial, chance: random.Random) -> None:
    trial.kill(chance)
    trial.hold(0.3)


def _kill_all(trial: Trial, chance: random.Random) -> None:
    trial.kill(chance, all_workers=True)
    trial.hold(0.3)


def _freeze(trial: Trial, chance: random.Random) -> None:
    with _frozen(chance.choice(children(trial.server.pid) or [0])):
        trial.hold(chance.choice((0.05, 0.3, 1.0, 3.0)))


def _freeze_for_good(trial: Trial, chance: random.Random) -> None:
    """Until the supervisor replaces it."""
    trial.await_those_of_the_last_loss()
    pid = chance.choice(children(trial.server.pid) or [0])
    _signal(pid, signal.SIGSTOP)
    trial.hold_until(lambda: pid not in children(trial.server.pid), "a stopped worker was not replaced")
    trial.lost_at = time.monotonic()


def _freeze_supervisor(trial: Trial, chance: random.Random) -> None:
    with _frozen(trial.server.pid):
        trial.hold(chance.choice((0.3, 1.0, 6.0)))


def _move_alias(trial: Trial, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 2, 4))):
        trial.move_alias(chance.choice(GOOD))
        trial.hold(chance.choice((0.0, 0.1)))


def _change_route(trial: Trial, chance: random.Random) -> None:
    """A split, perhaps a switch, and in the end none."""
    share = chance.choice((10, 50, 90))
    arms = [{"version": "v1.0", "weight": share}, {"version": "v2.0", "weight": 100 - share}]
    trial.expectations.expect_also("vec", frozenset(GOOD[:2]))
    trial.admin("PUT", "/admin/routes/vec", {"arms": arms, "why": "chaos"})
    trial.hold(0.2)
    if chance.random() < 0.5:
        trial.admin("POST", "/admin/routes/vec/switch", {"to": "v1.0", "why": "chaos"})
        trial.hold(0.1)
    trial.remove_route()


def _unload(trial: Trial, chance: random.Random) -> None:
    model = chance.choice(("raw", "pic", "slow"))
    trial.expectations.may_be_absent(model, True)
    trial.admin("POST", "/admin/unload", {"model": model})
    trial.hold(0.1)
    trial.load(model)


def _broken_version(trial: Trial, _: random.Random) -> None:
    """Refused, while the versions before it go on."""
    reply = trial.admin("PUT", "/admin/models/vec/aliases/champion", {"version": BROKEN})
    trial.require(reply is None or reply.status_code != 200, "a version that fails its golden samples was accepted")


def _corrupt(trial: Trial, chance: random.Random) -> None:
    """A weight changes in the file of a version that is not loaded, and it is asked for."""
    trial.move_alias("v1.0")
    with _flipped(trial.registry, "v3.0", chance):
        trial.expectations.expect_also("vec", frozenset(("v3.0",)))
        trial.admin("PUT", "/admin/models/vec/aliases/champion", {"version": "v3.0"})
        trial.hold(0.2)
    trial.move_alias("v2.0")


def _corrupt_served(trial: Trial, chance: random.Random) -> None:
    """A weight changes in the file of the version that answers, and a worker has to load it anew."""
    with _flipped(trial.registry, chance.choice(GOOD[:2]), chance):
        trial.kill(chance)
        trial.hold(chance.choice((0.5, 3.0)))


def _fill_disk(trial: Trial, chance: random.Random) -> None:
    with _full(trial.registry.parent):
        if chance.random() < 0.5:
            trial.kill(chance)
        trial.move_alias(chance.choice(GOOD[:2]))
        trial.hold(0.5)
    trial.move_alias(chance.choice(GOOD[:2]))


def _take_database(trial: Trial, chance: random.Random) -> None:
    with trial.without_database():
        if chance.random() < 0.4:
            trial.kill(chance)
        trial.hold(chance.choice((0.2, 1.0, 3.0)))
        if chance.random() < 0.5:
            trial.move_alias(chance.choice(GOOD[:2]))


def _freeze_database(trial: Trial, chance: random.Random) -> None:
    with trial.frozen_database():
        if chance.random() < 0.4:
            trial.kill(chance)
        trial.hold(chance.choice((0.2, 1.0, 3.0)))


def _disturb_network(trial: Trial, chance: random.Random) -> None:
    for _ in range(2):
        trial.proxy.mode = chance.choice(MODES)
        trial.hold(0.4)
    trial.proxy.mode = "pass"
    trial.lost_at = time.monotonic()


def _drain(trial: Trial, _: random.Random) -> None:
    trial.admin("POST", "/admin/drain", {"wait_s": 0.2})
    trial.hold(0.1)
    trial.admin("DELETE", "/admin/drain", None)


def _reload(trial: Trial, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 5))):
        _signal(trial.server.pid, signal.SIGHUP)
    trial.hold(0.1)


def _move_clock(trial: Trial, chance: random.Random) -> None:
    """The wall clock jumps forth or back, perhaps while a worker starts, and returns."""
    trial.clock.move(chance.choice((-86400, -3600, -2, 2, 3600, 40 * 86400)))
    if chance.random() < 0.5:
        trial.kill(chance)
    trial.hold(chance.choice((0.3, 1.5)))
    trial.move_alias(chance.choice(GOOD[:2]))
    trial.clock.move(0)
    trial.hold(0.3)


def _rubbish(trial: Trial, chance: random.Random) -> None:
    """Bytes that are no request, halves of requests, and clients that leave before the reply."""
    whole = b"POST /models/vec/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole += b'Content-Length: 32\r\n\r\n{"input_data": [1.0,2.0,3.0,4.0]}'
    for _ in range(60):
        kind = chance.randrange(4)
        if kind == 0:
            data = chance.randbytes(chance.choice((1, 40, 3000)))
        elif kind == 1:
            data = whole[: chance.randrange(len(whole))]
        elif kind == 2:
            at = chance.randrange(len(whole))
            data = whole[:at] + chance.randbytes(chance.choice((1, 1, 8))) + whole[at + 1 :]
        else:
            data = whole * chance.choice((1, 50))
        _send_and_leave(trial.port, data, reset=chance.random() < 0.5)
    trial.hold(0.1)


FAULTS: dict[str, Fault] = {
    "kill a worker": _kill,
    "kill all workers": _kill_all,
    "freeze a worker": _freeze,
    "freeze a worker for good": _freeze_for_good,
    "freeze the supervisor": _freeze_supervisor,
    "move the alias": _move_alias,
    "change the route": _change_route,
    "unload and load": _unload,
    "ask for a broken version": _broken_version,
    "corrupt a version": _corrupt,
    "corrupt the served version": _corrupt_served,
    "fill the disk": _fill_disk,
    "take the database away": _take_database,
    "freeze the database": _freeze_database,
    "disturb the network": _disturb_network,
    "move the clock": _move_clock,
    "drain and resume": _drain,
    "read certificates again": _reload,
    "send rubbish": _rubbish,
}
"""By name, as the table shows it."""
SLOWING = "move the clock"
"""Only where it is named: each look at the clock takes longer in a server whose clock can be moved."""


def _signal(pid: int, signum: int) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


@contextmanager
def _frozen(pid: int) -> Iterator[None]:
    _signal(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(pid, signal.SIGCONT)


@contextmanager
def _flipped(registry: Path, version: str, chance: random.Random) -> Iterator[None]:
    """One bit of a weight is another one, in the same file and without a trace in its time."""
    file = registry / "vec" / version / "variants" / "onnx-fp32" / "model.onnx"
    before, times = file.read_bytes(), file.stat()
    numbers = weights(SEEDS[version]).tobytes()
    at = before.index(numbers) + 4 * chance.randrange(len(numbers) // 4) + 3  # the sign
    _overwrite(file, before[:at] + bytes([before[at] ^ 0x80]) + before[at + 1 :], times)
    try:
        yield
    finally:
        _overwrite(file, before, times)


def _overwrite(file: Path, data: bytes, times: os.stat_result) -> None:
    with file.open("r+b") as target:
        target.write(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@contextmanager
def _full(disk: Path) -> Iterator[None]:
    """Not a byte is free."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)
        yield
    finally:
        filler.unlink()


def _send_and_leave(port: int, data: bytes, *, reset: bool) -> None:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(data)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED) and not isinstance(
            error, TimeoutError
        ):
            raise
