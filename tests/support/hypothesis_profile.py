"""The Hypothesis profile: a busy machine slows down examples, which must not fail a test."""

from hypothesis import HealthCheck, settings


def load() -> None:
    """No deadline per example, and no health check for slow generation."""
    settings.register_profile("penstock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("penstock")
