from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from penstock.errors import InvalidInput, ModelLoadError
from penstock.tasks.image import ImageClassification, ImageRequest
from penstock.tensors import Signature, TensorSpec

GREY = {"mode": "L", "resize": [[4, 4, "box"]]}
DRAWING = {"mode": "F", "invert": "auto", "contrast": "paper", "crop": "content", "resize": [[4, 4, "box"]]}
RAMP = np.arange(16, dtype=np.uint8).reshape(4, 4) * 10


def make(config=GREY, shape=(-1, 16), dtype="FP32") -> ImageClassification:
    signature = Signature((TensorSpec("x", dtype, shape),), (TensorSpec("y", "FP32", (-1, 3)),))
    return ImageClassification(config, signature)


def run(task: ImageClassification, value) -> np.ndarray:
    arrays = task.preprocess(task.coerce(value))
    task.signature.validate(arrays)
    return arrays["x"]


def refusal(call, *arguments) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value


def attempt(call, *arguments):
    """The result of the call, or the InvalidInput that it raises."""
    try:
        return call(*arguments)
    except InvalidInput as error:
        return error


# --- the request


def test_json_has_the_image_as_base64():
    data = bytes(range(256))
    body = json.dumps({"image": base64.b64encode(data).decode()})
    assert ImageRequest.model_validate_json(body).image == data


@pytest.mark.parametrize("size", [0, 1, 2, 65_535, 65_536, 65_537, 300_001])
def test_a_long_image_in_base64_is_read_in_pieces(size):
    data = random.Random(size).randbytes(size)
    text = base64.b64encode(data).decode()
    urlsafe = base64.urlsafe_b64encode(data).decode().rstrip("=")
    quoted = "data:image/png;base64," + quote(text, safe="")
    for form in (text, urlsafe, text.replace("A", "A\r\n "), "data:image/png;base64," + text, quoted):
        assert ImageRequest.model_validate_json(json.dumps({"image": form})).image == data
    plain = "data:," + quote(data)
    assert ImageRequest.model_validate_json(json.dumps({"image": plain})).image == data


@pytest.mark.parametrize("wrong", ["é", "=", "==A", "?", "%", "%4?", "😀"])
@pytest.mark.parametrize("place", [0, 4, 65_532, 65_536, 70_000])
def test_base64_is_checked_in_every_piece(wrong, place):
    text = "A" * place + wrong + "A" * 80_000
    with pytest.raises(ValidationError, match="Input should be a file in base64"):
        ImageRequest.model_validate_json(json.dumps({"image": text}))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "image"),
        ({"image": 1}, "image"),
        ({"image": "?"}, "image"),
        ({"image": "AAAA", "top_k": 0}, "top_k"),
        ({"image": "AAAA", "top_k": 1001}, "top_k"),
        ({"image": "AAAA", "top_k": 1.5}, "top_k"),
        ({"image": "AAAA", "top_k": "five"}, "top_k"),
        ({"image": "AAAA", "top_k": "9" * 5000}, "top_k"),
        ({"image": "AAAA", "name": "x"}, "name"),
    ],
)
def test_an_invalid_request_names_the_field(body, field):
    with pytest.raises(ValidationError) as caught:
        ImageRequest.model_validate_json(json.dumps(body))
    assert caught.value.errors()[0]["loc"] == (field,)


def test_a_form_sends_numbers_as_text():
    assert ImageRequest(image=b"x", top_k="3").top_k == 3


# --- before the model


def test_pixels_are_laid_out_as_the_signature_says(encode):
    flat = run(make(), RAMP)
    assert flat.shape == (1, 16)
    assert flat[0].tolist() == RAMP.ravel().tolist()
    assert run(make(shape=(-1, 1, 4, 4)), RAMP).shape == (1, 1, 4, 4)
    assert run(make(shape=(-1, -1, -1, -1)), RAMP).shape == (1, 1, 4, 4)


