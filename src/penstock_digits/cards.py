"""The model cards of the two artifacts, and the metrics in their manifests."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.artifacts.card import render_card
from penstock_digits.measure import PICTURES, Scores

HELD_OUT = "scikit-learn load_digits, the held-out 20 %"
_DATA = """
The 1,797 real handwritten digits of scikit-learn's `load_digits`, a copy of the test set of
[Optical Recognition of Handwritten Digits](https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits)
by E. Alpaydin and C. Kaynak (1998), UCI Machine Learning Repository,
[doi:10.24432/C50P49](https://doi.org/10.24432/C50P49), licensed
[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/). 13 people wrote them.

Each is 8×8 values from 0 to 16; they are divided by 16 and resized to 28×28 with Pillow's bilinear filter.
80 % of them are trained on, with eight variations each: turned, slanted, stretched, bolder, finer, with grain.
A stratified 20 % (360 digits, split by seed 0) is held out; every figure below is measured on it.

Changes to the data: scaled and resized as described; variations made from the training part only.
"""
_VECTOR_LIMITS = """
- The input is one digit that fills its 28×28 frame from top to bottom, bright ink (1) on dark paper (0), made
  as the training data was. Other preparations, MNIST's for example with its margin, are another task.
- One digit a row: no numbers of several digits, no letters. Whatever it is shown, it answers with a digit.
- A few people in one country wrote the data in the 1990s; other handwriting may be read less well.
- The confidence is the softmax of the logits. It is not calibrated for inputs unlike the training data.
"""
_IMAGE_LIMITS = """
- One digit, upright, on paper of one colour, and nothing else in the picture: no ruled lines, no edge of the
  table, no second digit. The picture is cut to everything that stands out from the paper.
- It finds the paper by the picture's border. A picture whose border is mostly ink is read the wrong way round.
- Broken strokes, and fine ones in a small corner of a large photograph, are read less well.
- No numbers of several digits, no letters. Whatever it is shown, it answers with a digit.
- A few people in one country wrote the data in the 1990s; other handwriting may be read less well.
- The confidence is the softmax of the logits. It is not calibrated for inputs unlike the training data.
"""
_NETWORK = "A convolutional network of 33,914 parameters. Its weights come as ONNX and as safetensors."


def metrics_of(scores: Scores) -> dict[str, float]:
    """What a manifest records: accuracy, macro F1 and the F1 of each digit, 0 to 1."""
    by_digit = {f"f1_{digit}": round(value, 4) for digit, value in enumerate(scores.f1)}
    return {"accuracy": round(scores.accuracy, 4), "macro_f1": round(scores.macro_f1, 4), **by_digit}


def picture_metrics(pictures: Mapping[str, float]) -> dict[str, float]:
    """The accuracy for each rendering."""
    return {f"accuracy_{name}": round(value, 4) for name, value in pictures.items()}


def digits_card(version: str, scores: Scores) -> str:
    """The card of `digits`."""
    card = render_card(
        name="digits",
        version=version,
        summary=f"Reads one handwritten digit from 784 numbers (28×28, row by row).\n\n{_NETWORK}",
        intended_use="A starter model: to try Penstock with, to test an installation, to learn from. Not for decisions"
        " about people, money or mail.",
        limits=_VECTOR_LIMITS,
        training_data=_DATA,
        license="apache-2.0",
        datasets=["optdigits"],
        metrics=metrics_of(scores),
        tags=["handwriting", "digits", "onnx", "starter"],
        task_type="tabular-classification",
        dataset_name=HELD_OUT,
    )
    return card + _confusion(scores)


def digits_image_card(version: str, scores: Scores, pictures: Mapping[str, float]) -> str:
    """The card of `digits-image`."""
    card = render_card(
        name="digits-image",
        version=version,
        summary="Reads one handwritten digit from a picture: PNG, JPEG, WebP, BMP or GIF, dark ink on light paper or"
        f" the reverse.\n\nThe weights are those of `digits`. {_NETWORK}",
        intended_use="A starter model: upload a drawn or photographed digit and see an answer. The picture is turned"
        " to bright ink on dark paper, evened out, cut to what is drawn, fine strokes are thickened, and the ink is"
        " counted in 8×8 fields as the data set's makers did. Not for decisions about people, money or mail.",
        limits=_IMAGE_LIMITS,
        training_data=_DATA,
        license="apache-2.0",
        datasets=["optdigits"],
        metrics=metrics_of(scores),
        tags=["handwriting", "digits", "onnx", "starter"],
        task_type="image-classification",
        dataset_name=HELD_OUT,
    )
    return card + _pictures(pictures) + _confusion(scores)


def _pictures(pictures: Mapping[str, float]) -> str:
    rows = "\n".join(f"| {PICTURES[name].text} | {value:.1%} |" for name, value in pictures.items())
    return (
        "\n## Accuracy on pictures\n\n"
        "The held-out digits rendered as files of 280×280 pixels and read back through the whole image task.\n\n"
        f"| picture | accuracy |\n|---|---|\n{rows}\n"
    )


def _confusion(scores: Scores) -> str:
    digits = range(len(scores.confusion))
    head = "| true \\\\ read as | " + " | ".join(map(str, digits)) + " |\n|" + "---|" * (len(digits) + 1)
    rows = "\n".join(f"| **{digit}** | " + " | ".join(map(str, scores.confusion[digit])) + " |" for digit in digits)
    return f"\n## Confusion\n\n{head}\n{rows}\n"
