"""Limits of batches and queues: the server's settings, overridden by those of an artifact or an operator."""

from __future__ import annotations

from dataclasses import dataclass, replace

from penstock.artifacts.manifest import Manifest
from penstock.artifacts.policies import BatchingPolicy, PaddingPolicy


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of one model's batches and queue. Times in milliseconds. Without `join` every request runs alone.

    `timeout_ms` is the longest time a request may take, if the model has a limit of its own. `padding` lets requests of
    several lengths share a run. A model that is `whole` runs each request alone, uncut and unpadded, whatever its rows;
    a request then counts as one row. `batchable` is what its manifest says.
    """

    batch_rows: int = 32
    queue_rows: int = 512
    queue_bytes: int = 256 * 1024 * 1024
    max_wait_ms: float = 0.0
    join: bool = True
    timeout_ms: float | None = None
    padding: tuple[PaddingPolicy, ...] = ()
    whole: bool = False
    batchable: bool | None = None

    def for_whole_requests(self) -> BatchLimits:
        """These limits for a model that runs each request alone and uncut."""
        return replace(self, batch_rows=1, whole=True)

    def of(self, manifest: Manifest) -> BatchLimits:
        """These limits, with those that an artifact sets for itself."""
        return replace(self, padding=manifest.padding, batchable=manifest.batchable).under(manifest.batching)

    def under(self, policy: BatchingPolicy | None) -> BatchLimits:
        """These limits, with those that a policy sets."""
        if policy is None:
            return self
        batch_rows = policy.max_batch_rows or self.batch_rows
        return replace(
            self,
            batch_rows=batch_rows,
            queue_rows=max(batch_rows, policy.max_queue_rows or self.queue_rows),
            queue_bytes=policy.max_queue_bytes or self.queue_bytes,
            max_wait_ms=self.max_wait_ms if policy.max_wait_ms is None else policy.max_wait_ms,
            timeout_ms=policy.timeout_ms or self.timeout_ms,
        )
