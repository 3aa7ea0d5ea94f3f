"""How a technique trains, as data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from penstock.errors import InvalidInput

T = TypeVar("T")

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Training:
    """Data, loss and optimizer of a training.

    `data`, `loss`, `validation` and `metric` are names such as `train:batches` (`module:function`), found among the
    installed packages and in the working directory:

    - `data()` and `validation()` return an iterable of batches `(inputs, targets)` or a DataLoader. Inputs are one
      array, a tuple in the order of the model's inputs, or a mapping by name. Without `data` the calibration data and
      its labels are used; without labels the model learns to repeat the outputs that it had.
    - `loss(outputs, targets)` returns one number to make small; outputs are what the model returns. By default cross
      entropy for integer targets (-100 marks a row without a label), else the mean squared error.
    - `metric(outputs, targets)` returns one number, of which more is better, or is `accuracy`; early stopping watches
      it instead of the loss of the validation data.

    `output` is the output that the default loss uses, by default the first. A training ends after its epochs, or after
    `steps` optimizer steps (0: no limit), or when the validation data has not improved for `patience` epochs (0:
    never); the best weights are kept then. Where `validation` is not named and `patience` is set, `validation_share`
    of the calibration data is held out. `threads` is here because sums differ by it in their last bits.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    data: str = ""
    loss: str = ""
    validation: str = ""
    metric: str = ""
    output: str = ""
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    learning_rate: Positive = 1e-3
    rate_schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Share = 0.9
    batch_size: Annotated[int, Field(ge=1)] = 32
    steps: Count = 0
    patience: Count = 0
    validation_share: Share = 0.2
    seed: int | None = None
    threads: Annotated[int, Field(ge=1)] = 1


def checked(value: T, kind: str) -> T:
    """A technique whose settings are valid; it may have been made in Python. Raises InvalidInput naming the setting."""
    settings: dict[str, Any] = dataclasses.asdict(value)  # type: ignore[call-overload]
    try:
        return TypeAdapter(type(value)).validate_python(settings, strict=False)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        raise InvalidInput(f"{kind}: {field}: {fault['msg']}", field=field) from None
