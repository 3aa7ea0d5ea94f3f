from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.registry.locking import is_locked, locked

HOLDER = """
import sys, pathlib
from penstock.registry.locking import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_excludes_other_holders_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists()
    with locked(path):
        assert is_locked(path)
        with pytest.raises(OSError), locked(path, wait=False):  # noqa: PT011  the system's own error
            pass
    assert not is_locked(path)


def test_the_system_releases_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_locked(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert not is_locked(path)
