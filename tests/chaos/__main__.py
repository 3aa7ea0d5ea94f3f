"""`python tests/chaos [--seed S] [--faults N] [--requests M]`: a server of two processes under load and faults.

Every answer is compared with what the model's file gave before, and every request is accounted for. Exit code 1 if an
answer was wrong, a request was lost after it was sent once more, or the server did not recover.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from faults import FAULTS, SLOWING, schedule  # noqa: E402
from trial import Options, Trial, table  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--postgres", action="store_true", help="with PostgreSQL as the database, not SQLite")
    parser.add_argument("--server", default="h1", help="h1 or granian")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=FAULTS,
        metavar="FAULT",
        help=f"these faults; without it all but {SLOWING}",
    )
    parser.add_argument("--pause-ms", type=float, default=0.0, help="how long a client waits between two requests")
    parser.add_argument("--schedule", action="store_true", help="print the faults in order and do nothing")
    arguments = parser.parse_args()
    kinds = tuple(arguments.only) or tuple(fault for fault in FAULTS if fault != SLOWING)
    if arguments.schedule:
        for step in schedule(arguments.seed, arguments.faults, list(kinds)):
            print(step.fault, step.seed)
        return
    options = Options(
        arguments.seed,
        arguments.faults,
        arguments.requests,
        arguments.clients,
        arguments.postgres,
        arguments.server,
        kinds,
        arguments.pause_ms / 1000,
    )
    with tempfile.TemporaryDirectory(prefix="penstock-chaos-") as root, Trial(Path(root), options) as trial:
        began = time.monotonic()
        trial.run()
        sys.exit(report(trial, time.monotonic() - began))


def report(trial: Trial, seconds: float) -> int:
    """Print what became of the requests; the exit code."""
    options, ledger = trial.options, trial.ledger
    for index, row in enumerate(table(trial)):
        print("| " + " | ".join(str(cell) for cell in row) + " |")
        if index == 0:
            print("|---" * len(row) + "|")
    print(f"\nseed {options.seed}, {seconds:.0f} s, network faults {trial.proxy.faults}")
    print("refused, by status:", dict(sorted(ledger.reasons.items())))
    print("admin:", dict(sorted(trial.admin_replies.items())))
    for fault, why in trial.skipped.items():
        print(f"left out: {fault}: {why}")
    print("log:", *(f"  {count} × {line}" for line, count in trial.log.most_common(15)), sep="\n")
    for problem in (*trial.broken[:20], *ledger.examples, *(each[-300:] for each in trial.tracebacks[:3])):
        print(f"- {problem}")
    failed = [*trial.broken, *trial.tracebacks]
    lost, wrong, unaccounted = ledger.total("lost"), ledger.total("wrong"), ledger.unaccounted()
    if lost or wrong or failed:
        print(*trial.lines, sep="\n", file=sys.stderr)
    print(f"lost {lost}, wrong {wrong}, unaccounted {unaccounted}, other problems {len(failed)}")
    return int(bool(lost or wrong or unaccounted or failed))


if __name__ == "__main__":
    main()
