"""What a training makes small, and what its early stop watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from penstock.backends.torch.base import named_outputs
from penstock.errors import InvalidInput
from penstock.toolchain.recipes.training import user_functions
from penstock.toolchain.recipes.training.batches import Batch
from penstock.toolchain.recipes.training.options import Training

if TYPE_CHECKING:
    import torch

NO_LABEL = -100
"""The label of a row that has none, as PyTorch's cross entropy has it."""

Loss = Callable[[Any, Batch], "torch.Tensor"]
"""From what the model returned for a batch to one number."""


def loss_of(training: Training) -> Loss:
    """The user's loss, else the default one for the output that `training` names. Raises InvalidInput."""
    if training.loss:
        return _users(training.loss, "loss")
    return lambda result, batch: default_loss(output_of(result, training.output), batch.targets)


def metric_of(training: Training) -> Loss | None:
    """The metric that early stopping watches, of which more is better; None: it watches the loss."""
    if not training.metric:
        return None
    if training.metric == "accuracy":
        return lambda result, batch: accuracy(output_of(result, training.output), batch.targets)
    return _users(training.metric, "metric", differentiable=False)


def output_of(result: Any, name: str = "") -> torch.Tensor:
    """The named output of what a model returned, or its first. Raises InvalidInput listing the outputs."""
    outputs = named_outputs(result)
    if name and name not in outputs:
        raise InvalidInput(f"output: the model has no output {name!r}; it has {', '.join(outputs)}", field="output")
    found: torch.Tensor = outputs[name] if name else next(iter(outputs.values()))
    return found


def default_loss(output: torch.Tensor, targets: Any) -> torch.Tensor:
    """Cross entropy for integer targets, the mean squared error otherwise. Raises InvalidInput where neither fits."""
    from torch.nn import functional

    targets = _one_tensor(targets)
    if is_label(targets):
        return cross_entropy(output, targets)
    if targets.shape != output.shape and targets.numel() != output.numel():
        raise InvalidInput(
            f"loss: the targets have the shape {list(targets.shape)}, the output {list(output.shape)}; name a loss of "
            "yours as `loss`",
            field="loss",
        )
    return functional.mse_loss(output, targets.reshape(output.shape).to(output.dtype))


def cross_entropy(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean cross entropy of the rows that have a label; 0 when none has one. Raises InvalidInput."""
    from torch.nn import functional

    logits, labels = as_classes(output, labels)
    labelled = labels != NO_LABEL
    _require_classes(labels[labelled], logits.shape[1])
    total = functional.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum")
    return total / labelled.sum().clamp(min=1)


def as_classes(output: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, classes, …] and labels [n, …]; classes on the last axis are accepted too. Raises InvalidInput."""
    labels = labels.long()
    shape = tuple(output.shape)
    if output.ndim >= 2 and tuple(labels.shape) == (shape[0], *shape[2:]):
        return output, labels
    if output.ndim >= 2 and tuple(labels.shape) == shape[:-1]:
        return output.reshape(-1, shape[-1]), labels.reshape(-1)
    if output.ndim == 2 and tuple(labels.shape) == (shape[0], 1):
        return output, labels.reshape(-1)
    raise InvalidInput(
        f"loss: integer targets of the shape {list(labels.shape)} do not fit an output of the shape {list(shape)} as "
        "classes; give targets as float32, or name a loss of yours as `loss`",
        field="loss",
    )


def accuracy(output: torch.Tensor, targets: Any) -> torch.Tensor:
    """The share of labelled rows whose largest value is at the label. Raises InvalidInput for other targets."""
    targets = _one_tensor(targets)
    if not is_label(targets):
        raise InvalidInput("metric: accuracy needs integer targets", field="metric")
    logits, labels = as_classes(output, targets)
    labelled = labels != NO_LABEL
    return ((logits.argmax(dim=1) == labels) & labelled).sum() / labelled.sum().clamp(min=1)


def is_label(targets: torch.Tensor) -> bool:
    """True for integers, which are classes."""
    import torch

    return not targets.is_floating_point() and targets.dtype is not torch.bool


def _require_classes(labels: torch.Tensor, classes: int) -> None:
    if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        worst = int(labels.max()) if int(labels.max()) >= classes else int(labels.min())
        raise InvalidInput(
            f"labels: the label {worst} is not one of the {classes} classes of the output, 0 to {classes - 1}",
            field="labels",
        )


def _one_tensor(targets: Any) -> torch.Tensor:
    import torch

    if targets is None:
        raise InvalidInput("data: there are no targets; return (inputs, targets), or give labels", field="data")
    if not isinstance(targets, torch.Tensor):
        raise InvalidInput("loss: several targets need a loss of yours; name it as `loss`", field="loss")
    return targets


def _users(target: str, field: str, *, differentiable: bool = True) -> Loss:
    function = user_functions.find(target, field)

    def loss(result: Any, batch: Batch) -> torch.Tensor:
        import torch

        value = user_functions.call(function, target, field, result, batch.targets)
        if not differentiable and isinstance(value, int | float):
            return torch.tensor(float(value))
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            shape = f"a tensor of the shape {list(value.shape)}" if hasattr(value, "shape") else type(value).__name__
            raise InvalidInput(f"{field}: {target} returned {shape}, not one number", field=field)
        if differentiable and torch.is_grad_enabled() and not value.requires_grad:
            raise InvalidInput(
                f"{field}: {target} returned a number without a gradient; compute it from the outputs with PyTorch",
                field=field,
            )
        return value.reshape(())

    return loss
