"""The `penstock` command: its subcommands, and the one place that turns an error into a sentence and an exit code.

Exit codes: 0 done, 1 refused or failed, 2 usage error, 130 interrupted. Subcommands import what they need when they
run, so that `--help` and completion stay fast.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import penstock
from penstock.cli import interrupts
from penstock.errors import PenstockError, disk_problem, type_and_message, worded
from penstock.libraries import import_attribute

if TYPE_CHECKING:
    app: typer.Typer
    """All commands."""

_COMMANDS = {
    name: f"penstock.cli.{name}:{name}"
    for name in ("serve", "predict", "export", "verify", "optimize", "bench", "tune", "doctor", "scan")
}
_COMMANDS["replay"] = "penstock.cli.log.replay:replay"
_GROUPS = {
    "models": "penstock.cli.models.commands:app",
    "routes": "penstock.cli.routes.commands:app",
    "keys": "penstock.cli.keys.commands:app",
    "monitor": "penstock.cli.monitor.commands:app",
    "log": "penstock.cli.log.commands:app",
    "config": "penstock.cli.config:app",
    "archive": "penstock.cli.torchserve.archive:app",
    "migrate": "penstock.cli.torchserve.migrate:app",
}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"penstock {penstock.__version__}")
        raise typer.Exit


def _options(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  its callback uses it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take PyTorch models to production and keep them there."""
    if context.invoked_subcommand != "serve":  # which enables it when everything is imported
        gc.enable()


@cache
def commands(names: tuple[str, ...]) -> typer.Typer:
    """The `penstock` command with these subcommands, in the order in which the help lists them."""
    made = typer.Typer(
        name="penstock",
        help="Take PyTorch models to production and keep them there.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_options)
    for name in names:
        if name in _COMMANDS:
            made.command(name)(import_attribute(_COMMANDS[name]))
        else:
            made.add_typer(import_attribute(_GROUPS[name]), name=name)
    return made


def _named(arguments: list[str]) -> typer.Typer:
    """With the subcommand that is named alone: typer takes a while to make each one."""
    first = arguments[0] if arguments else ""
    known = (*_COMMANDS, *_GROUPS)
    return commands((first,) if first in known else known)


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return commands((*_COMMANDS, *_GROUPS))


def main() -> NoReturn:
    """Entry point of the `penstock` command."""
    interrupts.guard()
    code = run(lambda: _named(sys.argv[1:])())
    if code == interrupts.INTERRUPTED:
        interrupts.leave()
    sys.exit(code)


def run(command: Callable[[], object]) -> int:
    """The exit code of a command; every error becomes one sentence on standard error."""
    try:
        return _finish(command)
    except PenstockError as error:
        return _fail(worded(str(error), "cli"), error)
    except KeyboardInterrupt:
        return interrupts.INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return 1
    except MemoryError as error:
        return _fail("out of memory", error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        problem = disk_problem(error, error.filename or "what is written")
        return _fail(problem or f"{where}{error.strerror or error}", error)
    except Exception as error:
        return _fail(f"unexpected {type_and_message(error)}", error)


def _finish(command: Callable[[], object]) -> int:
    """Run the command and flush its output here, where a closed pipe can still be reported."""
    code: object = 0
    try:
        interrupts.allow()
        command()
    except SystemExit as stop:
        code = stop.code
    sys.stdout.flush()
    interrupts.end()
    return code if isinstance(code, int) else int(code is not None)


def _fail(sentence: str, error: BaseException) -> int:
    """Print the sentence; at log level debug, the traceback as well."""
    debug = _debugging()
    if debug:
        import traceback

        traceback.print_exception(error)
    expected = isinstance(error, PenstockError | OSError)
    hint = "" if debug or expected else "; run with PENSTOCK_LOG_LEVEL=debug for the traceback"
    print(f"penstock: {sentence}{hint}", file=sys.stderr)
    return 1


def _debugging() -> bool:
    from penstock.settings import load_settings

    with contextlib.suppress(PenstockError):
        return load_settings().settings.log_level == "debug"
    return False


def _abandon_stdout() -> None:
    """Redirect standard output of a closed pipe, so that the interpreter does not fail when it flushes at exit."""
    import os

    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
