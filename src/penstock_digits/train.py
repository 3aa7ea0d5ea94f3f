"""Trains the starter models and writes their artifacts: `python -m penstock_digits.train --out DIR --seed 0`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from penstock_digits.augment import augmented
from penstock_digits.data import Digits, Features, features_of, load_split
from penstock_digits.measure import score
from penstock_digits.model import DigitsCNN
from penstock_digits.publish import NAMES, write_artifacts

COPIES = 8
EPOCHS = 8
BATCH = 128
PEAK_RATE = 5e-3
THREADS = 1
"""Fixed, because the number of threads changes the last bits of sums and with them the trained weights."""


def train(digits: Digits, seed: int, *, verbose: bool = False) -> DigitsCNN:
    """A network trained on `digits` and their variations; reproducible for a seed on the same processor."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(THREADS)
    inputs, labels = _training_set(digits, np.random.default_rng(seed))
    network = DigitsCNN()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    steps = EPOCHS * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.02)
    network.train()
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for rows in _batches(len(labels)):
            optimizer.zero_grad()
            loss = loss_of(network(inputs[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        if verbose:
            print(f"epoch {epoch:2d}/{EPOCHS}  loss {total / len(labels):.4f}", flush=True)
    return network.eval()


def logits_of(network: DigitsCNN, features: Features) -> Features:
    """The output of the eager network, the reference for every other form."""
    with torch.inference_mode():
        return network(torch.from_numpy(features)).numpy()  # type: ignore[no-any-return]


def _training_set(digits: Digits, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The original digits and `COPIES` variations of each."""
    features = [features_of(digits.counts), *(augmented(digits.counts, rng) for _ in range(COPIES))]
    return torch.from_numpy(np.concatenate(features)), torch.from_numpy(np.tile(digits.labels, COPIES + 1))


def _batches(rows: int) -> Iterator[Tensor]:
    order = torch.randperm(rows)
    return (order[start : start + BATCH] for start in range(0, rows, BATCH))


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, and write both artifacts to `--out`; prints progress and the final metrics."""
    parser = argparse.ArgumentParser(prog="python -m penstock_digits.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory for the artifacts digits and digits-image")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if any((options.out / name).exists() for name in NAMES):
        parser.error(f"{options.out} already holds {' or '.join(NAMES)}; choose another directory or remove them")
    started = time.monotonic()
    split = load_split()
    print(f"{len(split.train.labels)} digits to train on, {len(split.held_out.labels)} held out", flush=True)
    network = train(split.train, options.seed, verbose=True)
    scores = score(logits_of(network, features_of(split.held_out.counts)), split.held_out.labels)
    print(f"trained in {time.monotonic() - started:.0f} s")
    artifacts = write_artifacts(options.out, network, split, scores, options.seed)
    for artifact in artifacts:
        print(f"{artifact.path}: {artifact.size_bytes / 1024:.0f} KiB")
    print(json.dumps(artifacts[-1].manifest.metrics, indent=2))


if __name__ == "__main__":
    main()
