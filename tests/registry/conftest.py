"""Artifacts of a few bytes, and registries that hold them."""

from small_artifacts import golden, registry, signature, write

__all__ = ["golden", "registry", "signature", "write"]
