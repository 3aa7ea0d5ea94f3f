"""Servers that are started to be measured: they take the configuration, and none stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from linear_models import FEATURES, SIGNATURE, linear, weights
from live_servers import children
from waiting import wait_until

from penstock.artifacts.artifact import Golden, TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry
from penstock.toolchain.tune.configuration import Configuration
from penstock.toolchain.tune.server import Serving, running


def artifact(place: Path) -> Path:
    x = np.random.default_rng(7).standard_normal((4, FEATURES)).astype(np.float32)
    return write_artifact(
        place / "source",
        name="linear",
        version="v1.0",
        task=TaskEntry(kind="vector-classification", config={"output": "logits"}),
        signature=SIGNATURE,
        variants=[VariantSource("onnx", "fp32", linear(place / "linear.onnx"))],
        card="# linear\n",
        golden=Golden({"x": x}, {"logits": x @ weights(0)}, 1e-5, 1e-5),
    ).path


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    with Registry(tmp_path / "registry") as registry:
        registry.publish(artifact(tmp_path))
    return Serving("linear:v1.0", (f"--registry={tmp_path / 'registry'}",), tmp_path)


def processes_of(place: Path) -> list[int]:
    """The processes whose command names this directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(place).encode() in command:
                found.append(int(entry.name))
    return found


def test_a_server_takes_the_configuration_whatever_the_environment_says_and_is_gone_afterwards(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_WORKERS", "1")
    monkeypatch.setenv("BATCH_SIZE", "not a number")
    monkeypatch.setenv("PENSTOCK_CACHE_SIZE", "100")
    config = f'max_queue_size = 77\nprediction_log = "{tmp_path / "log"}"\n'
    with running(serving, Configuration(workers=2, batch_size=8), config) as url:
        assert httpx.get(f"{url}/health/ready").status_code == 200
        supervisor = next(pid for pid in processes_of(tmp_path) if children(pid))
        assert len(children(supervisor)) == 2
    assert not (tmp_path / "log").exists()
    assert processes_of(tmp_path) == []
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/health/ready")


def test_a_server_ends_when_the_process_that_measures_it_is_killed(serving: Serving, tmp_path: Path) -> None:
    code = f"""
import tempfile, time
from pathlib import Path
from penstock.toolchain.tune.configuration import Configuration
from penstock.toolchain.tune.server import Serving, running

tempfile.tempdir = {str(tmp_path / "own")!r}
with running(Serving({serving.ref!r}, {serving.arguments!r}, Path({str(tmp_path)!r})), Configuration(), "") as url:
    print(url, flush=True)
    time.sleep(600)
"""
    (tmp_path / "own").mkdir()
    measuring = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert measuring.stdout is not None
    url = measuring.stdout.readline().strip()
    assert httpx.get(f"{url}/health/live").status_code == 200
    measuring.send_signal(signal.SIGKILL)
    measuring.communicate()
    wait_until(lambda: processes_of(tmp_path) == [])
    assert list((tmp_path / "own").iterdir()) == []
