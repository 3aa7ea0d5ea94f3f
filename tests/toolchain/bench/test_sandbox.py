"""Sandboxes: what crashes, hangs or takes too much memory in one is a sentence here, and no process is left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from waiting import wait_until

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.bundled import bundled, versions_in
from penstock.backends.base import ModelFile
from penstock.backends.catalog import open_backend
from penstock.errors import InferenceError, InvalidInput, ModelLoadError, OutOfRange, Untrusted
from penstock.options import BackendOptions
from penstock.toolchain.bench.sandbox import Limits, Sandbox, SandboxFailed

CALLS = "sandbox_calls"


@pytest.fixture(scope="module")
def digits() -> Artifact:
    return Artifact.open(versions_in(bundled()["digits"])[0])


@pytest.fixture(scope="module")
def opened(digits: Artifact) -> Iterator[Sandbox]:
    with Sandbox.of_variant(digits, digits.manifest.variant("onnx-fp32")) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def idle() -> Iterator[Sandbox]:
    """A sandbox for calls that do it no harm."""
    with Sandbox("m", Limits(threads=3)) as sandbox:
        yield sandbox


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def sentence_of(target: str, *args: Any, **limits: Any) -> str:
    """The message when this call ends its sandbox; the process is gone then, and says so."""
    with Sandbox("m", Limits(**limits)) as sandbox:
        with pytest.raises(SandboxFailed) as failed:
            sandbox.call(f"{CALLS}:{target}", *args)
        assert not alive(sandbox.pid)
        with pytest.raises(SandboxFailed) as again:
            sandbox.call("os:getpid")
    assert str(again.value) == str(failed.value)
    assert "\n" not in str(failed.value)
    return str(failed.value)


# A model in a sandbox


def test_a_model_answers_as_it_does_here(digits: Artifact, opened: Sandbox) -> None:
    golden = digits.golden()
    assert golden is not None
    outputs = opened.run(golden.inputs)
    variant = digits.manifest.variant("onnx-fp32")
    here = open_backend("onnx", ModelFile(digits.variant_path(variant), digits.signature), BackendOptions())
    assert np.array_equal(outputs["logits"], here.run(golden.inputs)["logits"])
    assert opened.signature == here.signature
    assert opened.facts["num_parameters"] == here.num_parameters
    here.close()


def test_it_is_a_backend_as_well(digits: Artifact, opened: Sandbox) -> None:
    golden = digits.golden()
    assert golden is not None
    backend = opened.backend()
    backend.signature.check_outputs(backend.run(golden.inputs), golden.rows)
    assert backend.format == "onnx"


def test_runs_are_timed_by_rows_with_the_golden_samples(digits: Artifact, opened: Sandbox) -> None:
    golden = digits.golden()
    assert golden is not None
    taken = opened.time(3, 5)
    assert len(taken) == 5
    assert all(0 < seconds < 60 for seconds in taken)
    assert np.array_equal(opened.inputs(3)["input"], golden.inputs["input"][:3])
    assert not opened.facts["made_up"]


def test_timing_ends_with_its_time(opened: Sandbox) -> None:
    assert len(opened.time(1, 1_000_000, seconds=0.05)) < 1_000_000
    assert len(opened.time(opened.inputs(2), 10, seconds=0.0)) == 1


def test_usage_is_that_of_the_child(opened: Sandbox) -> None:
    usage = opened.usage()
    assert 20e6 < usage.peak_bytes < 400e6
    assert 0 <= usage.model_bytes < usage.peak_bytes
    assert usage.cpu_s > 0
    assert usage.load_s > 0
    assert usage.first_run_s > 0
    assert usage.gpu_peak_bytes is None


def test_invalid_inputs_are_the_error_that_they_are_here(opened: Sandbox) -> None:
    with pytest.raises(InferenceError) as failed:
        opened.run({"input": np.zeros((1, 3), np.float32)})
    assert not isinstance(failed.value, SandboxFailed)
    assert opened.time(1, 1)


@pytest.mark.parametrize(("content", "kind"), [(b"no model", ModelLoadError), (None, ModelLoadError)])
def test_a_model_that_cannot_be_opened_is_the_same_error(
    tmp_path: Path, content: bytes | None, kind: type[Exception]
) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind, match=r"m\.onnx"):
        Sandbox.open("onnx", ModelFile(path))


def test_trust_is_asked_for_in_the_sandbox_too(digits: Artifact) -> None:
    with pytest.raises(Untrusted):
        Sandbox.open("torchscript", ModelFile(digits.path / "model.pt"))


def test_a_sandbox_without_a_model_says_so(idle: Sandbox) -> None:
    with pytest.raises(InferenceError, match="no model is open"):
        idle.run({})
    with pytest.raises(InferenceError, match="no model is open"):
        _ = idle.signature


# Calls


def test_results_are_plain_data_and_the_process_lasts(idle: Sandbox) -> None:
    assert idle.call(f"{CALLS}:echo", {"a": (1, [2.5], None)}) == {"a": (1, [2.5], None)}
    assert np.array_equal(idle.call(f"{CALLS}:echo", np.arange(5)), np.arange(5))
    assert idle.call(f"{CALLS}:remember", 2) == 2
    assert idle.call(f"{CALLS}:remember", value=3) == 5


def test_large_arrays_pass_in_both_directions(idle: Sandbox) -> None:
    large = np.random.default_rng(1).random(4_000_000)
    assert np.array_equal(idle.call(f"{CALLS}:echo", large), large)


def test_errors_of_penstock_keep_their_type_and_others_are_told(idle: Sandbox) -> None:
    with pytest.raises(InvalidInput, match=r"^x: it is wrong$"):
        idle.call(f"{CALLS}:refuse_plainly")
    with pytest.raises(OutOfRange, match="x: it is above 3"):
        idle.call(f"{CALLS}:refuse", "x")
    for target, args, words in (
        ("fall_over", ("ValueError",), "m: ValueError: broken (in sandbox_calls:fall_over)"),
        ("fall_over", ("MemoryError",), "m: it ran out of memory (in sandbox_calls:fall_over)"),
        ("not_plain", (), "m: TypeError: NotPlain is no plain data"),
        ("nothing_of_this_name", (), "m: AttributeError:"),
    ):
        with pytest.raises(SandboxFailed) as failed:
            idle.call(f"{CALLS}:{target}", *args)
        assert str(failed.value).startswith(words)
    with pytest.raises(SandboxFailed, match="SystemExit"):
        idle.call("sys:exit", 3)
    with pytest.raises(SandboxFailed, match="cannot be sent"):
        idle.call(f"{CALLS}:echo", lambda: None)
    assert idle.call(f"{CALLS}:echo", 1) == 1


def test_output_and_input_of_a_call_do_not_disturb_it(idle: Sandbox) -> None:
    assert idle.call(f"{CALLS}:chatter", 5000) == 5000
    assert idle.call(f"{CALLS}:read_input") == ""


def test_a_child_has_its_own_group_this_import_path_and_safe_defaults(idle: Sandbox) -> None:
    found = idle.call(f"{CALLS}:environment")
    assert found["variables"]["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    assert found["variables"]["OMP_NUM_THREADS"] == "3"
    assert found["group"] == found["pid"] == idle.pid
    assert {path for path in sys.path if path} <= set(found["path"])


# Failures


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SIGSEGV", "crashed with SIGSEGV (invalid memory access)"),
        ("SIGILL", "crashed with SIGILL (an instruction that this CPU does not have)"),
        ("SIGKILL", "crashed with SIGKILL (ended by the system, most likely because the machine ran out of memory)"),
    ],
)
def test_a_crash_is_named(name: str, words: str) -> None:
    assert sentence_of("die_by", name) == f"m: its process {words} in sandbox_calls:die_by"


def test_the_last_line_of_native_code_is_reported() -> None:
    assert sentence_of("abort_with_words").endswith(
        "; it wrote: terminate called after throwing an instance of 'std::bad_alloc'"
    )


def test_an_exit_is_named() -> None:
    with (
        Sandbox("m") as sandbox,
        pytest.raises(SandboxFailed, match=r"^m: its process ended with exit code 7 in os:_exit"),
    ):
        sandbox.call("os:_exit", 7)


def test_a_call_that_hangs_is_ended(tmp_path: Path) -> None:
    assert sentence_of("hang_with_the_lock", tmp_path / "pid", seconds=0.8).startswith(
        "m: it took longer than 0.8 s in "
    )


@pytest.mark.parametrize("mebibytes", [400, 402], ids=["itself", "in a process that it started"])
def test_a_call_that_takes_too_much_memory_is_ended(mebibytes: int) -> None:
    sentence = sentence_of("take_memory", mebibytes, memory_bytes=300 * 2**20)
    assert sentence == "m: it took more than 300 MiB of memory in sandbox_calls:take_memory"


@pytest.mark.parametrize("target", ["start_a_process", "start_in_another_session"])
def test_processes_that_a_call_started_end_with_it(tmp_path: Path, target: str) -> None:
    file = tmp_path / "pids"
    with Sandbox("m") as sandbox:
        thread = threading.Thread(target=_expect_failure, args=(sandbox, f"{CALLS}:{target}", file))
        thread.start()
        wait_until(lambda: file.exists() and len(file.read_text().split()) == 2)
        sandbox.close()
        thread.join()
    wait_until(lambda: not any(alive(int(pid)) for pid in file.read_text().split()))


def test_processes_that_a_call_left_running_end_with_the_sandbox(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    with Sandbox("m") as sandbox:
        sandbox.call(f"{CALLS}:start_and_return", file)
        assert all(alive(int(pid)) for pid in file.read_text().split())
    wait_until(lambda: not any(alive(int(pid)) for pid in file.read_text().split()))


def _expect_failure(sandbox: Sandbox, target: str, file: Path) -> None:
    with pytest.raises(SandboxFailed, match="its process was closed in"):
        sandbox.call(target, file)


@pytest.mark.parametrize("target", ["hang_with_the_lock", "start_a_process"])
def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path, target: str) -> None:
    file = tmp_path / "pids"
    script = (
        f"import sys, pathlib; sys.path[:0] = {[path for path in sys.path if path]!r}\n"
        "from penstock.toolchain.bench.sandbox import Sandbox\n"
        f"Sandbox('m').call('{CALLS}:{target}', pathlib.Path({str(file)!r}))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait_until(lambda: file.exists() and file.read_text())
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(alive(int(pid)) for pid in file.read_text().split()))


def test_an_interrupted_call_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox("m") as sandbox:

        def interrupt(pid: int) -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr("penstock.toolchain.bench.isolation.memory.resident", interrupt)
        limited = Sandbox("m", Limits(memory_bytes=2**40))
        with pytest.raises(KeyboardInterrupt):
            limited.call(f"{CALLS}:hang_with_the_lock", tmp_path / "pid")
        assert not alive(limited.pid)
        assert sandbox.call("os:getpid") == sandbox.pid
    assert not alive(sandbox.pid)
