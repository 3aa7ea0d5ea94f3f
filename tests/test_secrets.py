"""Secrets of the settings are in no message, representation, log, reply or core dump."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from linear_models import linear

from penstock.errors import ConfigError
from penstock.monitor.redaction import scrub, scrub_field
from penstock.options import EngineOptions, is_secret
from penstock.settings import NAMES, TABLES, Settings, display, load_settings

SECRET = "hunter2hunter2hunter2"
FLAT = [name for name in NAMES if name not in TABLES]
SECRETS = [name for name in FLAT if is_secret(Settings.model_fields[name])]
LOOKS_SECRET = re.compile(r"(^|_)(key|keys|password|passphrase|secret|token|headers|credentials|webhooks|pepper)(_|$)")
NO_SECRETS = {"tls_key"}
"""Settings that sound like secrets and hold the path of a file."""
VALUES = {
    "database_url": f"postgresql://user:{SECRET}@host/db",
    "otlp_headers": f"authorization={SECRET}",
    "alert_webhooks": f"https://hooks.example.org/{SECRET}",
}


def loaded(name: str, value: str, directory: Path) -> Settings:
    return load_settings(environ={f"PENSTOCK_{name.upper()}": value}, directory=directory).settings


def test_there_are_secrets() -> None:
    assert {"admin_key", "database_url", "otlp_headers", "signing_passphrase"} <= set(SECRETS)


@pytest.mark.parametrize("name", [name for name in FLAT if LOOKS_SECRET.search(name) and name not in NO_SECRETS])
def test_a_setting_that_sounds_like_a_secret_is_one(name: str) -> None:
    assert name in SECRETS


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_in_no_representation(name: str, tmp_path: Path) -> None:
    settings = loaded(name, VALUES.get(name, SECRET), tmp_path)
    assert SECRET in str(getattr(settings, name))
    shown = [repr(settings), str(settings), str(display(name, getattr(settings, name)))]
    if name in EngineOptions.model_fields:
        shown.append(repr(EngineOptions(**{name: getattr(settings, name)})))
    assert not [text for text in shown if SECRET in text]


@pytest.mark.parametrize("name", [name for name in FLAT if "Path" not in str(Settings.model_fields[name].annotation)])
def test_a_password_in_an_address_is_shown_in_no_setting_and_no_message(name: str, tmp_path: Path) -> None:
    for value in (f"https://user:{SECRET}@example.org", f"https://{SECRET}@example.org/", f"s3://a:{SECRET}@b"):
        try:
            settings = loaded(name, value, tmp_path)
        except ConfigError as error:
            text = "".join(traceback.format_exception(error))
        else:
            text = repr(settings) + repr(display(name, getattr(settings, name)))
        assert SECRET not in text


@pytest.mark.parametrize("name", SECRETS)
def test_the_log_hides_the_field_and_the_variable_of_a_secret(name: str) -> None:
    if name in VALUES:  # hidden by what they hold
        assert SECRET not in scrub(f"PENSTOCK_{name.upper()} {VALUES['database_url']}")
    else:
        assert scrub_field(name, SECRET) == "[secret]"
        assert SECRET not in scrub(f"PENSTOCK_{name.upper()}={SECRET}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, int, list[str]]]:
    """A server whose settings hold secrets: its URL, its process, and its log."""
    linear(tmp_path / "linear.onnx")
    given = {
        "ADMIN_KEY": SECRET,
        "SIGNING_PASSPHRASE": SECRET,
        "OTLP_HEADERS": f"authorization={SECRET}",
        "OTLP_ENDPOINT": f"http://user:{SECRET}@127.0.0.1:9",
        "TRACE_SAMPLE": "1",
        "DRAIN_TIMEOUT_S": "1",
        "LOG_LEVEL": "debug",
        "ACCESS_LOG": "true",
    }
    environ = {**os.environ, **{f"PENSTOCK_{name}": value for name, value in given.items()}}
    command = [sys.executable, "-m", "penstock", "serve", "linear.onnx", "--port", "0", "--registry", "registry"]
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        log, url = [], ""
        for line in process.stderr:
            log.append(line)
            event = json.loads(line)["event"] if line.startswith("{") else ""
            url = (re.findall(r"http://127.0.0.1:\d+", event) or [url])[0]
            if event == "ready":
                break
        yield url, process.pid, log
        process.terminate()
        log.append(process.stderr.read())


def test_a_server_tells_no_secret_and_leaves_no_core_dump(server: Any) -> None:
    url, process, log = server
    with httpx.Client(base_url=url) as client:
        replies = [client.get(path) for path in ("/stats", "/metrics", "/models", "/health/ready", "/openapi.json")]
        replies.append(client.post("/predict", json={"input_data": [0, 0, 0, 0]}))
        replies.append(client.get(f"/models/{SECRET}", headers={"authorization": f"Bearer {SECRET}"}))
        replies.append(client.get("/admin/deployment", headers={"authorization": f"Bearer {SECRET}"}))
    assert replies[0].status_code == 200
    assert not [reply.url for reply in replies if SECRET in reply.text and SECRET not in str(reply.url)]
    assert not [line for line in log if SECRET in line]
    if sys.platform == "linux":
        limits = Path(f"/proc/{process}/limits").read_text()
        assert re.search(r"^Max core file size +0 ", limits, re.MULTILINE)