@pytest.mark.parametrize(("layout", "shape"), [("chw", (-1, 3, 4, 2)), ("hwc", (-1, 4, 2, 3))])
def test_colour_is_by_channel_or_by_pixel(layout, shape):
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    arrays = run(make({"resize": [[2, 4, "nearest"]], "layout": layout}, shape), pixels)
    assert np.array_equal(arrays[0] if layout == "hwc" else arrays[0].transpose(1, 2, 0), pixels)


def test_the_usual_preprocessing_of_colour_models_works():
    config = {
        "mode": "RGB",
        "crop": "center",
        "resize": [[2, 2, "bilinear"]],
        "preprocess": [
            {"kind": "scale", "factor": 1 / 255},
            {"kind": "mean_std", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        ],
    }
    pixels = np.full((6, 10, 3), 255, dtype=np.uint8)
    pixels[:, :2] = pixels[:, -2:] = 0  # outside the central square
    result = run(make(config, (-1, 3, 2, 2)), pixels)
    expected = (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    assert np.allclose(result[0], expected[:, None, None], atol=1e-5)
    assert result.dtype == np.float32


@pytest.mark.parametrize("mode", ["L", "F"])
def test_resizes_are_applied_in_order(mode):
    config = {"mode": mode, "resize": [[1, 1, "box"], [4, 4, "bilinear"]]}
    result = run(make(config), RAMP)
    assert np.allclose(result, RAMP.mean(), atol=0.51 if mode == "L" else 1e-4)


def test_models_with_uint8_inputs_get_uint8():
    result = run(make(shape=(-1, 16), dtype="UINT8"), RAMP)
    assert result.dtype == np.uint8
    assert result.ravel().tolist() == RAMP.ravel().tolist()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_ink_is_inverted_always_never_or_if_it_is_dark(mode):
    paper = np.full((4, 4), 200, dtype=np.uint8)
    paper[1:3, 1:3] = 20
    shape = (-1, 16) if mode == "L" else (-1, 3, 4, 4)
    for shown in (paper, 255 - paper):
        expected = {"never": shown, "always": 255 - shown, "auto": 255 - paper}
        for invert, pixels in expected.items():
            result = run(make({"mode": mode, "invert": invert, "resize": [[4, 4, "nearest"]]}, shape), shown)
            assert result.reshape(-1, 4, 4)[0].tolist() == pixels.tolist(), invert


@pytest.mark.parametrize("dark", [True, False])
def test_a_drawing_of_either_polarity_is_cropped_and_normalised(dark):
    picture = np.full((100, 100), 200, dtype=np.uint8)
    picture[20:40, 50:70] = 90
    picture = picture if dark else 255 - picture
    assert run(make(DRAWING), picture).tolist() == [[255] * 16]


def test_fine_strokes_are_thickened_if_configured():
    picture = np.full((100, 100), 255, dtype=np.uint8)
    picture[20:80, 50:52] = 0
    picture[78:80, 20:80] = 0
    plain = run(make(DRAWING), picture).mean()
    assert run(make(DRAWING | {"embolden": 0.5}), picture).mean() > 2 * plain


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_empty_sheet_is_refused_if_cropping_to_the_content(level):
    error = refusal(run, make(DRAWING), np.full((50, 50), level, dtype=np.uint8))
    assert str(error) == "image: the image is empty: there is no content to crop to"


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_any_image_becomes_an_input_or_is_refused(width, height, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    for config in (GREY, DRAWING, DRAWING | {"contrast": "none", "embolden": 0.3}):
        result = attempt(run, make(config), pixels)
        if isinstance(result, InvalidInput):
            assert result.errors[0].field == "image"
        else:
            assert result.min() >= 0
            assert result.max() <= 255


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    error = refusal(run, make(), data)
    assert error.errors[0].field == "image"


# --- after the model


def test_the_response_has_the_best_classes():
    task = make(GREY | {"output": "probabilities", "labels": ["ant", "bee", "cat"]})
    outputs = {"y": np.array([[0.2, 0.7, 0.1]], dtype=np.float32)}
    response = task.postprocess(outputs, ImageRequest(image=b"x", top_k=2))
    answer = json.loads(response.model_dump_json())
    assert list(answer)[:4] == ["class_id", "class_name", "confidence", "top_k"]
    assert (answer["class_id"], answer["class_name"]) == (1, "bee")
    assert answer["confidence"] == pytest.approx(0.7)
    assert [best["class_name"] for best in answer["top_k"]] == ["bee", "ant"]


# --- from Python


def test_python_accepts_an_image_in_many_forms(tmp_path, encode):
    data = encode(RAMP)
    path = tmp_path / "ramp.png"
    path.write_bytes(data)
    request = ImageRequest(image=data)
    forms = [
        request,
        {"image": data, "top_k": 1},
        data,
        bytearray(data),
        memoryview(data),
        path,
        Image.fromarray(RAMP),
        RAMP,
        RAMP[..., None],
        np.repeat(RAMP[..., None], 3, axis=2),
        np.dstack([RAMP, RAMP, RAMP, np.full_like(RAMP, 255)]),
        np.asfortranarray(RAMP),
    ]
    task = make()
    assert all(run(task, form)[0].tolist() == RAMP.ravel().tolist() for form in forms)


@pytest.mark.parametrize(
    "value",
    [
        "/etc/passwd",
        Path("/no/such/picture.png"),
        Path("/"),
        None,
        7,
        RAMP.astype(float),
        RAMP[0],
        np.zeros((2, 2, 5), dtype=np.uint8),
        np.zeros((0, 4), dtype=np.uint8),
        {"image": "/etc/passwd"},
        {"picture": b"x"},
    ],
)
def test_invalid_images_are_refused(value):
    assert refusal(make().coerce, value).errors


def test_text_never_names_a_file(tmp_path, encode):
    path = tmp_path / "ramp.png"
    path.write_bytes(encode(RAMP))
    refusal(make().coerce, str(path))
    refusal(make().coerce, {"image": str(path)})


def test_a_large_image_from_python_has_the_same_limit():
    task = make(GREY | {"max_pixels": 100})
    for value in (np.zeros((11, 10), dtype=np.uint8), Image.new("RGB", (11, 10))):
        assert "110" in str(refusal(run, task, value)) or "11" in str(refusal(run, task, value))


# --- at load


@pytest.mark.parametrize(
    ("config", "shape", "dtype", "message"),
    [
        ({"mode": "L"}, (-1, 16), "FP32", "resize"),
        ({"resize": []}, (-1, 16), "FP32", "resize"),
        ({"resize": [[4, 4, "best"]]}, (-1, 48), "FP32", "resize"),
        ({"resize": [[0, 4, "box"]]}, (-1, 48), "FP32", "resize"),
        (GREY, (-1, 17), "FP32", "1×4×4 = 16 numbers"),
        ({"resize": [[4, 4, "box"]]}, (-1, 16), "FP32", "3×4×4 = 48 numbers"),
        (GREY, (-1, 16), "INT64", "INT64"),
        (GREY | {"preprocess": {"kind": "scale"}}, (-1, 16), "UINT8", "UINT8"),
        (GREY | {"labels": ["a"]}, (-1, 16), "FP32", "labels holds 1"),
        (GREY | {"max_pixels": 0}, (-1, 16), "FP32", "max_pixels"),
        (GREY | {"embolden": 0.2}, (-1, 16), "FP32", "crop: content"),
        ({"contrast": "paper", "resize": [[4, 4, "box"]]}, (-1, 48), "FP32", "grey"),
        (GREY | {"mod": "L"}, (-1, 16), "FP32", "mod"),
    ],
)
def test_mismatched_settings_are_refused_at_load(config, shape, dtype, message):
    with pytest.raises(ModelLoadError, match=message) as caught:
        make(config, shape, dtype)
    assert "\n" not in str(caught.value)


def test_a_model_with_two_inputs_is_refused_at_load():
    specs = tuple(TensorSpec(name, "FP32", (-1, 16)) for name in "ab")
    with pytest.raises(ModelLoadError, match="one input"):
        ImageClassification(GREY, Signature(specs, (TensorSpec("y", "FP32", (-1, 3)),)))
