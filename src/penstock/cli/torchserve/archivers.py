"""`torch-model-archiver` and `torch-workflow-archiver`, with the options of upstream's commands.

They are the commands of the distribution penstock-torchserve; `penstock archive` does the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from penstock.cli.main import run

if TYPE_CHECKING:
    from penstock.torchserve.packing.model import Packed


def torch_model_archiver() -> NoReturn:
    """Entry point of the command."""
    sys.exit(archive_model(sys.argv[1:]))


def torch_workflow_archiver() -> NoReturn:
    """Entry point of the command."""
    sys.exit(archive_workflow(sys.argv[1:]))


def archive_model(arguments: Sequence[str]) -> int:
    """The exit code of `torch-model-archiver` with these arguments: 0, 1 (refused) or 2 (usage)."""
    return _run(lambda: _pack_model(_model_parser().parse_args(arguments)))


def archive_workflow(arguments: Sequence[str]) -> int:
    """The exit code of `torch-workflow-archiver` with these arguments."""
    return _run(lambda: _pack_workflow(_workflow_parser().parse_args(arguments)))


def _run(command: Callable[[], Packed]) -> int:
    def packed() -> None:
        for remark in command().remarks:
            print(f"note: {remark}", file=sys.stderr)

    return run(packed)


def _parser(command: str, help: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=command, description=help)
    parser.add_argument("--export-path", type=Path, metavar="DIR", help="directory to write to; default: the current")
    parser.add_argument("--extra-files", metavar="PATH,…", help="more files, directories and patterns")
    parser.add_argument("-f", "--force", action="store_true", help="overwrite an archive of this name")
    return parser


def _model_parser() -> argparse.ArgumentParser:
    parser = _parser("torch-model-archiver", "Write an archive of a model for TorchServe, with Penstock.")
    parser.add_argument("--model-name", required=True, metavar="NAME", help="the model's name, and the file's")
    parser.add_argument("-v", "--version", required=True, help="the model's version")
    parser.add_argument("--handler", required=True, help="a built-in handler, a Python file, or module:function")
    parser.add_argument("--serialized-file", type=Path, metavar="FILE", help="its weights or program")
    parser.add_argument("--model-file", type=Path, metavar="FILE", help="the Python file with its class")
    parser.add_argument("--runtime", default="python", choices=("python", "python3", "LSP"), help="default: python")
    parser.add_argument(
        "--archive-format", default="default", choices=("tgz", "no-archive", "zip-store", "default"),
        help="default (.mar), zip-store (.mar, not compressed), tgz (.tar.gz) or no-archive (a directory)",
    )  # fmt: skip
    parser.add_argument("-r", "--requirements-file", type=Path, metavar="FILE", help="packages that it needs")
    parser.add_argument("-c", "--config-file", type=Path, metavar="FILE", help="its model-config.yaml")
    return parser


def _workflow_parser() -> argparse.ArgumentParser:
    parser = _parser("torch-workflow-archiver", "Write an archive of a workflow for TorchServe, with Penstock.")
    parser.add_argument("--workflow-name", required=True, metavar="NAME", help="the workflow's name, and the file's")
    parser.add_argument(
        "--spec-file", required=True, type=Path, metavar="FILE", help="its models and their graph, YAML"
    )
    parser.add_argument("--handler", type=Path, metavar="FILE", help="the Python file with its functions")
    return parser


def _pack_model(given: argparse.Namespace) -> Packed:
    from penstock.torchserve.packing.model import ModelFiles, pack_model

    options = vars(given)
    export_path, archive_format, force = (options.pop(name) for name in ("export_path", "archive_format", "force"))
    return pack_model(ModelFiles(**options), export_path, archive_format, force=force)


def _pack_workflow(given: argparse.Namespace) -> Packed:
    from penstock.torchserve.packing.workflow import WorkflowFiles, pack_workflow

    options = vars(given)
    export_path, force = (options.pop(name) for name in ("export_path", "force"))
    return pack_workflow(WorkflowFiles(**options), export_path, force=force)
