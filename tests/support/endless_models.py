"""Models that are quick on one input and never end on another: by a loop in the graph, or in the code of a task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from linear_models import SIGNATURE, linear
from onnx import TensorProto, helper, numpy_helper
from plugin_packages import install

from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry

ENDLESS = 1e15
"""As many iterations take years."""


def save(
    path: Path, nodes: list[onnx.NodeProto], *, shape: tuple[int | str, ...] = ("batch", 1), **more: object
) -> Path:
    """`x` FP32 of this shape to `y`; `more` are constants by name."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in more.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def counted_loop(path: Path, *, endless: bool = False) -> Path:
    """y = x, after as many iterations of a loop as the largest x says; with `endless` it never ends."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["cond"], ["again"]),
            helper.make_node("Mul", ["state", "one"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("cond", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["count"], to=TensorProto.INT64),
        helper.make_node("Loop", ["" if endless else "count", "true", "x"], ["y"], body=body),
    ]
    return save(path, nodes, one=np.float32(1), true=np.bool_(True))


STUBBORN = """
import ctypes
import time
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from penstock import Task


def stand_still(library):
    mutex = ctypes.create_string_buffer(256)
    for _ in range(2):  # the second call never returns, not even after a signal, as that of `pause` would
        library.pthread_mutex_lock(mutex)


class Order(BaseModel):
    do: str


class Done(BaseModel):
    done: str


class Stubborn(Task):
    kind = "stubborn"
    Request, Response = Order, Done
    inline = True

    def preprocess(self, request):
        Path(request.do).touch()
        if request.do == "hold":
            stand_still(ctypes.PyDLL(None))  # never gives back the interpreter's lock
        if request.do == "block":
            stand_still(ctypes.CDLL(None))  # never returns to Python, on the event loop
        return {"x": np.zeros((1, 4), np.float32)}

    def postprocess(self, outputs, request):
        return Done(done=request.do)

    def coerce(self, value):
        return Order.model_validate(value)


class Endless(Stubborn):
    kind = "endless"

    def preprocess(self, request):
        Path(request.do).touch()
        while request.do == "spin":
            pass
        while request.do == "sleep":
            time.sleep(1000)
        return super().preprocess(request)
"""
"""Tasks whose own code hangs on request: on the event loop (`stubborn`) or in a thread (`endless`).

A file with the name of what they do, in the working directory, shows that they have begun.
"""


def install_stubborn(site: Path) -> None:
    """The package of the kinds `stubborn` and `endless`."""
    site.mkdir()
    install(site, "stubborn", STUBBORN, tasks="stubborn = stubborn:Stubborn\nendless = stubborn:Endless")


def publish_stubborn(registry: Registry, place: Path) -> None:
    """Publish one model of each kind, under its name."""
    for kind in ("stubborn", "endless"):
        artifact = write_artifact(
            place / kind,
            name=kind,
            version="1",
            task=TaskEntry(kind=kind, config={}),
            signature=SIGNATURE,
            variants=[VariantSource("onnx", "fp32", linear(place / "linear.onnx"))],
            golden=None,
            card="",
        )
        registry.publish(artifact.path, prove=False)
