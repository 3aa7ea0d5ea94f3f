"""The bill of materials of a model in CycloneDX 1.6: files, datasets, licences, measurements and packages."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from penstock.artifacts.artifact import MANIFEST, Artifact
from penstock.artifacts.bills.packages import Package, serving_packages
from penstock.artifacts.manifest import Manifest, utc_now
from penstock.tensors import TensorSpec

_IDENTIFIERS = """
Apache-2.0 MIT BSD-2-Clause BSD-3-Clause ISC Zlib Unlicense WTFPL MPL-2.0 EPL-2.0 BSL-1.0 Artistic-2.0 PSF-2.0
CC0-1.0 CC-BY-4.0 CC-BY-SA-4.0 CC-BY-NC-4.0 CC-BY-NC-SA-4.0 CC-BY-NC-ND-4.0 CC-BY-ND-4.0 CC-BY-3.0 CC-BY-SA-3.0
GPL-2.0-only GPL-3.0-only GPL-3.0-or-later LGPL-2.1-only LGPL-3.0-only AGPL-3.0-only ODbL-1.0
"""
_SPDX = {text.lower(): text for text in _IDENTIFIERS.split()}
"""SPDX identifiers by their lower case, which model cards write."""
_FRONT = re.compile(r"\A---\r?\n(.*?)^---\r?$", re.DOTALL | re.MULTILINE)
_SECTION = r"^## {title}[^\n]*\n(.*?)(?=^## |\Z)"
_LONGEST_TEXT = 2000


def cyclonedx(artifact: Artifact) -> dict[str, Any]:
    """The document for a version, with the packages that are installed here. Raises IntegrityError for its card."""
    manifest, card = artifact.manifest, artifact.card_text()
    fields, packages = card_fields(card), serving_packages(artifact.manifest)
    files, model = [*_files(artifact)], f"pkg:generic/{artifact.name}@{artifact.version}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": utc_now(),
            "tools": {"components": [{"type": "application", "name": "penstock", "version": version("penstock")}]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": model,
                "name": artifact.name,
                "version": artifact.version,
                **_description(card),
                "hashes": [_sha256(artifact.digest)],
                **_licenses(fields.get("license")),
                "modelCard": _model_card(manifest, fields, card),
            },
        },
        "components": [*files, *map(_library, packages)],
        "dependencies": [
            {"ref": model, "dependsOn": [*(file["bom-ref"] for file in files), *(each.purl for each in packages)]},
            *_dependencies(packages),
        ],
    }


def card_fields(card: str) -> dict[str, Any]:
    """The front matter of a card: values that are JSON, as Penstock writes them, or plain text in one line."""
    match = _FRONT.match(card)
    fields: dict[str, Any] = {}
    for line in match[1].splitlines() if match else ():
        name, colon, text = line.partition(":")
        if colon and re.fullmatch(r"[\w-]+", name) and text.strip():
            fields[name] = _value(text.strip())
    return fields


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip("'\"")


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _files(artifact: Artifact) -> Iterator[dict[str, Any]]:
    for path, digest in artifact.digests().items():
        what = "the digest of the version" if path == MANIFEST else ""
        yield {
            "type": "file",
            "bom-ref": f"file:{path}",
            "name": path,
            **({"description": what} if what else {}),
            "hashes": [_sha256(digest)],
        }


def _library(package: Package) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        **_licenses(package.license),
    }


def _dependencies(packages: Sequence[Package]) -> Iterator[dict[str, Any]]:
    purls = {package.name: package.purl for package in packages}
    for package in packages:
        yield {"ref": package.purl, "dependsOn": sorted({purls[name] for name in package.requires})}


def _licenses(stated: Any) -> dict[str, Any]:
    """By SPDX identifier or expression where it is one that is known, else by name; nothing for what says nothing."""
    names = [name for name in (stated if isinstance(stated, list) else [stated]) if isinstance(name, str) and name]
    if len(names) == 1 and re.search(r" (AND|OR|WITH) ", names[0]):
        return {"licenses": [{"expression": names[0]}]}
    known = ({"id": _SPDX[name.lower()]} if name.lower() in _SPDX else {"name": name} for name in names)
    return {"licenses": [{"license": each} for each in known]} if names else {}


def _description(card: str) -> dict[str, str]:
    body = _FRONT.sub("", card)
    paragraphs = [part.strip() for part in body.split("\n\n") if part.strip() and not part.lstrip().startswith("#")]
    return {"description": paragraphs[0][:_LONGEST_TEXT]} if paragraphs else {}


def _model_card(manifest: Manifest, fields: Mapping[str, Any], card: str) -> dict[str, Any]:
    parameters = {
        "task": manifest.task.kind,
        **_architecture(manifest),
        "datasets": [*_datasets(manifest, fields)],
        "inputs": [{"format": _tensor(spec)} for spec in manifest.signature.inputs],
        "outputs": [{"format": _tensor(spec)} for spec in manifest.signature.outputs],
    }
    uses, limits = _section(card, "Intended use"), _section(card, "Limits")
    considerations = {"useCases": uses, "technicalLimitations": limits}
    found: dict[str, Any] = {
        "modelParameters": {name: value for name, value in parameters.items() if value},
        "quantitativeAnalysis": {"performanceMetrics": [*_metrics(manifest.metrics)]},
        "considerations": {name: [text] for name, text in considerations.items() if text},
    }
    if not found["quantitativeAnalysis"]["performanceMetrics"]:
        del found["quantitativeAnalysis"]
    return {name: value for name, value in found.items() if value}


def _architecture(manifest: Manifest) -> dict[str, str]:
    named = next((variant.architecture for variant in manifest.variants if variant.architecture), None)
    return {"modelArchitecture": named} if named else {}


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype} {list(spec.shape)}"


def _datasets(manifest: Manifest, fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The training data of the manifest, then the datasets of the card by name."""
    training = manifest.training_data
    name, url = training.get("name"), training.get("url")
    if isinstance(name, str) and name:
        contents = {"contents": {"url": url}} if isinstance(url, str) and re.fullmatch(r"https?://[!-~]+", url) else {}
        facts = [f"{key}: {value}" for key, value in training.items() if isinstance(value, str | int | float)]
        yield {"type": "dataset", "name": name, **contents, "description": "; ".join(facts)[:_LONGEST_TEXT]}
    named = fields.get("datasets")
    for each in named if isinstance(named, list) else []:
        if isinstance(each, str) and each:
            yield {"type": "dataset", "name": each}


def _metrics(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[dict[str, str]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _metrics(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield {"type": f"{prefix}{name}", "value": f"{value:g}"}


def _section(card: str, title: str) -> str:
    match = re.search(_SECTION.format(title=title), card, re.DOTALL | re.MULTILINE)
    return match[1].strip()[:_LONGEST_TEXT] if match else ""
