"""Requests whose answers are known: each model's file was run before, without the server.

A request is drawn from a seed, so a run sends the same requests again.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from PIL import Image
from served_models import SIDE

Array: TypeAlias = np.ndarray
Check: TypeAlias = Callable[[bytes], bool]
CLOSE = 1e-4
"""Rows that share a run may differ by rounding."""
POOL = 40
"""How many requests of each kind there are."""
BINARY = {"content-type": "application/octet-stream", "accept": "application/octet-stream"}


@dataclass(frozen=True)
class Known:
    """One request to a model, and for each version that may answer whether a reply is right."""

    kind: str
    model: str
    path: str
    body: bytes
    right: Mapping[str, Check]
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    pinned: bool = False
    """True if only the version in its path may answer."""


class Sessions:
    """The files of the registry's versions, run by ONNX Runtime."""

    def __init__(self, registry: Path) -> None:
        self._registry = registry
        self._open: dict[tuple[str, str], onnxruntime.InferenceSession] = {}

    def run(self, model: str, version: str, **inputs: Array) -> Array:
        """The first output."""
        if (model, version) not in self._open:
            file = self._registry / model / version / "variants" / "onnx-fp32" / "model.onnx"
            self._open[model, version] = onnxruntime.InferenceSession(file.read_bytes())
        outputs: list[Array] = self._open[model, version].run(None, inputs)
        return outputs[0]


def known_requests(registry: Path, versions: tuple[str, ...], seed: int, count: int = POOL) -> dict[str, list[Known]]:
    """`count` requests of each kind; `versions` are those of `vec` that may ever answer."""
    sessions, chance = Sessions(registry), np.random.default_rng(seed)
    kinds = (_vectors, _logits, _binary, _pinned, _batch, _sums, _large_sums, _pictures, _slow)
    made: dict[str, list[Known]] = {}
    for make in kinds:
        made[make.__name__[1:]] = [make(sessions, versions, chance) for _ in range(count)]
    return made


def drawn(pool: Mapping[str, list[Known]], seed: int, client: int) -> Callable[[], Known]:
    """The requests of one client, in order."""
    chance = random.Random(f"{seed}/{client}")
    weights = {"slow": 1, "large_sums": 1, "pictures": 1}
    names = [name for name in pool for _ in range(weights.get(name, 4))]
    return lambda: chance.choice(pool[chance.choice(names)])


def _rows(chance: np.random.Generator, count: int, width: int = 4) -> Array:
    return chance.standard_normal((count, width)).astype(np.float32)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: Array = powers / powers.sum(axis=1, keepdims=True)
    return result


def _is_classified(document: Any, logits: Array, version: str) -> bool:
    scores = _softmax(logits)
    told, sure = np.array(document["predictions"]), np.array(document["confidence_scores"])
    if told.shape != (len(logits),) or document["model_version"] != version:
        return False
    # two classes may be as likely as each other, up to rounding
    return bool(np.allclose(scores[np.arange(len(told)), told], scores.max(axis=1), atol=CLOSE)) and bool(
        np.allclose(sure, scores.max(axis=1), atol=CLOSE)
    )


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _vectors(sessions: Sessions, versions: tuple[str, ...], chance: np.random.Generator) -> Known:
    rows = _rows(chance, int(chance.integers(1, 9)))
    body = {"input_data": rows.ravel().tolist(), "batch_size": len(rows)}

    def check(version: str) -> Check:
        logits = sessions.run("vec", version, x=rows)
        return lambda reply: _is_classified(json.loads(reply), logits, version)

    return Known("vectors", "vec", "/models/vec/predict", _json(body), {each: check(each) for each in versions})


def _pinned(sessions: Sessions, versions: tuple[str, ...], chance: np.random.Generator) -> Known:
    usual, version = _vectors(sessions, versions[:1], chance), versions[0]
    return Known("pinned", "vec", f"/models/vec/versions/{version}/predict", usual.body, usual.right, pinned=True)


def _logits(sessions: Sessions, versions: tuple[str, ...], chance: np.random.Generator) -> Known:
    rows = _rows(chance, int(chance.integers(1, 9)))

    def check(version: str) -> Check:
        logits = sessions.run("vec", version, x=rows)
        return lambda reply: _is_close(json.loads(reply)["outputs"]["logits"], logits)

    body = _json({"inputs": {"x": rows.tolist()}})
    return Known("logits", "vec", "/models/vec/predict?task=tensor", body, {each: check(each) for each in versions})


