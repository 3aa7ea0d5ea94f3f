"""`python benchmarks/hostile.py [KIND…] [--rounds N] [--seconds S]`: an honest client beside hostile ones.

For each kind of attack, an honest client is measured without and with it, in turn, and the medians of the rounds are
compared. Attackers and the honest client are processes of their own on the same machine, so an attack also costs what
its own processes take from the cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "support")]

from served_models import build_registry  # noqa: E402

from penstock.gateway.process.sockets import free_address  # noqa: E402

CONNECTIONS = {
    "silent": 20_000,
    "half-heads": 5_000,
    "dripped-heads": 2_000,
    "half-bodies": 2_000,
    "dripped-bodies": 2_000,
    "dripped-chunks": 2_000,
    "never-read": 200,
    "half-closed": 2_000,
    "kept-alive": 5_000,
    "resets": 400,
    "churn": 400,
    "nonsense": 400,
}
"""How many connections stand at a time, over all attackers."""
PER_PROCESS = 7_000


@contextmanager
def server(folder: Path, options: list[str], files: int = 0) -> Iterator[tuple[int, int]]:
    """Port and process id of `penstock serve` with a small model; with `files`, under this limit of open files."""
    port = free_address("127.0.0.1", 0)[1]
    command = [sys.executable, "-m", "penstock.cli.main", "serve", "vec", "--registry", str(folder / "registry")]

    def limit() -> None:
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    process = subprocess.Popen(
        [*command, "--port", str(port), *options],
        env={**os.environ, "PENSTOCK_LOG_LEVEL": "error"},
        preexec_fn=limit,
    )
    try:
        until = time.monotonic() + 60
        while not _ready(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the server did not start")
            time.sleep(0.05)
        yield port, process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def attack(kind: str, port: int, count: int) -> Iterator[dict[str, int]]:
    """Attackers that stand when this begins; at its end the dictionary holds what they counted."""
    shares = [min(PER_PROCESS, count - start) for start in range(0, count, PER_PROCESS)]
    command = [sys.executable, str(HERE / "attackers.py"), kind, str(port)]
    attackers = [
        subprocess.Popen(
            [*command, str(share), f"127.0.0.{index + 2}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for index, share in enumerate(shares)
    ]
    counts: dict[str, int] = {}
    try:
        for attacker in attackers:
            assert attacker.stdout is not None
            attacker.stdout.readline()
        yield counts
    finally:
        for attacker in attackers:
            out, _ = attacker.communicate("\n", timeout=60)
            for name, value in json.loads(out.splitlines()[-1]).items():
                counts[name] = counts.get(name, 0) + value


def honest(port: int, seconds: float) -> dict[str, Any]:
    """What the honest client measured."""
    command = [sys.executable, str(HERE / "honest.py"), str(port), str(seconds)]
    figures: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def compare(kind: str, count: int, port: int, pid: int, rounds: int, seconds: float) -> None:
    """Print one row: p99 without and with the attack, over kept and over new connections."""
    without, with_it, share = [], [], []
    for _ in range(rounds):
        without.append(honest(port, seconds))
        with attack(kind, port, count) as counts:
            before, started = cpu_s(pid), time.monotonic()
            with_it.append(honest(port, seconds))
            share.append((cpu_s(pid) - before) / (time.monotonic() - started))
            memory = memory_mb(pid)
    cells = []
    for way in ("kept", "new"):
        usual, now = (statistics.median(run[way]["p99_ms"] for run in runs) for runs in (without, with_it))
        cells += [f"{usual:.1f}", f"{now:.1f}", f"{now / usual:.2f}"]
    failed = f"{sum(run['failed'] for run in without)} / {sum(run['failed'] for run in with_it)}"
    row = [kind, str(count), *cells, failed, f"{statistics.median(share):.0%}", f"{memory:.0f}"]
    print("| " + " | ".join(row) + " |", counts, flush=True)


def main() -> None:
    own, _, options = " ".join(sys.argv[1:]).partition("-- ")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(CONNECTIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, help="in place of the usual number of the kind")
    parser.add_argument("--files", type=int, default=0, help="the server's limit of open files")
    arguments = parser.parse_args(own.split())
    print("| attack | connections | p99 kept, ms | attacked | ratio | p99 new, ms | attacked | ratio "
          "| failed, without / with | CPU of the server | MB |")  # fmt: skip
    print("|---" * 11 + "|")
    with tempfile.TemporaryDirectory() as folder:
        build_registry(Path(folder))
        for kind in arguments.kinds:
            with server(Path(folder), options.split(), arguments.files) as (port, pid):
                count = arguments.connections or CONNECTIONS[kind]
                compare(kind, count, port, pid, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
