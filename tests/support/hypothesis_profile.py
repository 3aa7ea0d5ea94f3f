"""How property tests run here: a busy machine makes examples slow, which is no fault of what they test."""

from hypothesis import HealthCheck, settings


def load() -> None:
    """No deadline for an example, and no complaint that making one takes long."""
    settings.register_profile("penstock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("penstock")
