"""Puts a training together: the data and loss that a recipe names, or the calibration data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.errors import InvalidInput
from penstock.tensors import Signature
from penstock.toolchain.recipes.subject import Materials, Subject
from penstock.toolchain.recipes.training import user_functions
from penstock.toolchain.recipes.training.batches import ArrayData, Data, UserData, rows_of
from penstock.toolchain.recipes.training.checkpoint import random_state, seed_all, set_random_state
from penstock.toolchain.recipes.training.loop import Run
from penstock.toolchain.recipes.training.losses import Loss, loss_of, metric_of, output_of
from penstock.toolchain.recipes.training.options import Training

if TYPE_CHECKING:
    import torch


def run_for(
    kind: str,
    training: Training,
    epochs: int,
    subject: Subject,
    materials: Materials,
    *,
    loss: Loss | None = None,
    teacher: torch.nn.Module | None = None,
) -> Run:
    """A training of `subject`'s module by `training`; `loss` replaces that of the recipe.

    `teacher` gives the targets where calibration data has no labels: the module as it was. Raises InvalidInput when
    there is no data, it does not fit the model, or a function of the recipe is not found or raises.
    """
    signature = subject.signature
    seed = materials.seed if training.seed is None else training.seed
    kept = random_state()
    try:
        seed_all(seed)
        data, validation = _data(kind, training, signature, materials, seed)
    finally:
        set_random_state(kept)
    if teacher is not None and isinstance(data, ArrayData) and data.targets is None:
        for part in (data, validation):
            if isinstance(part, ArrayData):
                part.targets = _answers(teacher, part, signature, training)
    return Run(
        name=kind,
        training=training,
        epochs=epochs,
        signature=signature,
        data=data,
        loss=loss or loss_of(training),
        seed=seed,
        validation=validation,
        metric=metric_of(training),
        progress=materials.progress,
        checkpoints=materials.checkpoints,
        settings={
            "code": [user_functions.code_digest(user_functions.find(name, "loss")) for name in _functions(training)]
        },
    )


def _functions(training: Training) -> list[str]:
    """The user's functions that a training calls besides those for data."""
    return [name for name in (training.loss, training.metric) if ":" in name]


def _data(
    kind: str, training: Training, signature: Signature, materials: Materials, seed: int
) -> tuple[Data, Data | None]:
    validation: Data | None = None
    if training.validation:
        validation = UserData(training.validation, "validation", signature, training.batch_size)
    if training.data:
        if training.patience and validation is None:
            raise InvalidInput(
                f"{kind}: patience needs validation data; name a function as `validation`", field="validation"
            )
        return UserData(training.data, "data", signature, training.batch_size), validation
    rows = _calibration(kind, training, signature, materials)
    if training.patience and validation is None:
        return rows.split(training.validation_share, seed)
    return rows, validation


def _calibration(kind: str, training: Training, signature: Signature, materials: Materials) -> ArrayData:
    if materials.data is None:
        raise InvalidInput(
            f"{kind}: there is no data to train on; give calibration data, or name a function that returns batches as "
            '`data = "module:function"` of `training`',
            field="data",
        )
    inputs, targets = rows_of(materials.data, signature, materials.labels, "data")
    return ArrayData("the calibration data", inputs, targets, training.batch_size)


def _answers(teacher: torch.nn.Module, data: ArrayData, signature: Signature, training: Training) -> torch.Tensor:
    """What the module gives for each row."""
    import torch

    from penstock.backends.torch.eager import takes_names

    by_name = takes_names(teacher, signature)
    found: list[Any] = []
    with torch.no_grad():
        for start in range(0, data.rows, training.batch_size):
            inputs = {name: tensor[start : start + training.batch_size] for name, tensor in data.inputs.items()}
            result = teacher(**inputs) if by_name else teacher(*inputs.values())
            found.append(output_of(result, training.output))
    return torch.cat(found)
