"""The `penstock-hydraulics` command: one module for each subcommand."""
