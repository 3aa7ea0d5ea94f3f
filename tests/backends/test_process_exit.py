"""The exit code of a process in which a model still runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from endless_models import counted_loop
from waiting import LONG_S

PROGRAM = """
import asyncio, sys, threading, time
import numpy as np

file, how = sys.argv[1:]
x = {"x": np.full((1, 1), 1e15, np.float32)}
if how.startswith("engine"):
    from penstock import InferenceConfig, InferenceEngine

    async def main():
        engine = InferenceEngine(InferenceConfig(model_path=file, threads=1))
        await engine.start()
        waiting = asyncio.create_task(engine.infer(None, x))
        while not any(t.name.startswith("penstock-run") for t in threading.enumerate()):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        if how == "engine-closed":
            waiting.cancel()
            await engine.close()

    asyncio.run(main())
else:
    from penstock import Predictor

    predictor = Predictor(file)
    threading.Thread(target=predictor.predict, args=(x,), daemon=True).start()
    time.sleep(0.5)
    if how == "predictor-closed":
        predictor.close()
print("flushed at the end")
if how == "predictor-error":
    raise SystemExit("a sentence")
sys.exit(0 if how.startswith("engine") else 7)
"""


@pytest.mark.parametrize(
    ("how", "code"),
    [("predictor", 7), ("predictor-closed", 7), ("predictor-error", 1), ("engine", 0), ("engine-closed", 0)],
)
def test_a_run_that_never_ends_changes_no_exit_code(tmp_path: Path, how: str, code: int) -> None:
    file = counted_loop(tmp_path / "loop.onnx")
    command = [sys.executable, "-c", PROGRAM, str(file), how]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert (done.returncode, done.stdout) == (code, "flushed at the end\n"), done.stderr
