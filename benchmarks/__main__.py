"""`python benchmarks [NAME…] [--rounds N] [--seconds S]`: every published figure, measured in turn with its baseline.

Servers run one at a time, in turn, for several rounds on the same machine, and medians are compared, so that drift of
the machine's speed affects all of them. The load generator shares the cores with the server. `front` stands for the
table of the server; `render.py` writes its figures into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import canaries
import curves
import front
import hydraulics
import inprocess
import processes
import watched
from front import Plan
from load import need_wrk, open_loop_program
from turns import Result


def of_three(benchmark: Callable[[Path, int, float], Result]) -> Callable[[Plan], Result]:
    """A benchmark that knows nothing of other servers."""

    def run(plan: Plan) -> Result:
        return benchmark(plan.folder, plan.rounds, plan.seconds)

    run.__doc__ = benchmark.__doc__
    return run


BENCHMARKS: dict[str, Callable[[Plan], Result]] = {
    **front.FRONT,
    "interfaces": front.interfaces,
    **watched.BENCHMARKS,
    **canaries.BENCHMARKS,
    **curves.BENCHMARKS,
    **{name: of_three(one) for name, one in {**inprocess.BENCHMARKS, **hydraulics.BENCHMARKS}.items()},
}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    names = f"of {', '.join(BENCHMARKS)}, or front for: {', '.join(front.FRONT)}; default all"
    parser.add_argument("names", nargs="*", metavar="NAME", help=names)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--peers", choices=("needed", "all", "none"), default="needed", help="all: in every row")
    parser.add_argument("--baseline", type=Path, help="another checkout of this project, measured in the same turns")
    parser.add_argument("--sides", default="", help="only sides whose names begin with one of these (commas between)")
    parser.add_argument("--out", type=Path, help="write the medians there as JSON, after each benchmark")
    arguments = parser.parse_args()
    chosen = [row for name in arguments.names for row in (front.FRONT if name == "front" else [name])]
    arguments.names = chosen or list(BENCHMARKS)
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {unknown.pop()!r}")
    return arguments


def ready(arguments: argparse.Namespace, folder: Path) -> None:
    """End with a clear message when something is missing that a chosen benchmark needs."""
    chosen = set(arguments.names)
    try:
        if chosen & {*front.FRONT, *watched.BENCHMARKS, *curves.BENCHMARKS, "interfaces", "hydraulics"}:
            need_wrk()
        if chosen & {*front.FRONT, *curves.BENCHMARKS} and arguments.peers != "none":
            processes.peers_python()
        if chosen & {"overload", "connections", "overload_curves"}:
            open_loop_program(folder)
    except processes.Unavailable as reason:
        sys.exit(f"benchmarks: {reason}")


def machine() -> Result:
    commit = ""
    if git := shutil.which("git"):
        command = [git, "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "machine": f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "commit": commit or "unknown",
        "at": time.strftime("%Y-%m-%d %H:%M"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    arguments = parsed()
    results: Result = {**machine(), "rounds": arguments.rounds, "seconds": arguments.seconds}
    with tempfile.TemporaryDirectory() as folder:
        ready(arguments, Path(folder))
        plan = plan_of(arguments, Path(folder))
        for name in arguments.names:
            print(f"{name}: {BENCHMARKS[name].__doc__}", flush=True)
            started = time.monotonic()
            try:
                results[name] = BENCHMARKS[name](plan)
            except processes.Unavailable as reason:
                results[name] = {"skipped": str(reason)}
            results[name]["took_s"] = round(time.monotonic() - started)
            print(json.dumps(results[name], indent=2), flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps(results, indent=2) + "\n")


def plan_of(arguments: argparse.Namespace, folder: Path) -> Plan:
    sides: Any = tuple(filter(None, arguments.sides.split(",")))
    if arguments.peers == "none":
        sides = sides or ("Penstock",)
    baseline = arguments.baseline and arguments.baseline.resolve()
    return Plan(folder, arguments.rounds, arguments.seconds, baseline, arguments.peers == "all", sides)


if __name__ == "__main__":
    main()
