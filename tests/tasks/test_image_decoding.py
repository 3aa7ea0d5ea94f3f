from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from penstock.errors import InvalidInput
from penstock.tasks.image_decoding import read_picture

PHOTO = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)


def file_of(format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, format, **options)
    return buffer.getvalue()


FILES = {name: file_of(name) for name in ("PNG", "JPEG", "WEBP", "BMP", "GIF")}


def refusal(data: bytes, **options: int) -> str:
    with pytest.raises(InvalidInput) as caught:
        read_picture(data, **options)
    assert [error.field for error in caught.value.errors] == ["image"]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def attempt(call, *arguments):
    """The result of the call, or the InvalidInput that it raises."""
    try:
        return call(*arguments)
    except InvalidInput as error:
        return error


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header may give another size than its data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", FILES)
def test_every_accepted_format_is_read(format):
    picture = read_picture(FILES[format])
    assert (picture.size, picture.mode) == ((30, 40), "RGB")


@pytest.mark.parametrize("format", ["TIFF", "ICO", "PPM", "TGA"])
def test_other_formats_of_pillow_are_refused(format):
    assert "PNG, JPEG, WebP, BMP or GIF" in refusal(file_of(format))


@pytest.mark.parametrize("data", [b"hello, world\n" * 100, b"%PDF-1.7", b"{}", b"<svg/>", bytes(64)])
def test_invalid_images_are_refused(data):
    assert "not an image" in refusal(data)


def test_an_empty_file_is_refused():
    assert "empty" in refusal(b"")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_truncated_file_is_refused(format):
    data = FILES[format]
    refusal(data[: len(data) // 2])


@pytest.mark.parametrize("format", FILES)
def test_a_file_truncated_anywhere_is_refused_or_decoded_equally(format):
    data = FILES[format]
    for end in range(0, len(data), max(1, len(data) // 150)):
        result = attempt(read_picture, data[:end])
        assert getattr(result, "size", None) == (30, 40) or result.errors[0].field == "image"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_a_file_with_changed_bytes_is_refused_or_read(format, data):
    damaged = bytearray(FILES[format])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, min(len(damaged) - 1, 400)))] = data.draw(st.integers(0, 255))
    result = attempt(read_picture, bytes(damaged), 10_000)
    assert getattr(result, "mode", None) in ("L", "RGB") or result.errors[0].field == "image"


@given(st.sampled_from([data[:16] for data in FILES.values()]) | st.just(b""), st.binary(max_size=300))
def test_a_valid_header_with_invalid_content_is_refused(beginning, rubbish):
    refusal(beginning + rubbish)


@pytest.mark.parametrize("size", [(5001, 5000), (10_000, 10_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("filter", ["error", "ignore"])
def test_an_image_with_too_many_pixels_is_refused_by_its_header(size, filter):
    with warnings.catch_warnings():
        warnings.simplefilter(filter)  # Pillow also warns of decompression bombs; the refusal must not depend on it
        refusal(png(*size))


def test_the_limit_is_exact_and_can_be_set():
    assert "1,199" in refusal(FILES["PNG"], max_pixels=1199)
    assert read_picture(FILES["PNG"], max_pixels=1200).size == (30, 40)


def test_a_decompression_bomb_is_refused_without_decompression():
    bomb = png(60_000, 60_000, bytes(60_001) * 200)
    code = (
        "import resource, sys\n"
        "from penstock.errors import InvalidInput\n"
        "from penstock.tasks.image_decoding import read_picture\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_picture(sys.stdin.buffer.read())\n"
        "except InvalidInput: sys.exit(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > 20_000)\n"
        "sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code], input=bomb, check=False).returncode == 0


def test_compressed_text_that_expands_a_lot_is_refused():
    body = zlib.compress(bytes(200_000_000), 9)
    chunk = b"zTXt" + b"k\0\0" + body
    data = png(2, 2, b"\0\0\0" * 2)
    start = 8 + 25
    bomb = (
        data[:start] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[start:]
    )
    refusal(bomb)


@pytest.mark.parametrize(
    ("orientation", "stored_as"),
    [
        (1, None),
        (2, "FLIP_LEFT_RIGHT"),
        (3, "ROTATE_180"),
        (4, "FLIP_TOP_BOTTOM"),
        (5, "TRANSPOSE"),
        (6, "ROTATE_90"),
        (7, "TRANSVERSE"),
        (8, "ROTATE_270"),
    ],
)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_image_is_rotated_by_its_exif_orientation(orientation, stored_as, format, encode):
    pixels = np.zeros((48, 32), dtype=np.uint8)
    pixels[:16, :16] = 255
    upright = Image.fromarray(pixels)
    stored = upright.transpose(Image.Transpose[stored_as]) if stored_as else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read_picture(encode(stored.convert("RGB"), format, exif=exif, quality=100))
    assert np.abs(np.asarray(picture.convert("L"), dtype=int) - pixels).max() < 16


def test_a_broken_exif_block_is_ignored(encode):
    data = encode(PHOTO, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_picture(data).size == (30, 40)


def test_transparency_becomes_white(encode):
    layer = np.zeros((4, 4, 4), dtype=np.uint8)
    layer[0, 0, 3] = 255
    layer[0, 1, 3] = 128
    picture = np.asarray(read_picture(encode(layer)).convert("L"))
    assert picture[0].tolist() == [0, 127, 255, 255]


def test_transparent_grey_and_palette_become_white_too(encode):
    grey = Image.fromarray(np.zeros((4, 4), dtype=np.uint8))
    see_through = Image.merge("LA", (grey, grey))
    assert np.asarray(read_picture(encode(see_through))).min() == 255
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert np.asarray(read_picture(encode(palette, "PNG"))).max() == 60
    assert np.asarray(read_picture(encode(palette, "PNG", transparency=1))).min() == 255
    assert np.asarray(read_picture(encode(grey, "PNG", transparency=0))).min() == 255


def test_sixteen_bits_are_reduced_to_eight(encode):
    deep = np.array([[0, 257, 65535], [32896, 255, 128]], dtype=np.uint16)
    picture = read_picture(encode(deep))
    assert picture.mode == "L"
    assert np.asarray(picture).tolist() == [[0, 1, 255], [128, 0, 0]]


@pytest.mark.parametrize(
    ("mode", "format"), [("1", "PNG"), ("P", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("LA", "PNG")]
)
def test_every_mode_becomes_grey_or_colour(mode, format, encode):
    picture = Image.fromarray(PHOTO).convert(mode)
    assert read_picture(encode(picture, format)).mode in ("L", "RGB")


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_used(format, encode):
    frames = [Image.new("RGB", (8, 8), color) for color in ("white", "black", "black")]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], duration=50)
    assert np.asarray(read_picture(data).convert("L")).min() > 250


def test_unknown_data_does_not_load_all_decoders_of_pillow():
    code = (
        "import sys; from penstock.tasks.image_decoding import read_picture\n"
        "try: read_picture(b'no picture at all')\n"
        "except Exception: pass\n"
        "sys.exit('PIL.TiffImagePlugin' in sys.modules or 'PIL.PdfImagePlugin' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
