"""mosec: batches of up to 32, one Python worker process for each `BENCH_WORKERS` behind its Rust front.

`BENCH_JSON` chooses the parser: `json` is mosec's default, `orjson` replaces parser and writer, `simdjson` reads the
numbers into a buffer without a Python object for each (its best form) and writes with orjson.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
import simdjson
from mosec import Server, Worker
from mosec.errors import ValidationError

LIBRARY = os.environ.get("BENCH_JSON", "orjson")


class Inference(Worker):
    def __init__(self) -> None:
        super().__init__()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        self.parser = simdjson.Parser()

    def deserialize(self, data: bytes) -> Any:
        try:
            if LIBRARY == "simdjson":
                numbers = self.parser.parse(data)["input_data"].as_buffer(of_type="d")
                return np.frombuffer(numbers, np.float64).astype(np.float32)
            document = orjson.loads(data) if LIBRARY == "orjson" else super().deserialize(data)
            return np.array(document["input_data"], np.float32)
        except (KeyError, ValueError) as error:
            raise ValidationError(str(error)) from error

    def serialize(self, data: Any) -> bytes:
        return super().serialize(data) if LIBRARY == "json" else orjson.dumps(data)

    def forward(self, data: list[Any]) -> list[Any]:
        logits = self.session.run(None, {"input": np.stack(data)})[0]
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        best = scores.argmax(axis=1)
        return [
            {"predictions": [int(b)], "confidence_scores": [float(s[b])]} for b, s in zip(best, scores, strict=True)
        ]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Inference, num=int(os.environ.get("BENCH_WORKERS", "1")), max_batch_size=32, max_wait_time=1)
    server.run()
