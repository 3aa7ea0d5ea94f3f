"""`python -m penstock_hydraulics` is `penstock serve hydraulics`: its options, its settings, its port 8002."""

from __future__ import annotations

import runpy
import sys

if __name__ == "__main__":
    sys.argv = ["penstock", "serve", "hydraulics", *sys.argv[1:]]
    runpy.run_module("penstock", run_name="__main__", alter_sys=True)
