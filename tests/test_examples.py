"""Every example runs as its own docstring says, and prints what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PROMISES = {
    "own_model.py": r"predicted class (\d), true class \1\nfrom the file: class \1\n",
    "publish_torch_model.py": (
        r"published wine:1\.0\.0, held-out accuracy (0\.9|1\.0).*\n" r"predicted class (\d), true class \2"
    ),
    "engine_in_asyncio.py": r"answers: \{7\}\nlargest batch: ([2-9]|[123]\d)\np99: [\d.]+ ms",
    "every_format.py": r"selected: onnx-fp32: .*\n.*torchscript-fp32: .*\n.*pt2-fp32: .*\n.*pytorch-fp32: ",
    "hydraulics.py": (
        r"trained: loss [\d.]+, at the end [\d.]+\n"
        r"here: critical, cooler_condition at 3 %\nserved: critical, \[.*'overheating'.*\]"
    ),
    "python_model.py": r"\{'positive': \[0\.88\d+, 0\.11\d+\], 'words': \[3, 3\]\}",
    "custom_task.py": r"inputs: \[\[120\.0, 5\.0\]\]\nanswer: 431200",
}


def test_every_example_is_run_here_and_shown_by_a_page() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PROMISES)
    pages = "".join(page.read_text(encoding="utf-8") for page in (EXAMPLES.parent / "docs").glob("*.md"))
    assert [name for name in PROMISES if name not in pages] == []


@pytest.mark.parametrize("name", PROMISES)
def test_an_example_prints_the_expected_output(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert re.search(PROMISES[name], done.stdout), done.stdout
