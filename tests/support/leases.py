"""Leases on models of a manager, for tests of what happens to a model in use."""

from __future__ import annotations

from penstock.engine.admission import Admission, Lease
from penstock.engine.deployment.reconciler import Reconciler
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.loading.manager import ModelManager


def lease_of(manager: ModelManager, model: LoadedModel) -> Lease | None:
    """A lease on a model, to be ended with `release`; None if the model was unloaded."""
    deployment = Reconciler(manager, default_ref=None, max_models=1)
    lease = Admission(deployment, manager.cache, timeout_s=10.0, observe=lambda _: None).request()
    return lease if lease.take(model) else None


def release(lease: Lease | None) -> None:
    """End a lease."""
    assert lease is not None
    lease.__exit__(None, None, None)
