"""Archives of workflows, as `torch-workflow-archiver` writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from penstock.torchserve.archives.names import WORKFLOW_MANIFEST
from penstock.torchserve.packing.members import Members
from penstock.torchserve.packing.model import Packed, archiver_version, created_on
from penstock.torchserve.packing.writing import check_name, target_in, write_zip


@dataclass(frozen=True, slots=True)
class WorkflowFiles:
    """What goes into an archive, by the names of upstream's options."""

    workflow_name: str
    spec_file: Path
    handler: Path | None = None
    """The functions of the workflow; one that only chains models needs none."""
    extra_files: str | None = None


def pack_workflow(workflow: WorkflowFiles, export_path: Path | None = None, *, force: bool = False) -> Packed:
    """Write `<workflow_name>.war` below `export_path`, by default the current directory.

    Raises InvalidInput naming the option or the file that is wrong; nothing is written then.
    """
    check_name("workflow_name", workflow.workflow_name)
    target = target_in(export_path or Path.cwd(), workflow.workflow_name, ".war", force=force)
    members = Members()
    members.add("spec_file", workflow.spec_file)
    fields = {"workflowName": workflow.workflow_name, "specFile": workflow.spec_file.name}
    if workflow.handler is not None:
        members.add("handler", workflow.handler)
        fields["handler"] = workflow.handler.name
    if workflow.extra_files is not None:
        members.add_extra("extra_files", workflow.extra_files)
    manifest = {"createdOn": created_on(), "workflow": fields, "archiverVersion": archiver_version()}
    write_zip(target, members.files, (WORKFLOW_MANIFEST, json.dumps(manifest, indent=2)))
    return Packed(target, members.remarks)
