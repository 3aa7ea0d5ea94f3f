"""A Python class as a model: `penstock serve python_model:Sentiment`, in this directory.

It runs in processes of its own. Run as a script, it answers here, by way of such a process.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from penstock import Predictor
from penstock.errors import InvalidInput


class Sentiment:
    inputs = "text:BYTES:-1"
    outputs = ("positive:FP32:-1", "words:INT64:-1")

    def load(self) -> None:
        """Called once in each worker: read files, open a model, take a GPU."""
        self.weights = {"good": 1.0, "great": 2.0, "bad": -1.0, "awful": -2.0}

    def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, object]:
        """Called with a batch: one row for each text of the requests that share it."""
        texts = [text.lower().split() for text in inputs["text"]]
        if not all(texts):
            raise InvalidInput("text: it is empty", field="text")
        sums = np.array([sum(self.weights.get(word, 0.0) for word in words) for words in texts])
        return {"positive": 1 / (1 + np.exp(-sums)), "words": [len(words) for words in texts]}


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    with Predictor("python:python_model:Sentiment") as predictor:
        print(predictor.predict({"text": ["A great plot", "bad bad acting"]}).outputs)
