"""A task for Penstock from a package of its own."""
