from small_artifacts import golden, signature, write

__all__ = ["golden", "signature", "write"]
