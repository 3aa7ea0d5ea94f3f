"""Bills of materials: held against the schema of CycloneDX, and against what the artifact holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.bills.cyclonedx import card_fields, cyclonedx
from penstock.artifacts.bills.packages import serving_packages
from penstock.artifacts.bills.provenance import provenance
from penstock.artifacts.bundled import bundled, versions_in

Write = Callable[..., Artifact]
schema = pytest.importorskip("cyclonedx.schema", reason="pip install cyclonedx-python-lib")


@cache
def validator() -> Any:
    home = Path(schema.__path__[0]) / "_res"
    names = [f"{name}.SNAPSHOT.schema.json" for name in ("bom-1.6", "spdx", "jsf-0.82")]
    documents = {f"http://cyclonedx.org/schema/{name}": json.loads((home / name).read_text()) for name in names}
    registry = jsonschema_rs.Registry(list(documents.items()))
    return jsonschema_rs.validator_for(
        documents[f"http://cyclonedx.org/schema/{names[0]}"], registry=registry, validate_formats=True
    )


def starter(name: str) -> Artifact:
    return Artifact.open(versions_in(bundled()[name])[0])


@pytest.mark.parametrize("name", ["digits", "hydraulics"])
def test_the_bill_of_a_starter_model_fits_the_schema(name: str) -> None:
    artifact = starter(name)
    document = json.loads(json.dumps(cyclonedx(artifact)))
    assert [str(error)[:300] for error in validator().iter_errors(document)] == []
    component = document["metadata"]["component"]
    assert (component["type"], component["name"]) == ("machine-learning-model", name)
    assert component["hashes"] == [{"alg": "SHA-256", "content": artifact.digest}]
    assert component["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert component["modelCard"]["modelParameters"]["datasets"]


def test_the_schema_refuses_a_planted_fault() -> None:
    document = cyclonedx(starter("digits"))
    document["metadata"]["component"]["type"] = "model"
    assert not validator().is_valid(document)


def test_every_file_is_listed_with_its_hash(write: Write) -> None:
    artifact = write()
    document = cyclonedx(artifact)
    files = {each["name"]: each["hashes"][0]["content"] for each in document["components"] if each["type"] == "file"}
    assert files == artifact.digests()
    assert [str(error)[:300] for error in validator().iter_errors(document)] == []


def test_the_installed_packages_are_listed_as_purls() -> None:
    document = cyclonedx(starter("hydraulics"))
    purls = {each["purl"] for each in document["components"] if each["type"] == "library"}
    for name in ("penstock", "onnxruntime", "numpy", "pydantic", "penstock-hydraulics"):
        assert f"pkg:pypi/{name}@{version(name)}" in purls
    assert not any(purl.startswith("pkg:pypi/pytest") for purl in purls)
    assert any("expression" in each for part in document["components"] for each in part.get("licenses", ()))
    known = {document["metadata"]["component"]["bom-ref"], *(each["bom-ref"] for each in document["components"])}
    assert {ref for each in document["dependencies"] for ref in (each["ref"], *each["dependsOn"])} <= known


def test_a_format_brings_its_runtime() -> None:
    names = {package.name for package in serving_packages(starter("digits").manifest)}
    assert {"onnxruntime", "torch"} <= names


@pytest.mark.parametrize(
    "card",
    [
        "",
        "# No front matter\n",
        "---\nlicense: [\n---\n",
        '---\nlicense: {"a": 1}\ndatasets: "one"\n---\n# M\n\n## Limits\n\nNone.\n',
        "---\nlicense: other\ndatasets: [1, null]\n---\n",
        "---\nlicense: mit\n",
        "---\n" + "a: [" * 5000 + "\n---\n",
    ],
)
def test_any_card_gives_a_valid_document(card: str, write: Write) -> None:
    document = cyclonedx(
        write(card=card, metrics={"a": {"b": 1.5}, "c": "text", "d": True}, training_data={"name": ""})
    )
    assert [str(error)[:300] for error in validator().iter_errors(json.loads(json.dumps(document)))] == []


def test_the_licence_of_a_card_is_an_identifier_where_it_is_one() -> None:
    assert card_fields('---\nlicense: mit\ndatasets: ["a"]\n---\n') == {"license": "mit", "datasets": ["a"]}


def test_the_provenance_repeats_the_lineage() -> None:
    artifact = starter("digits")
    statement = provenance(artifact)
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {each["name"]: each["digest"]["sha256"] for each in statement["subject"]} == artifact.digests()
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["lineage"] == artifact.manifest.lineage
    assert {"uri": f"pkg:pypi/torch@{artifact.manifest.lineage['torch']}"} in definition["resolvedDependencies"]
    assert statement["predicate"]["runDetails"]["builder"]["id"].startswith("urn:")
