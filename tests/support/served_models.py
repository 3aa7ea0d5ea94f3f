"""Small real models for a server: a registry with models of vectors, images and raw tensors, and a slow one."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from linear_models import CLASSES, FEATURES, SIGNATURE, linear, weights
from onnx import TensorProto, helper, numpy_helper

from penstock.artifacts.artifact import Golden, TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec

SIDE = 8
"""Images are resized to this width and height in pixels."""


def build_registry(root: Path, database_url: str | None = None) -> Path:
    """`vec` v1.0 (@stable) and v2.0, `pic` 1.0, `raw` 1.0 and `slow` 1.0, in a registry below `root`."""
    path = root / "registry"
    if database_url in (None, f"sqlite:///{path.absolute()}/registry.db"):
        return Path(shutil.copytree(_finished(), path))
    with Registry(path, database_url) as registry:
        _publish_all(registry, prove=False)
        return registry.path


@cache
def _finished() -> Path:
    """A registry with every model, to be copied: to publish and prove them takes a second."""
    with Registry(_sources() / "registry") as registry:
        _publish_all(registry, prove=True)
        return registry.path


@cache
def _sources() -> Path:
    """A directory with the artifacts, which lasts as long as this process."""
    root = Path(tempfile.mkdtemp(prefix="penstock-served-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for version, seed in (("v1.0", 0), ("v2.0", 1)):
        _vector(root, version, seed)
    for write in (_picture, _raw, _slow):
        write(root)
    return root


def _publish_all(registry: Registry, *, prove: bool) -> None:
    for name in ("vec-v1.0", "vec-v2.0", "pic-1.0", "raw-1.0", "slow-1.0"):
        registry.publish(_sources() / f"source-{name}", prove=prove)
    registry.set_alias("vec", "stable", "v1.0")


def _write(
    root: Path, file: Path, name: str, version: str, task: TaskEntry, signature: Signature, golden: Golden | None
):
    return write_artifact(
        root / f"source-{name}-{version}",
        name=name,
        version=version,
        task=task,
        signature=signature,
        variants=[VariantSource("onnx", "fp32", file)],
        golden=golden,
        card=f"---\nlicense: apache-2.0\n---\n# {name}\n\nA <script>alert(1)</script> **model** for tests.\n",
        metrics={"accuracy": 0.5},
    ).path


def _vector(root: Path, version: str, seed: int) -> Path:
    x = np.random.default_rng(7).standard_normal((4, FEATURES)).astype(np.float32)
    golden = Golden({"x": x}, {"logits": x @ weights(seed)}, 1e-5, 1e-5)
    task = TaskEntry(kind="vector-classification", config={"output": "logits"})
    return _write(root, linear(root / f"vec-{version}.onnx", seed), "vec", version, task, SIGNATURE, golden)


def _picture(root: Path) -> Path:
    """Classifies which half of the image is brighter."""
    shape = (1, SIDE, SIDE)
    halves = np.zeros((SIDE, SIDE, 2), np.float32)
    halves[:, : SIDE // 2, 0] = halves[:, SIDE // 2 :, 1] = 1 / 32
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        ],
        "halves",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(halves.reshape(-1, 2), "w")],
    )
    signature = Signature((TensorSpec("image", "FP32", (-1, *shape)),), (TensorSpec("logits", "FP32", (-1, 2)),))
    config = {"mode": "L", "resize": [[SIDE, SIDE, "bilinear"]], "labels": ["left", "right"], "max_pixels": 1_000_000}
    task = TaskEntry(kind="image-classification", config=config)
    return _write(root, _save(graph, root / "pic.onnx"), "pic", "1.0", task, signature, None)


def _raw(root: Path) -> Path:
    """sum = a + b"""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("a", "b", "sum")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["sum"])], "add", tensors[:2], tensors[2:])
    a, b, total = (TensorSpec(name, "FP32", (-1, 2)) for name in ("a", "b", "sum"))
    task = TaskEntry(kind="tensor")
    return _write(root, _save(graph, root / "raw.onnx"), "raw", "1.0", task, Signature((a, b), (total,)), None)


def _slow(root: Path) -> Path:
    """Runs as many rounds of a few milliseconds as the largest input number, but at least 8."""
    size = 384
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["v", "turn"], ["v_next"]),
            helper.make_node("Identity", ["go"], ["go_next"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [size, size]),
        ],
        [
            helper.make_tensor_value_info("go_next", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_next", TensorProto.FLOAT, [size, size]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Max", ["largest", "least"], ["rounds_f"]),
        helper.make_node("Cast", ["rounds_f"], ["rounds"], to=TensorProto.INT64),
        helper.make_node("Loop", ["rounds", "", "eye"], ["v_last"], body=body),
        helper.make_node("ReduceSum", ["v_last"], ["checksum"], keepdims=0),
        helper.make_node("Mul", ["checksum", "nothing"], ["zero"]),
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("Add", ["scores", "zero"], ["logits"]),
    ]
    eye = np.eye(size, dtype=np.float32)
    constants = {
        "least": np.float32(8),
        "nothing": np.float32(0),
        "eye": eye,
        "turn": np.roll(eye, 1, axis=0),
        "w": weights(3),
    }
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    task = TaskEntry(kind="vector-classification", config={"output": "logits"})
    return _write(root, _save(graph, root / "slow.onnx"), "slow", "1.0", task, SIGNATURE, None)


def _save(graph: onnx.GraphProto, path: Path) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
