"""Diagnosis of hydraulic machines: health, failing components, degradation and nine kinds of fault.

Public names are imported lazily. Only the training names (`fit`, `load`, `UniversalTemporalGNN` …) import PyTorch or
read training data.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock_hydraulics.diagnosis.schemas import PredictionRequest, PredictionResponse
    from penstock_hydraulics.engine import HydraulicPredictor, InferenceConfig, InferenceEngine
    from penstock_hydraulics.learning.data.recordings import load
    from penstock_hydraulics.learning.models.gnn import UniversalTemporalGNN
    from penstock_hydraulics.learning.training.config import TrainingConfig
    from penstock_hydraulics.learning.training.fitting import fit
    from penstock_hydraulics.machine.templates import TEMPLATES
    from penstock_hydraulics.machine.topology import Component, Topology, parse_topology
    from penstock_hydraulics.signals.features import FeatureConfig
    from penstock_hydraulics.simulator import simulate
    from penstock_hydraulics.task import HydraulicDiagnostics

_MODULES = {
    "TEMPLATES": "machine.templates",
    "Component": "machine.topology",
    "FeatureConfig": "signals.features",
    "HydraulicDiagnostics": "task",
    "HydraulicPredictor": "engine",
    "InferenceConfig": "engine",
    "InferenceEngine": "engine",
    "PredictionRequest": "diagnosis.schemas",
    "PredictionResponse": "diagnosis.schemas",
    "Topology": "machine.topology",
    "TrainingConfig": "learning.training.config",
    "UniversalTemporalGNN": "learning.models.gnn",
    "fit": "learning.training.fitting",
    "load": "learning.data.recordings",
    "parse_topology": "machine.topology",
    "simulate": "simulator",
}

__all__ = [
    "TEMPLATES",
    "Component",
    "FeatureConfig",
    "HydraulicDiagnostics",
    "HydraulicPredictor",
    "InferenceConfig",
    "InferenceEngine",
    "PredictionRequest",
    "PredictionResponse",
    "Topology",
    "TrainingConfig",
    "UniversalTemporalGNN",
    "fit",
    "load",
    "parse_topology",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'penstock_hydraulics' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"penstock_hydraulics.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
