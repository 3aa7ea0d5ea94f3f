"""Requests that are copied when they are pulled from a source."""

from __future__ import annotations

import mmap
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel

from penstock.engine.tasks.request_copies import copied, pulled


class _Request(BaseModel):
    values: list[float]


def _write(value: Any) -> None:
    """Overwrite every number that `value` holds."""
    if isinstance(value, np.ndarray | torch.Tensor | bytearray | memoryview):
        value[:] = value[:1] if isinstance(value, np.ndarray | torch.Tensor) else bytes(len(value))
    elif isinstance(value, Image.Image):
        value.paste(0, (0, 0, *value.size))
    elif isinstance(value, _Request):
        value.values[:] = [0.0]
    elif isinstance(value, dict):
        for item in value.values():
            _write(item)
    elif isinstance(value, list) and value and isinstance(value[0], int | float):
        value[:] = [0]
    else:
        for item in value:
            _write(item)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.tolist()
    if isinstance(value, Image.Image):
        return value.tobytes()
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


@pytest.mark.parametrize(
    "value",
    [
        np.arange(4.0),
        np.arange(8.0)[::2],
        torch.arange(4.0),
        torch.arange(4.0, requires_grad=True).detach(),
        [1, 2, 3],
        [[1.0], [2.0]],
        (np.arange(3), [np.arange(2)]),
        {"x": np.arange(4), "y": [1, 2]},
        OrderedDict(x=np.arange(4)),
        bytearray(b"abc"),
        memoryview(bytearray(b"abc")),
        Image.new("L", (4, 4), 7),
        _Request(values=[1.0, 2.0]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_copy_shares_no_memory_with_the_request(value: Any) -> None:
    before = _plain(value)
    copy = copied(value)
    _write(value)
    assert _plain(value) != before
    assert _plain(copy) == before


def test_what_cannot_be_copied_is_passed_on() -> None:
    with tempfile.TemporaryFile() as file:
        assert copied(file) is file
    assert copied("text") == "text"


def test_a_list_and_an_array_in_memory_are_not_copied() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    assert all(np.shares_memory(row, rows) for row in pulled(rows))
    items = [rows[0], rows[1]]
    assert all(one is other for one, other in zip(pulled(items), items, strict=True))


def test_an_array_over_foreign_memory_is_copied() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(16))
        file.flush()
        with mmap.mmap(file.fileno(), 16) as mapped:
            rows = np.frombuffer(mapped, np.float32).reshape(2, 2)
            copies: Iterator[Any] = pulled(rows)
            assert not any(np.shares_memory(row, rows) for row in copies)
            del rows, copies
