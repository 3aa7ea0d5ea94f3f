"""Penstock takes PyTorch models to production and keeps them there.

Nothing heavy is imported until one of the public names is used. docs/architecture.md says where to make a change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.artifacts.artifact import Artifact, TaskEntry, VariantSource, write_artifact
    from penstock.artifacts.golden import Golden
    from penstock.client import Client
    from penstock.engine.config import InferenceConfig
    from penstock.engine.engine import InferenceEngine
    from penstock.engine.loading.manager import ModelManager
    from penstock.engine.predictor.predictor import BasePredictor, Predictor
    from penstock.errors import PenstockError
    from penstock.gateway.process.asgi import create_app, problem_response
    from penstock.registry.registry import Registry
    from penstock.settings import Settings
    from penstock.tasks.base import Task
    from penstock.tensors import Signature, TensorSpec
    from penstock.toolchain.bench.benching import bench
    from penstock.toolchain.inference import optimize_for_inference
    from penstock.toolchain.publishing.verbs import export, publish, verify
    from penstock.toolchain.search.optimize import optimize
    from penstock.toolchain.tune.tuning import tune

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "penstock.artifacts.artifact",
    "BasePredictor": "penstock.engine.predictor.predictor",
    "Client": "penstock.client",
    "Golden": "penstock.artifacts.golden",
    "InferenceConfig": "penstock.engine.config",
    "InferenceEngine": "penstock.engine.engine",
    "ModelManager": "penstock.engine.loading.manager",
    "PenstockError": "penstock.errors",
    "Predictor": "penstock.engine.predictor.predictor",
    "Registry": "penstock.registry.registry",
    "Settings": "penstock.settings",
    "Signature": "penstock.tensors",
    "Task": "penstock.tasks.base",
    "TaskEntry": "penstock.artifacts.artifact",
    "TensorSpec": "penstock.tensors",
    "VariantSource": "penstock.artifacts.artifact",
    "bench": "penstock.toolchain.bench.benching",
    "create_app": "penstock.gateway.process.asgi",
    "optimize": "penstock.toolchain.search.optimize",
    "export": "penstock.toolchain.publishing.verbs",
    "optimize_for_inference": "penstock.toolchain.inference",
    "problem_response": "penstock.gateway.process.asgi",
    "publish": "penstock.toolchain.publishing.verbs",
    "tune": "penstock.toolchain.tune.tuning",
    "verify": "penstock.toolchain.publishing.verbs",
    "write_artifact": "penstock.artifacts.artifact",
}

__all__ = [
    "Artifact",
    "BasePredictor",
    "Client",
    "Golden",
    "InferenceConfig",
    "InferenceEngine",
    "ModelManager",
    "PenstockError",
    "Predictor",
    "Registry",
    "Settings",
    "Signature",
    "Task",
    "TaskEntry",
    "TensorSpec",
    "VariantSource",
    "__version__",
    "bench",
    "create_app",
    "export",
    "optimize",
    "optimize_for_inference",
    "problem_response",
    "publish",
    "tune",
    "verify",
    "write_artifact",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