def _binary(sessions: Sessions, versions: tuple[str, ...], chance: np.random.Generator) -> Known:
    rows = _rows(chance, int(chance.integers(1, 33)))

    def check(version: str) -> Check:
        logits = sessions.run("vec", version, x=rows)
        return lambda reply: len(reply) == logits.nbytes and _is_close(
            np.frombuffer(reply, np.float32).reshape(logits.shape), logits
        )

    headers = {**BINARY, "x-penstock-dtype": "FP32", "x-penstock-shape": f"{len(rows)},4"}
    right = {each: check(each) for each in versions}
    return Known("binary", "vec", "/models/vec/predict?task=tensor", rows.tobytes(), right, headers)


def _batch(sessions: Sessions, versions: tuple[str, ...], chance: np.random.Generator) -> Known:
    """Items of which one is invalid; one version answers all."""
    rows = _rows(chance, int(chance.integers(2, 12)))
    bad = int(chance.integers(len(rows) + 1))
    items: list[Any] = [{"input_data": row.tolist()} for row in rows]
    items.insert(bad, {"input_data": [1.0]})

    def check(version: str) -> Check:
        logits = sessions.run("vec", version, x=rows)

        def is_right(reply: bytes) -> bool:
            answers = json.loads(reply)["predictions"]
            refused = answers.pop(bad)
            return (
                refused["error"]["status"] == 422
                and len(answers) == len(rows)
                and all(_is_classified(each, logits[i : i + 1], version) for i, each in enumerate(answers))
            )

        return is_right

    body = _json({"model": "vec", "requests": items})
    return Known("batch", "vec", "/predict/batch", body, {each: check(each) for each in versions})


def _summed(sessions: Sessions, chance: np.random.Generator, count: int) -> Known:
    a, b = _rows(chance, count, 2), _rows(chance, count, 2)
    total = sessions.run("raw", "1.0", a=a, b=b)
    body = _json({"inputs": {"a": a.tolist(), "b": b.tolist()}})
    right = {"1.0": lambda reply: _is_close(json.loads(reply)["outputs"]["sum"], total)}
    return Known("sums", "raw", "/models/raw/predict", body, right)


def _sums(sessions: Sessions, _: tuple[str, ...], chance: np.random.Generator) -> Known:
    return _summed(sessions, chance, int(chance.integers(1, 17)))


def _large_sums(sessions: Sessions, _: tuple[str, ...], chance: np.random.Generator) -> Known:
    """Large enough to be decoded in a thread and sent in pieces."""
    return _summed(sessions, chance, int(chance.integers(2000, 6000)))


def _pictures(sessions: Sessions, _: tuple[str, ...], chance: np.random.Generator) -> Known:
    pixels = chance.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    scores = _softmax(sessions.run("pic", "1.0", image=pixels[None, None].astype(np.float32)))[0]

    def is_right(reply: bytes) -> bool:
        document = json.loads(reply)
        told = document["class_id"]
        return abs(scores[told] - scores.max()) < CLOSE and abs(document["confidence"] - scores.max()) < CLOSE

    return Known(
        "pictures", "pic", "/models/pic/predict", file.getvalue(), {"1.0": is_right}, {"content-type": "image/png"}
    )


def _slow(sessions: Sessions, _: tuple[str, ...], chance: np.random.Generator) -> Known:
    """Runs for some milliseconds, under a deadline that some miss."""
    row = _rows(chance, 1)
    row[0, 0] = chance.integers(8, 40)
    logits = sessions.run("slow", "1.0", x=row)
    headers = {"content-type": "application/json", "x-request-timeout-ms": str(int(chance.integers(20, 4000)))}
    right = {"1.0": lambda reply: _is_classified(json.loads(reply), logits, "1.0")}
    return Known("slow", "slow", "/models/slow/predict", _json({"input_data": row[0].tolist()}), right, headers)


def _is_close(told: object, right: Array) -> bool:
    values = np.asarray(told, np.float32)
    return values.shape == right.shape and bool(np.allclose(values, right, rtol=CLOSE, atol=CLOSE))
