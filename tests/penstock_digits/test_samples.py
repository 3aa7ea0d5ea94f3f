from __future__ import annotations

from pathlib import Path

from penstock_digits.samples import PICTURES, write_samples

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_examples_equal_the_output_of_the_script(tmp_path):
    write_samples(tmp_path)
    assert (tmp_path / "digit.json").read_text() == (EXAMPLES / "digit.json").read_text()
    shown = {path.name for path in (EXAMPLES / "images").iterdir()}
    assert shown == {path.name for path in (tmp_path / "images").iterdir()} == set(PICTURES)
