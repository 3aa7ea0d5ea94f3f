"""What an artifact asks of the server that runs it: how it is batched and padded, and which values are expected."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Entry(BaseModel):
    """A part of a manifest: frozen, and nothing in it that the schema does not know."""

    # NaN must reach json.dumps, which refuses it; by default it would be written as null without a word
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants", protected_namespaces=()
    )


class BatchingPolicy(Entry):
    """How much of this model is run together and may wait; what is None is the server's own setting."""

    max_batch_rows: int | None = Field(default=None, ge=1)
    max_queue_rows: int | None = Field(default=None, ge=1)
    max_wait_ms: float | None = Field(default=None, ge=0)
    timeout_ms: float | None = Field(default=None, gt=0)


class PaddingPolicy(Entry):
    """Inputs that share one free length and are padded to a common one, so that they can share a run.

    `axes` maps an input to its free axis, `values` to what fills it (0). `buckets` are the lengths to pad to,
    ascending. `mask` is an input that the platform makes: 1 where real, 0 where padded. `outputs` maps an output to the
    axis that is cut back to the request's own length.
    """

    axes: dict[str, int] = Field(min_length=1)
    buckets: tuple[int, ...] = Field(min_length=1)
    values: dict[str, float] = Field(default_factory=dict)
    mask: str | None = None
    outputs: dict[str, int] = Field(default_factory=dict)


RangePolicy = Literal["off", "count", "warn", "refuse"]
"""What becomes of a request whose values are outside the expected range."""


class Range(Entry):
    """The least and the greatest expected value of a tensor."""

    minimum: float | None = None
    maximum: float | None = None


class Ranges(Entry):
    """The expected range of inputs and outputs by name; a policy of None is the server's own setting."""

    inputs: dict[str, Range] = Field(default_factory=dict)
    outputs: dict[str, Range] = Field(default_factory=dict)
    on_input: RangePolicy | None = None
    on_output: RangePolicy | None = None
