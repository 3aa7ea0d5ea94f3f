"""A typical hand-written server: one FastAPI route that runs the session for each request."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel

options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
app = FastAPI()


class Request(BaseModel):
    input_data: list[float]


class Response(BaseModel):
    predictions: list[int]
    confidence_scores: list[float]


@app.post("/inference/predict")
async def predict(request: Request) -> Response:
    logits = session.run(None, {"input": np.array([request.input_data], np.float32)})[0]
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    best = scores.argmax(axis=1)
    return Response(predictions=best.tolist(), confidence_scores=scores[range(len(best)), best].tolist())
