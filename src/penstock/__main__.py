"""`python -m penstock`, and the script `penstock`: the command, guarded before it imports anything that takes time."""

from __future__ import annotations

import gc
from typing import NoReturn

from penstock.cli.interrupts import guard


def main() -> NoReturn:
    """Entry point of the `penstock` command."""
    guard()
    gc.disable()  # imports leave nothing to collect; a command that is not `serve` enables it again
    from penstock.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
