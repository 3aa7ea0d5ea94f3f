"""What becomes of good and bad versions: canaries of digits over HTTP, on the real held-out images."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from front import Plan
from turns import Result, median

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))


def canaries(plan: Plan) -> Result:
    """Digits: in each round four canaries of a good version and one of each bad kind, on one and on two processes."""
    from digit_versions import build_digits

    root = plan.folder / "canaries"
    root.mkdir(exist_ok=True)
    path, images = build_digits(root)
    return {f"{workers} process{'es' * (workers > 1)}": _of(path, images, workers, plan.rounds) for workers in (1, 2)}


BENCHMARKS = {"canaries": canaries}


def _of(path: Path, images: Any, workers: int, rounds: int) -> Result:
    from digit_traffic import Traffic, champion, outcome, serving
    from digit_versions import BAD, NAME

    ends: dict[str, Counter[str]] = {version: Counter() for version in ("v2.0", *BAD)}
    seconds: dict[str, list[float]] = {version: [] for version in ends}
    with (
        serving(path, workers) as (server, port),
        Traffic(port, images) as traffic,
        httpx.Client(base_url=server.url, headers=server.auth, timeout=120) as api,
    ):
        began = time.monotonic()
        for version in (each for _ in range(rounds) for bad in BAD for each in ("v2.0", bad)):
            champion(api, "v1.0")
            started = time.monotonic()
            end = outcome(api, version)
            ends[version][end] += 1
            seconds[version].append(time.monotonic() - started)
            if (end == "promoted") != (version == "v2.0"):
                last, *_ = api.get(f"/admin/routes/{NAME}/decisions").json()["decisions"]
                print(f"{version} was {end}: {last['sentence']}", file=sys.stderr)
            print(f"{workers} {version}: {dict(ends[version])}", file=sys.stderr, flush=True)
        rps = sum(traffic.statuses.values()) / (time.monotonic() - began)
    return {
        **{version: {**counts, "median_s": median(seconds[version], 1)} for version, counts in ends.items()},
        "requests_per_s": round(rps),
    }
