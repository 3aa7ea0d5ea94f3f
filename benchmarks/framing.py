"""`python benchmarks/framing.py [--write docs/framing.md]`: what every server makes of malformed and odd requests.

Each case of `tests/support/framing_cases.py` is sent to Penstock under its own server, under Granian, and under
Uvicorn with either of its parsers; the table shows what each of them answers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from framing_cases import cases  # noqa: E402
from framing_probe import observe  # noqa: E402
from served_models import build_registry  # noqa: E402

from penstock.gateway.process.sockets import free_address  # noqa: E402

PENSTOCK = [sys.executable, "-m", "penstock.cli.main", "serve", "vec"]
UVICORN = [sys.executable, "-m", "uvicorn", "--factory", "penstock:create_app", "--log-level", "critical"]
SERVERS = {
    "Penstock": (PENSTOCK, {"PENSTOCK_SERVER": "h1"}),
    "Granian": (PENSTOCK, {"PENSTOCK_SERVER": "granian"}),
    "Uvicorn, httptools": ([*UVICORN, "--http", "httptools"], {"PENSTOCK_DEFAULT_MODEL": "vec"}),
    "Uvicorn, h11": ([*UVICORN, "--http", "h11"], {"PENSTOCK_DEFAULT_MODEL": "vec"}),
}


@contextmanager
def served(command: list[str], environ: dict[str, str], registry: Path) -> Iterator[int]:
    """The port of a server that is ready."""
    port = free_address("127.0.0.1", 0)[1]
    environ = {**os.environ, "PENSTOCK_LOG_LEVEL": "error", "PENSTOCK_REGISTRY": str(registry), **environ}
    process = subprocess.Popen(
        [*command, "--port", str(port)], env=environ, cwd=registry.parent, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 60
        while not _ready(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"it did not start: {' '.join(command)}")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def table(verdicts: dict[str, list[str]]) -> Iterator[str]:
    """The lines of a Markdown document: per group a table with one row per case."""
    group = ""
    for index, case in enumerate(cases()):
        if case.group != group:
            group = case.group
            yield f"\n## {group}\n"
            yield f"| case | {' | '.join(verdicts)} |"
            yield "|---" * (len(verdicts) + 1) + "|"
        found = [column[index] for column in verdicts.values()]
        yield f"| {case.name} | " + " | ".join(found) + " |"


def differing(verdicts: dict[str, list[str]]) -> Iterator[str]:
    """How many verdicts of each server differ from the right one."""
    right = [case.verdict for case in cases()]
    for name, column in verdicts.items():
        yield f"| {name} | {sum(a != b for a, b in zip(column, right, strict=True))} of {len(right)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", default=",".join(SERVERS).replace(", ", " "), help="names, separated by commas")
    parser.add_argument("--write", type=Path, help="replace everything from the first table on in this document")
    arguments = parser.parse_args()
    wanted = [name for name in SERVERS if name.replace(", ", " ") in arguments.servers.split(",")]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        registry = build_registry(Path(folder))
        verdicts = {}
        for name in wanted:
            port = stack.enter_context(served(*SERVERS[name], registry))
            with ThreadPoolExecutor(16) as pool:
                verdicts[name] = list(pool.map(lambda case, port=port: observe(port, case), cases()))
    lines = [
        "| server | verdicts that differ from the right one |",
        "|---|---|",
        *differing(verdicts),
        *table(verdicts),
    ]
    text = "\n".join(lines) + "\n"
    if arguments.write:
        before, _, _ = arguments.write.read_text(encoding="utf-8").partition(lines[0])
        arguments.write.write_text(before + text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
