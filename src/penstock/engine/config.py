"""How an engine runs, as one frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from penstock.backends.base import BackendOptions
from penstock.engine.batcher import BatchLimits
from penstock.errors import ConfigError

PRECISIONS = ("fp32", "fp16", "int8")


def check_at_least(field: str, value: float, least: float) -> None:
    """Raises ConfigError naming `field` when `value` is less, infinite or no number."""
    if not math.isfinite(value) or value < least:
        raise ConfigError(f"{field}: {value} should be a number of at least {least}")


def check_precision(value: str) -> None:
    """Raises ConfigError for a precision nobody knows."""
    if value not in PRECISIONS:
        raise ConfigError(f"precision: {value!r} is unknown; known are {', '.join(PRECISIONS)}")


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    """How an engine runs. `model_path` is a registry reference or a model file, the default of `predict`.

    `batch_size` and `max_queue_size` count rows, `max_queue_bytes` the arrays that wait. `timeout_ms` is the deadline
    of a request that brings none. `pin_memory` concerns CUDA only. `cache_size` is a number of remembered answers.
    """

    model_path: str | None = None
    registry: Path | None = None
    database_url: str | None = None
    model_type: str | None = None
    device: str = "auto"
    precision: str = "fp32"
    batch_size: int = 32
    max_queue_size: int = 100
    max_queue_bytes: int = 256 * 1024 * 1024
    max_wait_ms: float = 0.0
    use_dynamic_batching: bool = True
    pin_memory: bool = True
    graph_optimization: bool = True
    threads: int | None = None
    timeout_ms: float = 30_000.0
    max_models: int = 8
    max_bytes: int | str | None = None
    cache_size: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError naming the field that is out of range."""
        check_at_least("batch_size", self.batch_size, 1)
        check_at_least("max_queue_size", self.max_queue_size, 1)
        check_at_least("max_queue_bytes", self.max_queue_bytes, 1)
        check_at_least("max_wait_ms", self.max_wait_ms, 0)
        check_at_least("timeout_ms", self.timeout_ms, 0.001)
        check_at_least("cache_size", self.cache_size, 0)
        check_at_least("max_models", self.max_models, 1)
        if self.threads is not None:
            check_at_least("threads", self.threads, 1)
        check_precision(self.precision)

    def limits(self) -> BatchLimits:
        """The batcher's part. Without dynamic batching every request runs alone."""
        queue_rows = max(self.max_queue_size, self.batch_size)
        return BatchLimits(
            self.batch_size, queue_rows, self.max_queue_bytes, self.max_wait_ms, join=self.use_dynamic_batching
        )

    def options(self) -> BackendOptions:
        """The backends' part."""
        return BackendOptions(self.device, self.threads, self.precision, self.graph_optimization, self.pin_memory)
