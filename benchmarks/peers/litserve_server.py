"""LitServe: batches of up to 32 of what waits, one inference process and one HTTP process for each `BENCH_WORKERS`.

A batch does not wait for more requests: `batch_timeout` of 1 ms halved the requests/s. LitServe parses JSON itself,
before `decode_request`. `fast_queue` (ZeroMQ) is its faster way between the processes.
"""

import os
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime as ort


class Inference(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002  the signature that LitServe calls
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads an annotation as FastAPI does
        return np.array(request["input_data"], np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        logits = self.session.run(None, {"input": x})[0]
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        return scores

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        best = int(output.argmax())
        return {"predictions": [best], "confidence_scores": [float(output[best])]}


if __name__ == "__main__":
    workers = int(os.environ.get("BENCH_WORKERS", "1"))
    server = litserve.LitServer(
        Inference(max_batch_size=32, batch_timeout=0.0),
        accelerator="cpu",
        devices=1,
        workers_per_device=workers,
        fast_queue=True,
        timeout=float(os.environ.get("BENCH_TIMEOUT_S", "30")),
    )
    port = int(sys.argv[1])
    server.run(host="127.0.0.1", port=port, num_api_servers=workers, log_level="error", generate_client_file=False)
