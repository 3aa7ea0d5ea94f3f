"""BentoML: adaptive batches of up to 32, `BENCH_WORKERS` processes.

A batchable method takes one array whose first axis is the batch, so a request is one row: `{"input_data": [[…]]}`.
BentoML parses the numbers with its own schema (`numpy.ndarray` of fixed shape), the fastest of its forms for JSON.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import bentoml
import numpy as np
import onnxruntime as ort
from bentoml.validators import DType, Shape

Rows = Annotated[np.ndarray, Shape((-1, 784)), DType("float32")]


@bentoml.service(
    workers=int(os.environ.get("BENCH_WORKERS", "1")),
    traffic={"timeout": float(os.environ.get("BENCH_TIMEOUT_S", "30")), "max_concurrency": 1024},
    logging={"access": {"enabled": False}},
    metrics={"enabled": True},
)
class Inference:
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
    def predict(self, input_data: Rows) -> list[dict[str, Any]]:
        logits = self.session.run(None, {"input": input_data})[0]
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        best = scores.argmax(axis=1)
        return [{"predictions": int(b), "confidence_scores": float(s[b])} for b, s in zip(best, scores, strict=True)]
