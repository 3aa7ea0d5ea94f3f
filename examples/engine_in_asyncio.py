"""The engine without a server: concurrent requests of many coroutines are batched.

python examples/engine_in_asyncio.py
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

from penstock import InferenceConfig, InferenceEngine

PIXELS = json.loads((Path(__file__).parent / "digit.json").read_text())["input_data"]


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = InferenceEngine(InferenceConfig(registry=Path(folder), batch_size=32, max_queue_size=256))
        await engine.start(["digits"])
        try:
            predictions = await asyncio.gather(*(engine.predict({"input_data": PIXELS}) for _ in range(200)))
            print("answers:", {prediction.response.predictions[0] for prediction in predictions})
            print("largest batch:", max(prediction.batch_rows for prediction in predictions))
            print("p99:", round(engine.get_stats()["models"]["digits:v1.0"]["p99_ms"], 2), "ms")
        finally:
            await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
