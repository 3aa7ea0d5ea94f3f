"""A few cases of the bulk run over the ONNX backend tests (the whole takes minutes), and the page of figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "onnx_backend.py"


def test_cases_of_the_onnx_package_are_served_as_onnx_runtime_answers_them() -> None:
    operators = "div,nonzero,softmax_cross_entropy_loss"
    command = [sys.executable, SCRIPT, "--operators", operators, "--workers", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = [result["status"] for result in json.loads(done.stdout)]
    assert statuses.count("passed") > 20
    assert {*statuses} <= {"passed", "ort", "types"}


RENDER = Path(__file__).parents[1] / "benchmarks" / "render.py"


def side(rps: float, cpu_us: float) -> dict[str, Any]:
    shared = {"p50_ms": 1.0, "p99_ms": 2.0, "failed": 0, "load_share": 0.2, "others_share": 0.0}
    return {"rps": rps, "cpu_us": cpu_us, "ready_s": 0.5, "rss_mb": 120.0, "rps_spread": [rps, rps], **shared}


def test_figures_are_written_into_their_places_of_the_page(tmp_path: Path) -> None:
    row = {"Penstock": side(30_000, 35), "mosec with orjson": side(15_000, 70), "FastAPI": {"skipped": "no peers"}}
    row |= {"Penstock, binary body": side(45_000, 25), "times_rps": {"mosec with orjson": 2.0}}
    (tmp_path / "r.json").write_text(json.dumps({"commit": "abc", "rounds": 5, "seconds": 3.0, "small_model": row}))
    page = tmp_path / "page.md"
    page.write_text((RENDER.parents[1] / "docs" / "benchmarks.md").read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, RENDER, tmp_path / "r.json", "--page", page]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "no figures for: two_processes, cnn" in done.stderr
    text = page.read_text(encoding="utf-8")
    assert "| Penstock | 30,000 (30,000 to 30,000) |  | 35.0 |" in text
    assert "| mosec with orjson | 15,000 (15,000 to 15,000) | 2.00 × | 70.0 |" in text
    assert "Not measured: FastAPI (no peers)" in text
    assert "| binary body: 1.5 × JSON | 1.50 × |" in text
    assert text.count("<!-- end -->") == text.count("<!-- figures: ")


def test_without_the_other_servers_the_benchmarks_say_how_to_get_them(tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "wrk").write_text("#!/bin/sh\n")
    (bin_folder / "wrk").chmod(0o755)
    command = [sys.executable, RENDER.parent, "small_model"]
    for path, wanted in ((str(bin_folder), "run `make peers`"), ("", "apt-get install wrk")):
        environment = {"PATH": path, "PEERS": str(tmp_path / "none"), "HOME": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert wanted in done.stderr
        assert "Traceback" not in done.stderr
