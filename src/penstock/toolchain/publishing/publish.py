"""Publishes measured variants as one version: written aside, proven by the registry, then complete or not there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.artifacts.measured_card import DeclaredCard
from penstock.artifacts.refs import check_name, check_version
from penstock.artifacts.variant import VariantErrors
from penstock.errors import InvalidInput
from penstock.formats import FORMATS, Trust
from penstock.registry.publishing import Rows
from penstock.registry.registry import CHAMPION, Registry
from penstock.scan.trust import check_trust, strongest
from penstock.tensors import Arrays, Signature
from penstock.toolchain.verification.measures import Errors
from penstock.toolchain.verification.verdicts import Tolerance

LOAD_TOLERANCE = Tolerance(1e-4, 1e-3)
"""The least tolerance of golden samples: other machines and other thread counts round in another way."""
LOSSLESS = ("fp32", "fp64")
"""Precisions that are held to a tolerance; the others round by design."""
MOST_GOLDEN = 32
"""Rows of an example that are kept as golden samples."""
MARGIN = 1.5
"""The tolerance of a form that rounds by design, as a multiple of the largest error that was measured of it."""


def publish_variants(
    registry: Registry,
    *,
    name: str,
    version: str,
    task: TaskEntry,
    signature: Signature,
    variants: Sequence[VariantSource],
    golden: Golden | None,
    card: str | DeclaredCard,
    lineage: Mapping[str, Any] | None = None,
    batchable: bool | None = None,
    more_tasks: Sequence[TaskEntry] = (),
    prove: bool = True,
    reference: Rows | None = None,
    log_inputs: bool | None = None,
    **more: Any,
) -> Artifact:
    """Write an artifact to a temporary directory and publish it; a model's first version gets the alias `champion`.

    Its digest is pinned to the trust that its forms need, since they were made here. The tolerance of the golden
    samples is widened to the errors of forms that round by design, such as int8: a server compares all with it. `more`
    are the other arguments of `write_artifact`. Raises what that and `Registry.publish` raise; the registry is as
    before then.
    """
    require_new(registry, name, version)
    with tempfile.TemporaryDirectory(prefix="penstock-") as scratch:
        artifact = write_artifact(
            Path(scratch) / "artifact",
            name=name,
            version=version,
            task=task,
            signature=signature,
            variants=variants,
            golden=_covering(golden, variants),
            card=card,
            lineage=lineage,
            batchable=batchable,
            more_tasks=more_tasks,
            log_inputs=log_inputs,
            **more,
        )
        published = registry.publish(artifact.path, trust_of(variants), prove=prove, reference=reference)
    if registry.versions(name) == [version] and CHAMPION not in registry.aliases(name):
        registry.set_alias(name, CHAMPION, version, force=True)  # it was proven just now
    return published


def require_new(registry: Registry, name: str, version: str) -> None:
    """Raise InvalidInput for a name or version that is invalid, and for a version that exists: before hours of work."""
    check_name(name)
    check_version(version)
    if version in registry.versions(name):
        raise InvalidInput(
            f"version: {name}:{version} already exists; publish under another version or remove it first",
            field="version",
        )


def trust_of(variants: Sequence[VariantSource]) -> Trust:
    """The most that a variant needs to be opened; a class that weights fill is code."""
    tiers = [FORMATS[variant.format].trust for variant in variants]
    classes = any(variant.architecture is not None for variant in variants)
    return check_trust(strongest("code" if classes else "data", *tiers))


def golden_of(inputs: Arrays, outputs: Arrays, signature: Signature, tolerance: Tolerance = LOAD_TOLERANCE) -> Golden:
    """Golden samples with a tolerance of at least `LOAD_TOLERANCE`, scaled by the largest value of the outputs.

    Raises InvalidInput naming the tensor that holds NaN or infinity.
    """
    largest = max(
        (float(np.abs(array).max(initial=0.0)) for array in outputs.values() if array.dtype.kind == "f"), default=1.0
    )
    atol, rtol = (max(asked, least) for asked, least in zip(tolerance[:2], LOAD_TOLERANCE[:2], strict=True))
    golden = Golden(inputs, outputs, atol * (largest or 1.0), rtol, whole=signature.whole, axes=signature.batch_axes)
    return replace(golden.checked(signature), axes=signature.batch_axes)


def _covering(golden: Golden | None, variants: Sequence[VariantSource]) -> Golden | None:
    """Golden samples with a tolerance that every variant keeps."""
    lossy = [one.errors.max_abs for one in variants if one.errors is not None and one.precision not in LOSSLESS]
    if golden is None or not lossy:
        return golden
    return replace(golden, atol=max(golden.atol, MARGIN * max(lossy)))


def recorded(errors: Errors) -> VariantErrors:
    """Errors as a manifest holds them."""
    return VariantErrors(
        max_abs=errors.max_abs,
        max_rel=errors.max_rel,
        cosine=errors.cosine,
        top1=errors.top1,
        samples=errors.samples or None,
    )
