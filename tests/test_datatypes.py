"""Every datatype has its names; BF16 and BYTES convert without loss."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.datatypes import (
    DATATYPES,
    as_text,
    bf16_from_float,
    datatype_of_numpy,
    datatype_of_onnx,
    float_from_bf16,
    to_json_values,
)
from penstock.errors import InvalidInput


def test_every_datatype_is_found_again_from_its_onnx_name() -> None:
    for wire, row in DATATYPES.items():
        assert datatype_of_onnx(row.onnx) == wire


def test_every_numpy_dtype_has_one_datatype_and_the_bits_of_bf16_are_uint16() -> None:
    for wire, row in DATATYPES.items():
        assert datatype_of_numpy(row.numpy) == ("UINT16" if wire == "BF16" else wire)
    assert datatype_of_numpy(np.dtype(np.complex64)) is None


def test_the_names_of_a_datatype_belong_to_it_alone() -> None:
    names = [name for row in DATATYPES.values() for name in set(row.names)]
    assert len(names) == len(set(names))
    assert {"bf16", "bfloat16", "float32", "fp32", "uint16", "bytes"} <= set(names)


def test_bytes_become_text_only_for_json_and_runtimes() -> None:
    assert as_text("s", np.array([[b"a", "k\u00e4se".encode()]], object)).tolist() == [["a", "k\u00e4se"]]
    assert to_json_values("s", np.array([b"a", "b"], object), "BYTES") == ["a", "b"]
    texts = np.array(["a", "b"], object)
    assert as_text("s", texts) is texts
    with pytest.raises(InvalidInput, match=r"^s: a text is not valid UTF-8$") as error:
        to_json_values("s", np.array([b"\xff"], object), "BYTES")
    assert error.value.errors[0].field == "s"


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, max_side=5), elements=st.floats(width=32)))
def test_bf16_is_rounded_to_nearest_even_and_keeps_nan(values: np.ndarray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(ml_dtypes.bfloat16)
    bits = bf16_from_float(values)
    assert (bits.dtype, bits.shape) == (np.uint16, values.shape)
    nan = np.isnan(values)
    np.testing.assert_array_equal(bits[~nan], expected.view(np.uint16)[~nan])
    assert np.isnan(float_from_bf16(bits)[nan]).all()


@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=0, max_dims=3, max_side=5)))
def test_every_bf16_value_survives_the_way_to_float_and_back(bits: np.ndarray) -> None:
    floats = float_from_bf16(bits)
    np.testing.assert_array_equal(floats, bits.view(ml_dtypes.bfloat16).astype(np.float32))
    number = ~np.isnan(floats)
    np.testing.assert_array_equal(bf16_from_float(floats)[number], bits[number])
