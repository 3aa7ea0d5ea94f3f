"""What routing and monitoring cost: the same two versions of the MLP with everything on and with everything off."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import models
import numpy as np
from front import Plan, Side, lazy
from load import FEATURES, closed
from processes import Service, penstock
from turns import Result

CONNECTIONS = 64
OFF = {"prediction_stats": "false", "drift_window_s": "0"}


def watched(plan: Plan) -> Result:
    """The MLP on 64 connections: everything off, or with route, evidence, traces, drift and prediction log."""
    with trace_collector() as endpoint:
        on = {"otlp_endpoint": endpoint, "trace_sample": "0.01"}
        on |= {"prediction_log": str(plan.folder / "log"), "prediction_log_sample": "0.01"}
        plain, routed, canary = (registry(plan.folder / name) for name in ("plain", "routed", "canary"))
        command("routes", "set", "mlp", "--arm", "1.0=50", "--arm", "2.0=50", "--registry", str(routed))
        start = ("routes", "canary", "mlp", "--to", "2.0", "--steps", "50,100", "--hold", "10m", "--why", "benchmark")
        command("routes", "set", "mlp", "--arm", "1.0=100", "--registry", str(canary))
        command(*start, "--shadow", "0.001", "--registry", str(canary))
        sides = {
            "everything off": service(plain, **OFF),
            "the defaults": service(plain),
            "with a route": service(routed, **OFF),
            "with traces": service(plain, **OFF, otlp_endpoint=endpoint, trace_sample="0.01"),
            "with the prediction log": service(plain, **OFF, **{k: v for k, v in on.items() if "log" in k}),
            "everything on, a route": service(routed, **on),
            "everything on, a canary": service(canary, **on),
        }
        found = plan.in_turn(_measured(plan, sides))
    return {**found, **_against(found, "everything off", "rps")}


def shadowed(plan: Plan) -> Result:
    """The MLP on 64 connections: a route of one version, without and with copies of a tenth to another."""
    plain, copied = registry(plan.folder / "one"), registry(plan.folder / "copied")
    command("routes", "set", "mlp", "--arm", "1.0=100", "--registry", str(plain))
    command("routes", "set", "mlp", "--arm", "1.0=100", "--shadow", "2.0=0.1", "--registry", str(copied))
    sides = {"without copies": service(plain), "a tenth copied": service(copied)}
    found = plan.in_turn(_measured(plan, sides))
    return {**found, **_against(found, "without copies", "p50_ms")}


BENCHMARKS = {"watched": watched, "shadowed": shadowed}


def registry(folder: Path) -> Path:
    """A registry with two versions of the MLP and the rows that drift is measured from."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "reference.npz", input=np.random.default_rng(7).random((2000, FEATURES), np.float32))
    model, place = models.mlp(folder), folder / "registry"
    for version in ("1.0", "2.0"):
        given = ("--name", "mlp", "--version", version, "--reference", str(folder / "reference.npz"))
        command("models", "publish", str(model), *given, "--registry", str(place))
    return place


def command(*arguments: str) -> None:
    """Run a command of Penstock. Raises CalledProcessError, after what it said."""
    subprocess.run([sys.executable, "-m", "penstock", *arguments], check=True, stdout=subprocess.DEVNULL)


def service(registry: Path, **settings: str) -> Service:
    """The server of a registry with `mlp`."""
    return penstock("mlp", registry=str(registry), **settings)


@contextmanager
def trace_collector() -> Iterator[str]:
    """The address of a server that takes traces and forgets them."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Be silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{collector.server_port}"
        collector.shutdown()


def _measured(plan: Plan, sides: dict[str, Service]) -> dict[str, Side]:
    return {
        name: lazy(lambda one=one: one, lambda one: closed(one, plan.folder, CONNECTIONS, plan.seconds))  # type: ignore[misc]
        for name, one in sides.items()
    }


def _against(found: dict[str, Result], base: str, figure: str) -> Result:
    """A figure of every side as a share of that of `base`."""
    sides = {
        name: one for name, one in found.items() if figure in one and name != base and figure in found.get(base, {})
    }
    return {f"times_{figure}": {name: round(one[figure] / found[base][figure], 3) for name, one in sides.items()}}
