"""How an engine runs, as one frozen value."""

from __future__ import annotations

import math

from penstock.errors import ConfigError
from penstock.option_types import Whole
from penstock.options import EngineOptions, option


class InferenceConfig(EngineOptions):
    """The options of an engine in Python. `model_path` is a registry reference or a model file.

    Raises ConfigError naming the field for a value out of range, TypeError for an unknown name.
    """

    max_queue_size: Whole = option(100, "Maximum rows that wait for one model; beyond it, Overloaded.", ge=1)


def check_at_least(field: str, value: float, least: float) -> None:
    """Raises ConfigError naming `field` when `value` is less, infinite or no number."""
    if not math.isfinite(value) or value < least:
        raise ConfigError(f"{field}: {value} should be a number of at least {least}")
