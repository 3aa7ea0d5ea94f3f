"""Preprocessing steps for numbers: their settings in a manifest, built into plain functions.

A step works on an array [batch, …, channels]; for a vector the channels are its features. The constants come from the
artifact, since inputs must be preprocessed exactly as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from penstock.errors import ModelLoadError
from penstock.tensors import Array

Step: TypeAlias = Callable[[Array], Array]
Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class StepConfig(BaseModel):
    """The settings of one step."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoStep(StepConfig):
    """No preprocessing."""

    kind: Literal["none"]

    def build(self, channels: int, dtype: np.dtype[Any]) -> Step | None:  # noqa: ARG002
        """None: there is nothing to do."""
        return None


class Scale(StepConfig):
    """x · factor + offset."""

    kind: Literal["scale"]
    factor: Finite = 1.0
    offset: Finite = 0.0

    def build(self, channels: int, dtype: np.dtype[Any]) -> Step | None:  # noqa: ARG002
        """The function."""
        factor, offset = self.factor, self.offset
        if offset == 0.0:
            return lambda x: x * factor
        return lambda x: x * factor + offset


class MeanStd(StepConfig):
    """(x - mean) / std with the training set's constants: one number each, or one for every channel."""

    kind: Literal["mean_std"]
    mean: Finite | tuple[Finite, ...]
    std: Positive | tuple[Positive, ...]

    def build(self, channels: int, dtype: np.dtype[Any]) -> Step | None:
        """The function; raises ModelLoadError if the constants do not match the channels."""
        mean, std = (self._constant(name, channels, dtype) for name in ("mean", "std"))
        return lambda x: (x - mean) / std

    def _constant(self, name: str, channels: int, dtype: np.dtype[Any]) -> Array:
        array = np.asarray(getattr(self, name), dtype=dtype)
        if array.ndim and len(array) != channels:
            raise ModelLoadError(f"preprocess.{name} holds {len(array)} numbers, the model's input has {channels}")
        return array


class Standardise(StepConfig):
    """(x - mean) / std with each sample's own mean and standard deviation; the divisor is at least `eps`."""

    kind: Literal["standardise"]
    eps: Positive = 1e-6

    def build(self, channels: int, dtype: np.dtype[Any]) -> Step | None:  # noqa: ARG002
        """The function."""
        return self._apply

    def _apply(self, x: Array) -> Array:
        axes = tuple(range(1, x.ndim))
        centred = x - x.mean(axis=axes, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(axis=axes, keepdims=True))
        result: Array = centred / np.maximum(deviation, self.eps)
        return result


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, Mapping) else value


AnyStep: TypeAlias = Annotated[NoStep | Scale | MeanStd | Standardise, Field(discriminator="kind")]
Steps: TypeAlias = Annotated[tuple[AnyStep, ...], BeforeValidator(_as_list)]
"""In a manifest: one step, or a list of steps in the order they are applied."""


def build_steps(steps: Steps, channels: int, dtype: np.dtype[Any], limit: float) -> Step | None:
    """One function that applies all `steps` to an array of `dtype` and clips it to ±`limit`; None without steps."""
    built = [step for step in (config.build(channels, dtype) for config in steps) if step is not None]
    if not built:
        return None

    @np.errstate(over="ignore", invalid="ignore")
    def apply(x: Array) -> Array:
        for step in built:
            x = step(x)
        return x.clip(-limit, limit)

    return apply
