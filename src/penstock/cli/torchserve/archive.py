"""`penstock archive`: archives of TorchServe, written and read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from penstock.cli.options import JsonOption
from penstock.cli.output import print_json, print_table, size, working

if TYPE_CHECKING:
    from penstock.torchserve.archives.archive import ModelArchive
    from penstock.torchserve.packing.model import Packed

app = typer.Typer(help="Archives of TorchServe: write, show and unpack them.", no_args_is_help=True)

_Archive = Annotated[
    Path, typer.Argument(metavar="PATH", help="A .mar, .war, .tar.gz or .model file, or a directory with a model.")
]
_ExportPath = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Directory to write to.", show_default="current directory")
]
_Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite an archive of this name.")]
_Extra = Annotated[
    str | None, typer.Option(metavar="PATH,…", help="More files, directories (what is in them) and patterns.")
]


@app.command()
def create(
    model_name: Annotated[str, typer.Option(metavar="NAME", help="The model's name, and the file's.")],
    version: Annotated[str, typer.Option("--version", "-v", help="The model's version.")],
    handler: Annotated[str, typer.Option(help="A built-in handler, a Python file, or module:function.")],
    serialized_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its weights or program: .pt, .pth, .onnx, …")
    ] = None,
    model_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The Python file with its class, for weights alone.")
    ] = None,
    extra_files: _Extra = None,
    runtime: Annotated[Literal["python", "python3", "LSP"], typer.Option(help="What runs the handler.")] = "python",
    export_path: _ExportPath = None,
    archive_format: Annotated[
        Literal["default", "zip-store", "tgz", "no-archive"],
        typer.Option(help="default (.mar), zip-store (.mar, not compressed), tgz (.tar.gz) or no-archive (directory)."),
    ] = "default",
    force: _Force = False,
    requirements_file: Annotated[
        Path | None, typer.Option("--requirements-file", "-r", metavar="FILE", help="Packages that it needs.")
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config-file", "-c", metavar="FILE", help="Its model-config.yaml.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write an archive of a model, as torch-model-archiver does."""
    from penstock.torchserve.packing.model import ModelFiles, pack_model

    model = ModelFiles(
        model_name, version, handler, serialized_file, model_file, extra_files, runtime, requirements_file, config_file
    )
    with working(f"packing {model_name}"):
        packed = pack_model(model, export_path, archive_format, force=force)
    _say(packed, as_json=as_json)


@app.command("create-workflow")
def create_workflow(
    workflow_name: Annotated[str, typer.Option(metavar="NAME", help="The workflow's name, and the file's.")],
    spec_file: Annotated[Path, typer.Option(metavar="FILE", help="The YAML file with its models and their graph.")],
    handler: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The Python file with its functions, if it has any.")
    ] = None,
    extra_files: _Extra = None,
    export_path: _ExportPath = None,
    force: _Force = False,
    as_json: JsonOption = False,
) -> None:
    """Write an archive of a workflow, as torch-workflow-archiver does."""
    from penstock.torchserve.packing.workflow import WorkflowFiles, pack_workflow

    workflow = WorkflowFiles(workflow_name, spec_file, handler, extra_files)
    _say(pack_workflow(workflow, export_path, force=force), as_json=as_json)


@app.command()
def show(path: _Archive, as_json: JsonOption = False) -> None:
    """Say what an archive holds; nothing of it is run or written."""
    from penstock.torchserve.archives.archive import open_archive
    from penstock.torchserve.model_config import model_config_of

    with working(f"reading {path.name}"):
        archive = open_archive(path)
        config = model_config_of(archive)
        digest = archive.digest()
    facts = {**_facts(archive), "digest": digest, "size_bytes": sum(archive.members.values())}
    warnings = [*archive.warnings, *config.warnings]
    if as_json:
        members = [{"name": name, "size": count} for name, count in sorted(archive.members.items())]
        document = {"manifest": archive.manifest.document, "model_config": config.document}
        print_json({**facts, **document, "members": members, "warnings": warnings})
        return
    shown = {name: size(value) if name == "size_bytes" else value for name, value in facts.items()}
    print_table(("", ""), ((name.replace("_", " "), value) for name, value in shown.items() if value is not None))
    print_table(("file", "size"), ((name, size(count)) for name, count in sorted(archive.members.items())))
    for warning in warnings:
        typer.echo(f"note: {warning}")


@app.command()
def unpack(
    path: _Archive,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new directory.")],
    as_json: JsonOption = False,
) -> None:
    """Unpack an archive into a new directory, completely or not at all; nothing of it is run."""
    from penstock.torchserve.archives.archive import open_archive

    with working(f"unpacking {path.name}"):
        archive = open_archive(path)
        digest = archive.unpack(directory)
    if as_json:
        print_json({"path": directory, "digest": digest, "files": len(archive.members)})
        return
    typer.echo(f"unpacked {path} to {directory} ({len(archive.members)} files, {size(sum(archive.members.values()))})")


def _facts(archive: ModelArchive) -> dict[str, Any]:
    from penstock.torchserve.archives.manifest import Manifest

    manifest = archive.manifest
    facts: dict[str, Any] = {"path": str(archive.path), "form": archive.kind, "name": archive.default_name}
    if not isinstance(manifest, Manifest):
        return {**facts, "spec_file": manifest.spec_file, "handler": manifest.handler}
    fields = ("runtime", "handler", "serialized_file", "model_file", "requirements_file", "config_file")
    return {**facts, "version": manifest.model_version, **{field: getattr(manifest, field) for field in fields}}


def _say(packed: Packed, *, as_json: bool) -> None:
    if as_json:
        print_json({"path": packed.path, "remarks": packed.remarks})
        return
    for remark in packed.remarks:
        typer.echo(f"note: {remark}", err=True)
    typer.echo(f"wrote {packed.path}")
