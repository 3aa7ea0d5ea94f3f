"""`MANIFEST.json` of archives: what a model or a workflow is called, and which member does what.

Fields that are not known, and those of old archivers (`specificationVersion`, `implementationVersion`,
`modelServerVersion`, `sourceVocab`, `engine`), are kept in `document`, which handlers see.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from penstock.errors import first_line, quoted
from penstock.scan.findings import Refused
from penstock.torchserve.archives.names import checked_name

MAX_BYTES: Final = 1 << 20
RUNTIMES: Final = ("python", "python3", "LSP")
BUILT_IN_HANDLERS: Final = (
    "base_handler", "text_classifier", "image_classifier", "object_detector", "image_segmenter",
    "dali_image_classifier", "vllm_handler", "trt_llm_handler",
)  # fmt: skip
"""Names of handlers that come with TorchServe; any other is a file of the archive."""
PLAIN_HANDLERS: Final = (None, "base_handler", "BaseHandler")
"""Handlers that run the model and nothing besides."""
BUILT_IN_OF_LSP: Final = ("BaseHandler", "TorchScriptHandler")
DEFAULT_VERSION: Final = "1.0"
_FILES: Final = {"serializedFile": "serialized_file", "modelFile": "model_file"} | {
    "requirementsFile": "requirements_file",
    "configFile": "config_file",
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Of a model. Without a manifest, name and handler are None: the name of the file and a default are used then."""

    model_name: str | None = None
    model_version: str = DEFAULT_VERSION
    runtime: str = "python"
    handler: str | None = None
    serialized_file: str | None = None
    model_file: str | None = None
    requirements_file: str | None = None
    config_file: str | None = None
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def handler_file(self) -> str | None:
        """The member that the handler is in; None for a built-in one, or none."""
        return None if self.handler is None else handler_file(self.handler, self.runtime)

    def missing(self, members: Collection[str]) -> list[str]:
        """Sentences on what it names that is not among the members."""
        named = {field: getattr(self, attribute) for field, attribute in _FILES.items()}
        named["handler"] = self.handler_file if self.runtime != "LSP" else None
        return [
            f"{field} names {quoted(name)}, which is not in the archive"
            for field, name in named.items()
            if name is not None and name not in members
        ]


@dataclass(frozen=True, slots=True)
class WorkflowManifest:
    """Of a workflow: its specification, and the functions beside its models."""

    workflow_name: str | None = None
    spec_file: str | None = None
    handler: str | None = None
    document: Mapping[str, Any] = field(default_factory=dict)

    def missing(self, members: Collection[str]) -> list[str]:
        """Sentences on what it names that is not among the members."""
        named = {"specFile": self.spec_file, "handler": self.handler}
        return [
            f"{field} names {quoted(name)}, which is not in the archive"
            for field, name in named.items()
            if name is not None and name not in members
        ]


def handler_file(handler: str, runtime: str = "python") -> str | None:
    """The file of a handler as it is named (`handler`, `handler.py`, `module:function`); None for a built-in one."""
    if runtime == "LSP":
        name = handler.partition(":")[0]
        return None if handler in BUILT_IN_OF_LSP else f"{name}.so"
    if handler in BUILT_IN_HANDLERS:
        return None
    module = handler.partition(":")[0]
    return module if module.endswith(".py") else f"{module}.py"


def parse_manifest(data: bytes) -> Manifest:
    """Raises Refused naming the field that is wrong."""
    document, model = _parts(data, "model")
    runtime = document.get("runtime", "python") or "python"
    if runtime not in RUNTIMES:
        raise Refused(f"its manifest has the runtime {quoted(runtime)}; it should be one of {', '.join(RUNTIMES)}")
    files = {attribute: _file(model, field) for field, attribute in _FILES.items()}
    version = _text(model, "modelVersion", numbers=True) or DEFAULT_VERSION
    handler = _text(model, "handler")
    if handler is not None:
        checked_name(handler.partition(":")[0])
    name = _text(model, "modelName")
    return Manifest(name, version, runtime, handler, document=document, **files)


def parse_workflow_manifest(data: bytes) -> WorkflowManifest:
    """Raises Refused naming the field that is wrong."""
    document, workflow = _parts(data, "workflow")
    names = (_text(workflow, "workflowName"), _file(workflow, "specFile"), _file(workflow, "handler"))
    return WorkflowManifest(*names, document=document)


def _parts(data: bytes, part: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"its manifest is not JSON: {first_line(error)}") from None
    if not isinstance(document, dict):
        raise Refused("its manifest is not a JSON object")
    inner = document.get(part)
    if not isinstance(inner, dict):
        raise Refused(f"its manifest has no object {quoted(part)}")
    return document, inner


def _text(part: dict[str, Any], field: str, *, numbers: bool = False) -> str | None:
    value = part.get(field)
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not value.isprintable():
        raise Refused(f"{field} in its manifest is {quoted(value)}; it should be a line of text")
    return value


def _file(part: dict[str, Any], field: str) -> str | None:
    """The path of a member; raises Refused for one outside the archive."""
    value = _text(part, field)
    return None if value is None else checked_name(value)
