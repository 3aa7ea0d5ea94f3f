"""Golden samples: a few of them, cut along the batch axis of each tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.artifacts.golden import Golden


@pytest.mark.parametrize("axes", [{}, {"x": 1, "y": 2}, {"x": 0, "y": None}])
def test_the_first_samples_are_cut_along_the_batch_axis_of_each_tensor(axes: dict[str, Any]) -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    golden = Golden({"x": x}, {"y": np.ones((3, 3, 3))}, axes=axes)
    first = golden.first(1)
    assert first.rows == 1
    assert first.inputs["x"].shape == ((2, 1, 4) if axes.get("x") else (1, 3, 4))
    assert first.outputs["y"].shape == {0: (1, 3, 3), 2: (3, 3, 1), None: (3, 3, 3)}[axes.get("y", 0)]


def test_whole_samples_stay_one_request() -> None:
    golden = Golden({"x": np.ones((5, 2))}, {"y": np.ones(3)}, whole=True)
    assert golden.first(1) is golden
