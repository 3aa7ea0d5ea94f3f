"""Canaries in the store: where each is, what was decided, and which process decides."""
