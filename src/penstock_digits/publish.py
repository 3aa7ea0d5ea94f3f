"""Writes the two artifacts: `digits` for rows of numbers, `digits-image` for images, with the same weights."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.artifacts.reference.reference import Reference, reference_of
from penstock.backends.base import Backend, ModelFile
from penstock.backends.catalog import open_backend
from penstock.options import BackendOptions
from penstock.tasks.classification import ClassScores
from penstock.tasks.image import ImageClassification
from penstock.tensors import Signature, TensorSpec
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.publishing.exporting import ExportRequest, attempt_forms
from penstock.toolchain.publishing.referencing import answers_of
from penstock_digits import cards
from penstock_digits.augment import EMBOLDEN
from penstock_digits.data import TRAINING_DATA, Digits, Features, Split, features_of
from penstock_digits.measure import PICTURES, Scores, picture_accuracy, picture_rows, pictures_of
from penstock_digits.model import CLASSES, PIXELS, DigitsCNN

INPUT = "input"
OUTPUT = "logits"
NAMES = ("digits", "digits-image")
VERSION = "v1.0"
GOLDEN_ROWS = 32
ATOL = 1e-4
RTOL = 1e-4
LABELS = [str(digit) for digit in range(CLASSES)]
SIGNATURE = Signature(
    (TensorSpec(INPUT, "FP32", (-1, PIXELS * PIXELS), ("batch", None)),),
    (TensorSpec(OUTPUT, "FP32", (-1, CLASSES), ("batch", None)),),
)
VECTOR_TASK = TaskEntry(
    kind="vector-classification",
    config={"output": "logits", "labels": LABELS, "preprocess": {"kind": "none"}},
)
IMAGE_TASK = TaskEntry(
    kind="image-classification",
    config={
        "mode": "F",
        "invert": "auto",
        "contrast": "paper",
        "crop": "content",
        "embolden": EMBOLDEN,
        # first the counts of ink in 8×8 fields, as in the data set, then the resize of the features
        "resize": [[8, 8, "box"], [PIXELS, PIXELS, "bilinear"]],
        "preprocess": {"kind": "scale", "factor": 1 / 255},
        "output": "logits",
        "labels": LABELS,
    },
)


def write_artifacts(
    out: Path, network: DigitsCNN, split: Split, scores: Scores, seed: int
) -> tuple[Artifact, Artifact]:
    """Export, compare with the eager network, and write `out/digits` and `out/digits-image`."""
    held_out = split.held_out
    features = features_of(held_out.counts)
    source = ModuleSource(
        NAMES[0], network, SIGNATURE, {INPUT: features}, architecture="penstock_digits.model:DigitsCNN"
    )
    with tempfile.TemporaryDirectory() as scratch, closing(source.reference()) as eager:
        variants = _variants(source, eager, Path(scratch))
        with closing(_opened(variants[0])) as served:
            images = pictures_of(IMAGE_TASK.config, SIGNATURE, held_out)
            pictures = picture_accuracy(images, lambda rows: served.run({INPUT: rows})[OUTPUT], held_out.labels)
            logits = served.run({INPUT: features})[OUTPUT]
            of_pictures = pictures_reference(images, lambda rows: served.run({INPUT: rows})[OUTPUT], split.train)
        samples = {INPUT: features[:GOLDEN_ROWS]}
        shared: dict[str, Any] = {
            "version": VERSION,
            "signature": SIGNATURE,
            "variants": variants,
            "golden": Golden(samples, eager.run(samples), atol=ATOL, rtol=RTOL),
            "lineage": _lineage(seed),
            "training_data": TRAINING_DATA,
        }
        vector, image = NAMES
        return (
            _write(
                out,
                vector,
                VECTOR_TASK,
                cards.metrics_of(scores),
                cards.digits_card(VERSION, scores),
                {**shared, "reference": digits_reference(features, logits, features_of(split.train.counts))},
            ),
            _write(
                out,
                image,
                IMAGE_TASK,
                cards.metrics_of(scores) | cards.picture_metrics(pictures),
                cards.digits_image_card(VERSION, scores, pictures),
                {**shared, "reference": of_pictures},
            ),
        )


def digits_reference(features: Features, logits: Features, trained_on: Features) -> Reference:
    """What drift is measured from: digits that the network has not seen, whose confidences are those of new ones.

    The projection is made from the others, so that the few held-out digits are all counted.
    """
    answers = answers_of(ClassScores(SIGNATURE, "logits", tuple(LABELS), INPUT), {OUTPUT: logits})
    return reference_of({INPUT: features}, answers, SIGNATURE, fitted={INPUT: trained_on})


def pictures_reference(
    pictures: Mapping[str, Features], logits_of: Callable[[Features], Features], others: Digits
) -> Reference:
    """The same for `digits-image`: the held-out digits in every rendering, prepared as its task prepares uploads.

    The projection is made from the others, an equal part of them in each rendering.
    """
    task, looks = ImageClassification(IMAGE_TASK.config, SIGNATURE), [look.how for look in PICTURES.values()]
    parts = [Digits(others.counts[at :: len(looks)], others.labels[at :: len(looks)]) for at in range(len(looks))]
    trained_on = np.concatenate([picture_rows(task, how, part) for how, part in zip(looks, parts, strict=True)])
    features = np.concatenate(list(pictures.values()))
    return digits_reference(features, logits_of(features), trained_on)


def _write(
    out: Path, name: str, task: TaskEntry, metrics: Mapping[str, float], card: str, shared: Mapping[str, Any]
) -> Artifact:
    return write_artifact(out / name, name=name, task=task, metrics=metrics, card=card, **shared)


def _variants(source: ModuleSource, eager: Backend, scratch: Path) -> list[VariantSource]:
    """The ONNX model and the weights, held to the eager network on every held-out digit, as `penstock export` does."""
    request = ExportRequest(NAMES[0], VERSION, forms=("onnx", "pytorch"))
    attempts = attempt_forms(source, eager, scratch, request, batchable=True)
    for attempt in attempts:
        if attempt.source is None:
            raise RuntimeError(f"{attempt.name} is not good: {attempt.why}")
    return [attempt.source for attempt in attempts if attempt.source is not None]


def _opened(variant: VariantSource) -> Backend:
    return open_backend(variant.format, ModelFile(variant.source, SIGNATURE), BackendOptions(device="cpu"))


def _lineage(seed: int) -> dict[str, Any]:
    return {
        "source": "penstock_digits.train",
        "seed": seed,
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "onnx": onnx.__version__,
        "exporter": "torch.onnx.export(dynamo=True)",
    }
