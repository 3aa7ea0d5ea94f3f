"""`python -m penstock`: the command, where its script is not on the PATH."""

from penstock.cli.main import main

main()
