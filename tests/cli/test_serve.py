"""`penstock serve` in a separate process, tested with the Python client."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import weights
from waiting import LONG_S

from penstock import Client
from penstock.errors import InvalidInput, ModelNotFound

COMMAND = [sys.executable, "-m", "penstock.cli.main", "serve"]
ROW = [0.5, -1.0, 2.0, 0.25]
Start = Callable[..., tuple[str, "subprocess.Popen[bytes]"]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server on a free port; its URL, once it is ready, and the process."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(*args: object) -> tuple[str, subprocess.Popen[bytes]]:
        command = [*COMMAND, *map(str, args), "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        processes.append(process)
        assert process.stderr is not None
        url, output = "", []
        for line in process.stderr:
            output.append(line)
            event = json.loads(line)["event"] if line.startswith(b"{") else ""
            url = (re.findall(r"http://[^\s;]+", event) or [url])[0]
            if event == "ready":
                return url, process
        raise AssertionError(b"".join(output).decode())

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_a_bare_file_is_served_under_its_name_until_sigterm(start: Start, onnx_file: Path) -> None:
    url, process = start(onnx_file, "--host", "127.0.0.1", "--device", "cpu", "--threads", 1, "--batch-size", 4)
    with Client(url, timeout_s=10) as client:
        assert client.health()["status"] == "healthy"
        answer = client.predict(input_data=np.array(ROW))
        assert answer["predictions"] == [int((np.array(ROW) @ weights(0)).argmax())]
        assert client.predict("linear", input_data=ROW)["predictions"] == answer["predictions"]
        assert client.stats()["batch_size"] == 4
        with pytest.raises(InvalidInput, match="input_data") as caught:
            client.predict("linear", input_data=[1.0])
        assert [error.field for error in caught.value.errors] == ["input_data"]
        with pytest.raises(ModelNotFound, match="nothing"):
            client.predict("nothing", input_data=ROW)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=LONG_S) == 0


def test_the_default_model_is_the_requested_one(start: Start, published: str) -> None:
    url, process = start(f"{published}@champion", f"{published}:v2.0", "--default-model", f"{published}:v2.0")
    with Client(url, timeout_s=10) as client:
        assert client.predict(input_data=ROW)["model_version"] == "v2.0"
        assert client.predict(f"{published}@champion", input_data=ROW)["model_version"] == "v1.0"
        assert [model["name"] for model in client.models()["models"]] == [published]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=LONG_S) == 0


def failed(*args: object) -> str:
    """The error message of a server that did not start."""
    done = subprocess.run([*COMMAND, *map(str, args)], capture_output=True, timeout=LONG_S)
    assert done.returncode == 1, done
    assert done.stdout == b""
    sentences = [line for line in done.stderr.decode().splitlines() if not line.startswith("{")]
    assert len(sentences) == 1, done.stderr.decode()
    return sentences[0]


def test_a_port_in_use_is_one_sentence(onnx_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in failed(onnx_file, "--port", port)


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["nothing"], ["nothing"]),
        (["./nowhere.onnx"], ["nowhere.onnx"]),
        (["broken.onnx"], ["broken.onnx"]),
        (["--model-path", "nowhere.onnx"], ["nowhere.onnx"]),
        (["--device", "tpu"], ["--device", "tpu"]),
        (["--config", "nowhere.toml"], ["nowhere.toml"]),
        (["--log-level", "loud"], ["--log-level", "'loud'"]),
    ],
)
def test_a_model_that_cannot_be_served_is_one_sentence(args: list[str], parts: list[Any]) -> None:
    Path("broken.onnx").write_bytes(b"\x00" * 64)
    sentence = failed(*args, *([] if "--log-level" in args else ["--log-level", "error"]), "--port", 0)
    assert [part for part in parts if part not in sentence] == [], sentence
