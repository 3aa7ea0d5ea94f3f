"""Writes the images and the request of the examples: `python -m penstock_digits.samples --out examples`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock_digits.data import Digits, features_of, load_split
from penstock_digits.render import Rendering, render

PICTURES: dict[str, tuple[int, Rendering]] = {
    "seven.png": (7, Rendering(margin=0.1)),
    "two-light-on-dark.png": (2, Rendering(dark_on_light=False, margin=0.1, pen=0.5)),
    "five-photo.jpg": (5, Rendering(format="JPEG", margin=0.2, pen=0.5, paper=205, ink=55, shading=0.3, noise=8)),
    "three-light-on-dark.jpg": (3, Rendering(format="JPEG", dark_on_light=False, margin=0.15)),
}
"""The digit and the rendering, by file name."""
REQUEST_DIGIT = 7


def write_samples(out: Path) -> None:
    """Write `out/digit.json` and `out/images/`, all from held-out digits, which are not trained on."""
    held_out = load_split().held_out
    (out / "images").mkdir(parents=True, exist_ok=True)
    for name, (digit, how) in PICTURES.items():
        data = render(_first(held_out, digit), how, np.random.default_rng(0))
        (out / "images" / name).write_bytes(data)
    features = features_of(_first(held_out, REQUEST_DIGIT)[None])[0]
    numbers = [round(number, 4) for number in features.tolist()]
    request = {"input_data": numbers, "model_version": "v1.0", "batch_size": 1}
    (out / "digit.json").write_text(json.dumps(request) + "\n")


def _first(digits: Digits, digit: int) -> NDArray[np.float32]:
    place = int(np.argmax(digits.labels == digit))
    return np.asarray(digits.counts[place])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m penstock_digits.samples", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("examples"))
    write_samples(parser.parse_args().out)
