"""Distillation: a student with a teacher against the same student trained alone, over five seeds.

    python benchmarks/toolchain/distillation.py [--seeds 5] [--json]

The teacher is the starter CNN; the student has an eighth of its channels. Of the 1,437 training digits of scikit-learn
either all have a label or only 100: the student alone learns from the labelled rows, and the teacher also answers the
others. Both take the same number of optimizer steps, and 360 held-out digits are counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pruning import accuracy, starter, subject_of

from penstock.toolchain.recipes.subject import Materials
from penstock.toolchain.recipes.training.distill import Distill
from penstock.toolchain.recipes.training.losses import NO_LABEL
from penstock.toolchain.recipes.training.options import Training
from penstock_digits.data import features_of, load_split

STUDENT = "penstock_digits.model:DigitsCNN"
WIDTH = 2
STEPS = 900


def trained(alpha: float, seed: int, data: Any, labels: Any, example: Any, folder: Path) -> torch.nn.Module:
    """The student; with `alpha` 0 the teacher says nothing."""
    training = Training(learning_rate=1e-2, steps=STEPS, seed=seed)
    technique = Distill(
        STUDENT, {"width": WIDTH, "dropout": 0.0}, alpha=alpha, temperature=4.0, epochs=10**6, training=training
    )
    made = technique.apply(subject_of("digits", starter(), example), Materials(folder, {"input": data}, labels))
    assert made.module is not None
    return made.module.module


def compare(labelled: int, seeds: int, split: Any, folder: Path) -> dict[str, Any]:
    """Both students' accuracies on held-out digits, by seed."""
    rows, held_out = features_of(split.train.counts), features_of(split.held_out.counts)
    alone, taught = [], []
    for seed in range(seeds):
        chosen = np.random.default_rng(seed).permutation(len(rows))[:labelled]
        labels = np.full(len(rows), NO_LABEL)
        labels[chosen] = split.train.labels[chosen]
        sides = ((alone, 0.0, rows[chosen], labels[chosen]), (taught, 0.9, rows, labels))
        for scores, alpha, data, of_them in sides:
            student = trained(alpha, seed, data, of_them, held_out[:4], folder)
            scores.append(round(accuracy(student, held_out, split.held_out.labels), 4))
    return {
        "labelled": labelled,
        "alone": alone,
        "distilled": taught,
        "mean_alone": round(statistics.mean(alone), 4),
        "mean_distilled": round(statistics.mean(taught), 4),
        "points_gained": round(100 * (statistics.mean(taught) - statistics.mean(alone)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    split = load_split()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for labelled in (100, len(split.train.labels)):
            results.append(compare(labelled, arguments.seeds, split, Path(folder)))
            if not arguments.json:
                print(json.dumps(results[-1]), flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
