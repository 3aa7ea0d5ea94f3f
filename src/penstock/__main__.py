"""`python -m penstock`, and the script `penstock`: the command, guarded before it imports anything that takes time."""

from __future__ import annotations

from typing import NoReturn

from penstock.cli.interrupts import guard


def main() -> NoReturn:
    """Entry point of the `penstock` command."""
    guard()
    from penstock.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
