"""How a model came about, as a statement of SLSA provenance (v1): what its manifest records as lineage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.measured_card import BASE
from penstock.artifacts.signatures.statement import STATEMENT

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:penstock:artifact:v1"
_PACKAGES = ("torch", "onnxruntime", "onnxscript", "openvino", "numpy", "transformers", "penstock")
"""Keys of the lineage that hold the version of the package of that name."""


def provenance(artifact: Artifact) -> dict[str, Any]:
    """An in-toto statement about every file of a version. It repeats what the manifest records, and proves no more."""
    manifest = artifact.manifest
    return {
        "_type": STATEMENT,
        "subject": [{"name": path, "digest": {"sha256": digest}} for path, digest in artifact.digests().items()],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "name": manifest.name,
                    "version": manifest.version,
                    "trainingData": manifest.training_data,
                    "lineage": manifest.lineage,
                },
                "resolvedDependencies": [*_dependencies(manifest.lineage)],
            },
            "runDetails": {
                "builder": {"id": _builder(manifest.lineage)},
                "metadata": {"finishedOn": manifest.created_at},
            },
        },
    }


def _builder(lineage: Mapping[str, Any]) -> str:
    source = lineage.get("source")
    return (
        f"urn:penstock:builder:{source}" if isinstance(source, str) and source.isprintable() else "urn:penstock:builder"
    )


def _dependencies(lineage: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for name in _PACKAGES:
        version = lineage.get(name)
        if isinstance(version, str) and version:
            yield {"uri": f"pkg:pypi/{name}@{version.replace('+', '%2B')}"}
    for key in BASE:
        base = lineage.get(key)
        if isinstance(base, str) and base:
            yield {"name": base, "uri": f"urn:penstock:model:{base}"}
