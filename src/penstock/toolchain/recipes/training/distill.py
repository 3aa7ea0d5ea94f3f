"""The technique `distill`: a smaller model that learns from the answers of this one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from penstock.backends.torch.base import named_outputs
from penstock.backends.torch.eager import takes_names
from penstock.errors import InvalidInput, type_and_message
from penstock.tensors import Signature
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.recipes.forms import need_module
from penstock.toolchain.recipes.recipe import Technique
from penstock.toolchain.recipes.subject import Materials, Subject
from penstock.toolchain.recipes.training import user_functions
from penstock.toolchain.recipes.training.batches import Batch
from penstock.toolchain.recipes.training.checkpoint import seed_all, weights_digest
from penstock.toolchain.recipes.training.loop import Run, deterministic, set_mode
from penstock.toolchain.recipes.training.losses import Loss, loss_of, output_of
from penstock.toolchain.recipes.training.options import Positive, Training, checked
from penstock.toolchain.recipes.training.runs import run_for

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Distill(Technique):
    """Train the student that `student` (`module:factory`) makes, with the subject as its teacher.

    The loss is `alpha` times the soft loss and `1 - alpha` times the hard one. The soft loss is the Kullback-Leibler
    divergence of the student's classes from the teacher's, both at `temperature` T, times T²: its gradients shrink with
    1/T², and so the weights of both losses stay as they are for any T (Hinton, Vinyals and Dean 2015, arXiv
    1503.02531). Outputs of one value, or `soft="mse"`, use the mean squared error to the teacher's outputs instead. The
    hard loss is that of `training`; rows with the label -100 have the soft one only. Without labels, `alpha` is 1.
    """

    kind = "distill"

    student: str
    student_args: Mapping[str, Any] = field(default_factory=dict)
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.7
    temperature: Positive = 4.0
    soft: Literal["kl", "mse"] = "kl"
    epochs: Annotated[int, Field(ge=1)] = 20
    training: Training = field(default_factory=Training)

    def apply(self, subject: Subject, materials: Materials) -> Subject:
        """The student with the teacher's signature, which it must have. Raises InvalidInput."""
        technique = checked(self, self.kind)
        source = need_module(subject, self.kind)
        with deterministic(technique.training.threads):
            return _distilled(technique, source, subject, materials)


def _distilled(technique: Distill, source: ModuleSource, subject: Subject, materials: Materials) -> Subject:
    training = technique.training
    seed = materials.seed if training.seed is None else training.seed
    seed_all(seed)
    student, architecture = _student(technique)
    _require_same_outputs(technique.student, student, source)
    teacher = copy.deepcopy(source.module)
    set_mode(teacher, training=False)
    loss = distillation_loss(technique, teacher, subject.signature)
    run = run_for(technique.kind, training, technique.epochs, subject, materials, loss=loss)
    fitted = _with_settings(run, technique, weights_digest(teacher.state_dict().items())).fit(student)
    made = replace(
        source,
        module=student,
        architecture=architecture,
        architecture_args=dict(technique.student_args) if architecture else {},
    )
    before, after = _parameters(source.module), _parameters(student)
    facts = {"teacher_parameters": before, "student_parameters": after, "training": fitted.to_json()}
    note = f"distilled: {technique.student} with {after:,} parameters learned from {before:,} ({after / before:.0%})"
    by = f"training with torch {version('torch').partition('+')[0]}"
    return subject.changed(by, module=made, precision="fp32").noted(note, distill=facts)


def distillation_loss(technique: Distill, teacher: torch.nn.Module, signature: Signature) -> Loss:
    """The weighted sum of the soft and the hard loss."""
    import torch

    hard_loss = loss_of(technique.training)
    output, alpha = technique.training.output, technique.alpha
    by_name = takes_names(teacher, signature)

    def loss(result: Any, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            inputs = {name: tensor.clone() for name, tensor in batch.inputs.items()}
            target = output_of(teacher(**inputs) if by_name else teacher(*inputs.values()), output)
        soft = soft_loss(output_of(result, output), target, technique.temperature, technique.soft)
        if alpha == 1:
            return soft
        if batch.targets is None:
            raise InvalidInput(
                f"distill: alpha is {alpha:g}, and the data has no labels for the hard loss; give labels, or set "
                "alpha = 1",
                field="alpha",
            )
        return alpha * soft + (1 - alpha) * hard_loss(result, batch)

    return loss


def soft_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float, soft: str = "kl") -> torch.Tensor:
    """How far the student's output is from the teacher's: T²·KL over the classes of axis 1, or the squared error."""
    from torch.nn import functional

    if soft == "mse" or student.ndim < 2 or student.shape[1] == 1:
        return functional.mse_loss(student, teacher)
    log_student = functional.log_softmax(student / temperature, dim=1)
    log_teacher = functional.log_softmax(teacher / temperature, dim=1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    return divergence.mean() * temperature**2


def _student(technique: Distill) -> tuple[torch.nn.Module, str | None]:
    """A new student, and its `module:Class` when a class was named."""
    import torch

    made_by = user_functions.find(technique.student, "student")
    made = user_functions.call(made_by, technique.student, "student", **technique.student_args)
    if isinstance(made, tuple) and made:
        made = made[0]  # a factory may return example inputs too
    if not isinstance(made, torch.nn.Module):
        raise InvalidInput(
            f"student: {technique.student} returned a {type(made).__name__}, not a torch.nn.Module", field="student"
        )
    return made, technique.student if isinstance(made_by, type) else None


def _require_same_outputs(name: str, student: torch.nn.Module, source: ModuleSource) -> None:
    """Raise InvalidInput unless the student takes the teacher's inputs and gives outputs of the same names and kind."""
    wanted = _outputs(source.module, source)
    set_mode(student, training=False)
    try:
        got = _outputs(student, source)
    except Exception as error:
        raise InvalidInput(
            f"student: {name} does not run on the teacher's inputs: {type_and_message(error, 300)}", field="student"
        ) from error
    if got != wanted:
        raise InvalidInput(
            f"student: {name} gives {_described(got)}, the teacher {_described(wanted)}; these must be the same",
            field="student",
        )


def _outputs(module: torch.nn.Module, source: ModuleSource) -> dict[str, tuple[str, list[int]]]:
    import torch

    by_name = takes_names(module, source.signature)
    inputs = {spec.name: torch.from_numpy(source.example[spec.name].copy()) for spec in source.signature.inputs}
    with torch.no_grad():
        outputs = named_outputs(module(**inputs) if by_name else module(*inputs.values()))
    return {name: (str(value.dtype).removeprefix("torch."), list(value.shape)) for name, value in outputs.items()}


def _described(outputs: Mapping[str, tuple[str, list[int]]]) -> str:
    return ", ".join(f"{name} ({dtype} {shape})" for name, (dtype, shape) in outputs.items())


def _parameters(module: torch.nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def _with_settings(run: Run, technique: Distill, teacher: str) -> Run:
    """The run with what else its checkpoint depends on."""
    own = {"alpha": technique.alpha, "temperature": technique.temperature, "soft": technique.soft, "teacher": teacher}
    return replace(run, settings={**run.settings, **own})
