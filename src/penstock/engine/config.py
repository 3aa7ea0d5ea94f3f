"""How an engine runs, as one frozen value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, get_args

from penstock.artifacts.policies import BatchingPolicy, RangePolicy
from penstock.backends.base import BackendOptions
from penstock.backends.devices import parse_device
from penstock.backends.torch.compiled import require_mode
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.loading.selection_cache import Effort
from penstock.engine.tasks.ranges import RangePolicies
from penstock.errors import ConfigError
from penstock.scan.trust import check_trust

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
CHOOSING = ("light", "all", "first")


def check_at_least(field: str, value: float, least: float) -> None:
    """Raises ConfigError naming `field` when `value` is less, infinite or no number."""
    if not math.isfinite(value) or value < least:
        raise ConfigError(f"{field}: {value} should be a number of at least {least}")


def check_precision(value: str) -> None:
    """Raises ConfigError for a precision nobody knows."""
    if value not in PRECISIONS:
        raise ConfigError(f"precision: {value!r} is unknown; known are {', '.join(PRECISIONS)}")


def check_choosing(value: str) -> Effort:
    """Raises ConfigError for a way to choose variants there is not."""
    if value not in CHOOSING:
        raise ConfigError(f"choosing: {value!r} is unknown; known are {', '.join(CHOOSING)}")
    return cast("Effort", value)


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    """How an engine runs. `model_path` is a registry reference or a model file, the default of `predict`.

    `batch_size` and `max_queue_size` count rows, `max_queue_bytes` the arrays that wait. `timeout_ms` is the deadline
    of a request that brings none. `pin_memory` concerns CUDA only. `cache_size` is how many answers are remembered,
    `cache_bytes` how much memory they may take (256 MiB where only their number is given; none are where both are 0).
    `ranges` says what becomes of requests outside of what a model expects.
    `use_compile` and `compile_mode` concern eager PyTorch. `trust` is the highest tier of what may be opened.
    `cache_dir` keeps optimized models and choices of variants between starts; `choosing` says how much a load may
    spend to find an artifact's fastest variant. `shared_threads` runs all ONNX models on one pool of threads.
    """

    model_path: str | Path | None = None
    registry: Path | str | None = None
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
    cache_bytes: int = 0
    ranges: RangePolicies = field(default_factory=RangePolicies)
    batching: Mapping[str, BatchingPolicy] = field(default_factory=dict)
    use_compile: bool = False
    compile_mode: str | None = None
    trust: str = "data"
    cache_dir: Path | None = None
    choosing: Effort = "light"
    shared_threads: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError naming the field that is out of range."""
        check_at_least("batch_size", self.batch_size, 1)
        check_at_least("max_queue_size", self.max_queue_size, 1)
        check_at_least("max_queue_bytes", self.max_queue_bytes, 1)
        check_at_least("max_wait_ms", self.max_wait_ms, 0)
        check_at_least("timeout_ms", self.timeout_ms, 0.001)
        check_at_least("cache_size", self.cache_size, 0)
        check_at_least("cache_bytes", self.cache_bytes, 0)
        for field_name, policy in self.ranges._asdict().items():
            if policy not in get_args(RangePolicy):
                raise ConfigError(f"ranges.{field_name}: {policy!r} should be off, count, warn or refuse")
        check_at_least("max_models", self.max_models, 1)
        if self.threads is not None:
            check_at_least("threads", self.threads, 1)
        parse_device(self.device)
        require_mode(self.compile_mode)
        check_precision(self.precision)
        check_trust(self.trust)
        check_choosing(self.choosing)

    def limits(self) -> BatchLimits:
        """The batcher's part. Without dynamic batching every request runs alone."""
        queue_rows = max(self.max_queue_size, self.batch_size)
        return BatchLimits(
            self.batch_size, queue_rows, self.max_queue_bytes, self.max_wait_ms, join=self.use_dynamic_batching
        )

    def options(self) -> BackendOptions:
        """The backends' part."""
        return BackendOptions(
            device=self.device,
            threads=self.threads,
            precision=self.precision,
            graph_optimization=self.graph_optimization,
            pin_memory=self.pin_memory,
            trust=self.trust,
            compile=self.use_compile,
            compile_mode=self.compile_mode,
            cache_dir=self.cache_dir,
            shared_threads=self.shared_threads,
        )
