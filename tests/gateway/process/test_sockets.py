"""Sockets that are bound before a server process starts and outlive it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import stat
from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.gateway.process.sockets import close_sockets, listening_sockets

HOST = "127.0.0.1"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short path, as the paths of sockets must be: the directory itself."""
    monkeypatch.chdir(tmp_path)
    return Path("server.sock")


def answer_one(bound: socket.socket) -> None:
    """What a server process does."""
    bound.settimeout(30)
    connection, _ = bound.accept()
    with connection:
        connection.sendall(b"from %d" % os.getpid())


def test_a_connection_that_waits_is_answered_by_the_process_that_starts_later() -> None:
    bound = listening_sockets(HOST, 0, count=2)
    port = bound[0].getsockname()[1]
    assert {each.getsockname() for each in bound} == {(HOST, port)}
    clients = [socket.create_connection((HOST, port), timeout=30) for _ in range(12)]
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=answer_one, args=(bound[0],))
    bound[1].close()  # its connections are reset; those of the other socket wait
    process.start()
    process.join(30)
    answers = []
    for client in clients:
        client.settimeout(0.2 if answers else 30)
        with client, contextlib.suppress(OSError):
            answers.append(client.recv(99))
    bound[0].close()
    assert b"from %d" % (process.pid or 0) in answers


def test_a_second_server_cannot_take_a_part_of_the_port() -> None:
    bound = listening_sockets(HOST, 0, count=3)
    port = bound[0].getsockname()[1]
    for count in (1, 3):
        with pytest.raises(ConfigError, match=f"port {port} is in use"):
            listening_sockets(HOST, port, count=count)
    close_sockets(bound)
    close_sockets(listening_sockets(HOST, port, count=2))


def test_a_port_that_has_just_been_in_use_can_be_taken_again() -> None:
    (bound,) = listening_sockets(HOST, 0)
    port = bound.getsockname()[1]
    with socket.create_connection((HOST, port), timeout=30) as client:
        bound.accept()[0].close()  # this side waits in TIME_WAIT
        client.recv(1)
    close_sockets([bound])
    close_sockets(listening_sockets(HOST, port, count=2))


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [("no..host", 0, "the host no..host is not known"), ("192.0.2.1", 0, "cannot listen on 192.0.2.1:0")],
)
def test_an_address_that_cannot_be_bound_is_one_sentence(host: str, port: int, words: str) -> None:
    for count in (1, 2):
        with pytest.raises(ConfigError, match=words):
            listening_sockets(host, port, count=count)


def test_all_processes_share_one_unix_socket_which_is_removed_at_the_end(place: Path) -> None:
    (bound,) = listening_sockets(HOST, 0, uds=place, count=3)
    assert stat.S_IMODE(place.stat().st_mode) == 0o660
    with pytest.raises(ConfigError, match="another server listens on the Unix socket"):
        listening_sockets(HOST, 0, uds=place)
    close_sockets([bound])
    assert not place.exists()


def test_a_unix_socket_that_a_killed_server_left_is_replaced(place: Path) -> None:
    (killed,) = listening_sockets(HOST, 0, uds=place)
    killed.close()
    assert place.exists()
    (bound,) = listening_sockets(HOST, 0, uds=place)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place))
    close_sockets([bound])


def test_a_server_removes_no_unix_socket_of_a_later_one(place: Path) -> None:
    (first,) = listening_sockets(HOST, 0, uds=place)
    place.unlink()
    (second,) = listening_sockets(HOST, 0, uds=place)
    close_sockets([first])
    assert place.exists()
    close_sockets([second])


def test_a_file_is_not_taken_for_a_left_over_socket(place: Path) -> None:
    place.write_text("mine")
    with pytest.raises(ConfigError, match="exists and is no socket"):
        listening_sockets(HOST, 0, uds=place)
    assert place.read_text() == "mine"
    with pytest.raises(ConfigError, match="longer than 107 bytes"):
        listening_sockets(HOST, 0, uds=Path("x" * 200))
