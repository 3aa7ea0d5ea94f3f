"""`python tests/support/audited.py PINS STAMP`: known vulnerabilities in the pinned packages, looked up once a day.

Without a network the audit is left out, and says so; anything else that fails, fails.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

_DAY_S = 86_400
_COMMAND = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "5", "--format", "json"]
_NO_NETWORK = re.compile(
    r"ConnectionError|Max retries|[Cc]ould ?n.t connect|Connection (refused|reset)|timed? ?out|ProxyError"
    r"|Name or service|resolve|Unreachable|ServiceError|ServiceUnavailable|Bad Gateway",
)


def audit(pins: Path, stamp: Path) -> int:
    """The exit code: 0 unless a pinned package has a known vulnerability, or the audit itself is broken."""
    if is_fresh(pins, stamp):
        return 0
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--requirement", str(pins), *_COMMAND],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        lines = done.stderr.strip().splitlines() or ["no answer"]
        if not _NO_NETWORK.search(done.stderr):
            print(f"pip-audit failed: {lines[-1]}")
            return 1
        print(f"pip-audit left out, the database cannot be reached: {lines[-1][:120]}")
        return 0
    found = [f"{each['name']} {each['version']}: {known['id']}" for each in packages for known in each.get("vulns", ())]
    print("\n".join(found) or f"pip-audit: nothing known of {len(packages)} packages")
    if not found:
        stamp.touch()
    return int(bool(found))


def is_fresh(pins: Path, stamp: Path) -> bool:
    """True for an audit of these pins within a day."""
    if not stamp.exists():
        return False
    made = stamp.stat().st_mtime
    return made > pins.stat().st_mtime and time.time() - made < _DAY_S


if __name__ == "__main__":
    sys.exit(audit(Path(sys.argv[1]), Path(sys.argv[2])))
