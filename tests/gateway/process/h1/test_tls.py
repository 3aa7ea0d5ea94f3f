"""HTTPS with real certificates, and Unix sockets."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from h1_server import connection_to, server_with
from live_servers import Live, Process
from waiting import LONG_S, wait_until

from penstock.errors import ConfigError
from penstock.gateway.process.h1.tls import Tls, tls_of
from penstock.gateway.process.reload import Reload
from penstock.settings import Settings

Serve = Callable[..., Process]


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    about = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert), *about], check=True, capture_output=True)
    return cert, key


def name_shown_to(context: ssl.SSLContext, port: int) -> str:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        peer = connection.getpeercert()
    assert peer
    return str(dict(pair for (pair,) in peer["subject"])["commonName"])


def test_a_certificate_is_exchanged_while_connections_live_on(tmp_path: Path) -> None:
    (cert, key), (other, other_key) = certificate(tmp_path, "first"), certificate(tmp_path, "second")
    trusting = ssl.create_default_context(cafile=cert)
    trusting.load_verify_locations(other)
    with server_with(tmp_path / "registry", tls_cert=cert, tls_key=key, header_timeout_s=1.0) as live:
        url = f"https://localhost:{live.port}"
        with httpx.Client(verify=trusting) as client:
            assert client.post(f"{url}/t/echo", content=b"x" * 300_000).content == b"x" * 300_000
            assert name_shown_to(trusting, live.port) == "first"
            cert.write_bytes(other.read_bytes())
            live.call(_read_again(live))  # the key is still that of the first: not used
            assert name_shown_to(trusting, live.port) == "first"
            key.write_bytes(other_key.read_bytes())
            live.call(_read_again(live))
            assert name_shown_to(trusting, live.port) == "second"
            assert client.get(f"{url}/t/early").content == b"early"
        with connection_to(live) as silent:  # no handshake
            assert silent.recv(10) == b""
        assert live.listener.tls is not None
        assert live.listener.tls.context.minimum_version == ssl.TLSVersion.TLSv1_2


def _read_again(live: Live) -> Callable[[], object]:
    async def read_again() -> bool:
        assert live.listener.tls is not None
        reload = Reload(lambda: live.settings, live.settings)
        reload.add(live.listener.tls.again)
        return reload()

    return read_again


def test_a_certificate_is_not_given_up_by_a_reload(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "first")
    tls = Tls(Settings(tls_cert=cert, tls_key=key))
    with pytest.raises(ConfigError, match="tls_cert is not set any more"):
        tls.again(Settings())


def test_clients_without_a_certificate_are_refused_where_one_is_asked_for(tmp_path: Path) -> None:
    (cert, key), (own, own_key) = certificate(tmp_path, "server"), certificate(tmp_path, "client")
    trusting = ssl.create_default_context(cafile=cert)
    with server_with(tmp_path / "registry", tls_cert=cert, tls_key=key, tls_client_ca=own) as live:
        with pytest.raises(httpx.TransportError), httpx.Client(verify=trusting) as client:
            client.get(f"https://localhost:{live.port}/t/early")
        trusting.load_cert_chain(own, own_key)
        with httpx.Client(verify=trusting) as client:
            assert client.get(f"https://localhost:{live.port}/t/early").status_code == 200


def test_files_that_cannot_be_used_are_one_sentence(tmp_path: Path) -> None:
    (cert, _), (_, other_key) = certificate(tmp_path, "a"), certificate(tmp_path, "b")
    for settings, words in (
        ({"tls_cert": cert, "tls_key": other_key}, "no pair of PEM files"),
        ({"tls_cert": tmp_path / "missing.pem"}, "missing.pem cannot be read"),
        ({"tls_key": other_key}, "tls_key needs a certificate"),
        ({"tls_cert": cert, "tls_key": tmp_path / "b.key", "tls_client_ca": other_key}, "PEM"),
    ):
        with pytest.raises(ConfigError, match=words):
            tls_of(Settings(**settings))


def test_a_unix_socket_serves_and_its_user_administers_without_a_key(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "penstock.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    server = serve("--uds", str(path))
    wait_until(lambda: _listens(path))
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
        wait_until(lambda: client.get("/health/startup").status_code == 200)
        assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
        assert client.get("/admin").status_code == 200
        assert client.post("/admin/drain").status_code == 200
        assert os.geteuid() == path.stat().st_uid
        server.send(signal.SIGTERM)
    assert server.finish()[0] == 0
    assert not path.exists()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_exchanges_the_certificate_without_a_failed_request(
    tmp_path: Path, free_port: int, burst_settings: Settings, workers: int
) -> None:
    (cert, key), (other, other_key) = certificate(tmp_path, "first"), certificate(tmp_path, "second")
    trusting = ssl.create_default_context(cafile=cert)
    trusting.load_verify_locations(other)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    more = {"PENSTOCK_TLS_CERT": str(cert), "PENSTOCK_TLS_KEY": str(key), "PENSTOCK_WORKERS": str(workers)}
    command = [sys.executable, "-m", "penstock.cli.main", "serve", "vec", "--port", str(free_port)]
    registry = ["--registry", str(burst_settings.registry)]
    log = tmp_path / "log"
    with log.open("wb") as err, subprocess.Popen([*command, *registry], env={**environ, **more}, stderr=err) as server:
        try:
            wait_until(lambda: len(re.findall(r'"event": ?"ready"', log.read_text())) == workers)
            wait_until(lambda: _answers(trusting, free_port))
            with Steady(trusting, free_port) as steady:
                shown = {name_shown_to(trusting, free_port) for _ in range(8)}
                cert.write_bytes(b"no certificate")
                server.send_signal(signal.SIGHUP)
                wait_until(lambda: "all stays as it was" in log.read_text())
                shown |= {name_shown_to(trusting, free_port) for _ in range(8)}
                assert shown == {"first"}
                cert.write_bytes(other.read_bytes())
                key.write_bytes(other_key.read_bytes())
                server.send_signal(signal.SIGHUP)
                wait_until(lambda: log.read_text().count("were read again") >= workers)
                assert {name_shown_to(trusting, free_port) for _ in range(8)} == {"second"}
                before = steady.answered
                wait_until(lambda: steady.answered >= before + 5)
            server.send_signal(signal.SIGTERM)
            assert server.wait(LONG_S) == 0
        finally:
            server.kill()
    assert "Traceback" not in log.read_text()


def _answers(context: ssl.SSLContext, port: int) -> bool:
    try:
        return httpx.get(f"https://localhost:{port}/health/ready", verify=context).status_code == 200
    except httpx.TransportError:
        return False


class Steady:
    """Requests without a pause, some on a connection that stays, some on new ones; each must be answered."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self.answered = 0
        self._context, self._url = context, f"https://localhost:{port}/health/ready"
        self._stop = threading.Event()
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Steady:
        self._thread.start()
        wait_until(lambda: self.answered >= 5 or self._fault)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(LONG_S)
        assert self._fault is None

    def _run(self) -> None:
        try:
            with httpx.Client(verify=self._context, timeout=LONG_S) as kept:
                while not self._stop.is_set():
                    assert kept.get(self._url).status_code == 200
                    assert httpx.get(self._url, verify=self._context, timeout=LONG_S).status_code == 200
                    self.answered += 1
        except Exception as error:
            self._fault = error
