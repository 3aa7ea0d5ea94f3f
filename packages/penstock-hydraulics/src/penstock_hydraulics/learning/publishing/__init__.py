"""Final models as artifacts with model cards."""
