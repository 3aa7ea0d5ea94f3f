"""An example package with a task for Penstock."""
