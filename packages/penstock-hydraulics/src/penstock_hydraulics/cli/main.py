"""The `penstock-hydraulics` command: training, evaluation, publishing and simulation. Serving is `penstock serve`.

Exit codes: 0 success, 1 refused or failed, 2 usage error, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from penstock.errors import PenstockError
from penstock_hydraulics.cli.evaluate import evaluate
from penstock_hydraulics.cli.faults import faults
from penstock_hydraulics.cli.publish import publish
from penstock_hydraulics.cli.simulate import simulate_windows
from penstock_hydraulics.cli.train import train

app = typer.Typer(
    name="penstock-hydraulics",
    help="Train, evaluate and publish models that diagnose hydraulic machines; simulate such machines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train)
app.command("evaluate")(evaluate)
app.command("publish")(publish)
app.command("faults")(faults)
app.command("simulate")(simulate_windows)


def main() -> NoReturn:
    """Entry point of the `penstock-hydraulics` command."""
    sys.exit(run(app))


def run(command: Callable[[], object]) -> int:
    """The exit code of a command; an expected error becomes one sentence on standard error."""
    try:
        command()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except PenstockError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        return _fail(f"the package {error.name} is missing; run `pip install 'penstock-hydraulics[train]'`")
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return 0


def _fail(sentence: str) -> int:
    print(f"penstock-hydraulics: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
