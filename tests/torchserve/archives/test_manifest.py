"""`MANIFEST.json`, new and old."""

from __future__ import annotations

import json
from typing import Any

import pytest
from model_archives import manifest

from penstock.scan.findings import Refused
from penstock.torchserve.archives.manifest import handler_file, parse_manifest, parse_workflow_manifest


def document(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_a_manifest_of_upstream_is_read() -> None:
    found = parse_manifest(manifest(serializedFile="m.pt", modelFile="net.py", configFile="c.yaml"))
    assert (found.model_name, found.model_version, found.runtime) == ("m", "1.0", "python")
    assert (found.serialized_file, found.model_file, found.config_file) == ("m.pt", "net.py", "c.yaml")
    assert found.document["archiverVersion"] == "0.12.0"
    assert found.missing({"handler.py", "m.pt", "net.py"}) == ["configFile names 'c.yaml', which is not in the archive"]


def test_an_old_manifest_is_read_with_what_it_says_besides() -> None:
    old = document(
        specificationVersion="1.0",
        implementationVersion="1.0",
        modelServerVersion="1.0",
        engine={"engineName": "MXNet"},
        runtime="python3",
        model={"modelName": "m", "handler": "service:handle", "modelVersion": 1.2, "sourceVocab": "source_vocab.pt"},
    )
    found = parse_manifest(old)
    assert (found.runtime, found.model_version, found.handler_file) == ("python3", "1.2", "service.py")
    assert found.document["model"]["sourceVocab"] == "source_vocab.pt"


def test_what_is_not_said_has_defaults() -> None:
    found = parse_manifest(document(model={}))
    assert (found.model_name, found.model_version, found.runtime, found.handler) == (None, "1.0", "python", None)
    assert found.missing(()) == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no object 'model'"),
        (document(model=[]), "no object 'model'"),
        (document(model={}, runtime="ruby"), "runtime 'ruby'; it should be one of python, python3, LSP"),
        (document(model={"handler": 7}), "handler in its manifest is '7'"),
        (document(model={"modelName": "a\nb"}), "modelName in its manifest is"),
        (document(model={"modelVersion": True}), "modelVersion in its manifest is 'True'"),
        (document(model={"serializedFile": "../../etc/passwd"}), "would leave the directory"),
        (document(model={"configFile": "/etc/passwd"}), "absolute path"),
        (document(model={"handler": "../evil.py:handle"}), "would leave the directory"),
    ],
)
def test_a_wrong_field_is_named(data: bytes, says: str) -> None:
    with pytest.raises(Refused, match=says):
        parse_manifest(data)


def test_a_workflow_is_read() -> None:
    found = parse_workflow_manifest(document(workflow={"workflowName": "w", "specFile": "w.yaml", "handler": "h.py"}))
    assert (found.workflow_name, found.spec_file, found.handler) == ("w", "w.yaml", "h.py")
    assert found.missing({"w.yaml"}) == ["handler names 'h.py', which is not in the archive"]
    with pytest.raises(Refused, match="no object 'workflow'"):
        parse_workflow_manifest(document(model={}))


@pytest.mark.parametrize(
    ("handler", "runtime", "file"),
    [
        ("image_classifier", "python", None),
        ("handler", "python", "handler.py"),
        ("handler.py", "python", "handler.py"),
        ("handler:run", "python3", "handler.py"),
        ("handler.py:run", "python", "handler.py"),
        ("BaseHandler", "LSP", None),
        ("libh:Handler", "LSP", "libh.so"),
    ],
)
def test_the_file_of_a_handler(handler: str, runtime: str, file: str | None) -> None:
    assert handler_file(handler, runtime) == file
