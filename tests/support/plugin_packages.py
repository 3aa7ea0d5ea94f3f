"""Packages of tasks and routes, installed like by pip: modules and metadata in a directory of the import path."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from linear_models import SIGNATURE, linear

from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry

TIDES = """
from collections import deque

from pydantic import BaseModel

from penstock import Task
from penstock.errors import InvalidInput
from penstock.plugin_api import Endpoint, Refusal, Reply, json_reply, read_json, tasks_of

CALLS = deque(maxlen=100)  # calls of attach and close, in order


class Water(BaseModel):
    numbers: list[float]


class Tide(BaseModel):
    level: float


class Health(BaseModel):  # Penstock has a model with the same name
    salt: bool = True


class Tides(Task):
    kind = "tides"
    Request, Response = Water, Tide
    example = {"numbers": [1.0, 2.0, 3.0, 4.0]}
    inline = True

    def preprocess(self, request):
        import numpy as np

        return {"x": np.array([request.numbers], np.float32)}

    def postprocess(self, outputs, request):
        return Tide(level=float(outputs["logits"][0, 0]))

    def coerce(self, value):
        return Water.model_validate(value)

    def attach(self, registry, model):
        if self.config.get("broken"):
            raise ValueError("no water")
        CALLS.append(("attach", registry.path))

    def close(self):
        CALLS.append(("close",))


async def show(call):
    if call.params["port"] == "atlantis":
        raise Refusal(404, "there is no port atlantis", title="No such port")
    if call.params["port"] == "broken":
        raise RuntimeError("a bug of the package")
    return json_reply(Tide(level=len(tasks_of(call, "tides"))))


async def change(call):
    return json_reply(read_json(Water, await call.body()), 201)


QUERY = {"name": "since", "in": "query", "schema": {"type": "string", "format": "date-time"}}
PORT = {"name": "port", "description": "Where.", "example": "brest"}
ROUTES = (
    Endpoint("GET", "/tides/{port}", show, "tides", "The tide", responses=(Tide,), parameters=(PORT, QUERY),
        replies={503: {"description": "Ebb.", "content": {"application/json": {"schema": Health}}}},
    ),
    Endpoint("PUT", "/tides/{port}", change, "tides", "Change", requests=(Water,), responses=(Water,), guarded=True),
    Endpoint("GET", "/models/{port}", show, "tides", "Conflicts with Penstock"),
    Endpoint("GET", "/health", show, "tides", "Conflicts with another"),
    Endpoint("GET", "tides", show, "tides", "Not a path"),
    "no row",
)
"""


def install(site: Path, package: str, source: str, **groups: str) -> None:
    """Write a module and its entry points to `site`; `groups` are group names without `penstock.`, with a line
    `name = value` for each entry point.
    """
    (site / f"{package}.py").write_text(dedent(source))
    metadata = site / f"{package}-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    points = "".join(f"[penstock.{group}]\n{lines}\n" for group, lines in groups.items())
    (metadata / "entry_points.txt").write_text(points)


def install_tides(site: Path) -> None:
    """The package of the kind `tides`: a task with an example, `attach` and `close`; valid and invalid routes."""
    install(site, "tides", TIDES, tasks="tides = tides:Tides", routes="tides = tides:ROUTES")


def publish_tides(registry: Registry, place: Path, name: str = "ports", version: str = "1", **config: object) -> None:
    """Publish a model of the kind `tides`, without the proof, which would import the package into this process."""
    place.mkdir(parents=True, exist_ok=True)
    artifact = write_artifact(
        place / f"{name}-{version}",
        name=name,
        version=version,
        task=TaskEntry(kind="tides", config=config),
        signature=SIGNATURE,
        variants=[VariantSource("onnx", "fp32", linear(place / "linear.onnx"))],
        golden=None,
        card="",
    )
    registry.publish(artifact.path, prove=False)
