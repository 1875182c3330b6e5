"""The reader of image files: formats, sizes and modes, against files that are written from arrays without Pillow."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from image_files import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGB_ALPHA,
    exif_block,
    grey_tiff,
    png,
    png_without_pixels,
    turned,
)
from PIL import Image

from pipeline.errors import ImageFileError
from pipeline.images import (
    MASK,
    PHOTOGRAPH,
    PixelLimit,
    decode_image,
    header_of,
    load_mask,
    load_photograph,
    png_text,
    read_header,
    read_image,
)

LIMIT = PixelLimit(1000)
PATH = "photo.png"
SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6))
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGB_ALPHA: (8, 16)}


def saved(pixels: np.ndarray, kind: str, mode: str | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, kind, **options)
    return buffer.getvalue()


def upper_bits(samples: np.ndarray, bits: int) -> np.ndarray:
    """What PNG defines for few bits: the largest value is white. And ours for 16: the upper 8."""
    return samples >> 8 if bits == 16 else samples * (255 // (2**bits - 1))


@settings(max_examples=50)
@given(st.data())
def test_every_kind_of_png_is_read_by_the_rules(data):
    colour = data.draw(st.sampled_from(sorted(CHANNELS)))
    bits = data.draw(st.sampled_from(DEPTHS[colour]))
    orientation = data.draw(st.integers(1, 8))
    size = data.draw(SIZES)
    samples = data.draw(arrays(np.uint16, (*size, CHANNELS[colour]), elements=st.integers(0, 2**bits - 1)))
    palette = data.draw(arrays(np.uint8, (2**bits, 3))) if colour == PALETTE else None
    content = png(samples, colour, bits, palette=palette, orientation=orientation, exif_first=data.draw(st.booleans()))
    if palette is not None:
        stored = palette[samples[:, :, 0]]
    elif colour in (RGB, RGB_ALPHA):
        stored = upper_bits(samples[:, :, :3], bits)
    else:
        stored = upper_bits(samples[:, :, :1], bits).repeat(3, axis=2)
    expected = turned(stored, orientation)
    header, pixels = load_photograph(content, PATH, LIMIT)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected)
    assert header == header_of(content, PATH, PHOTOGRAPH)
    assert (header.size, header.orientation) == (expected.shape[:2], orientation)
    assert header.is_deep == (bits == 16)


@settings(max_examples=50)
@given(
    st.sampled_from(["PNG", "TIFF", "WEBP", "BMP"]),
    st.sampled_from(["L", "RGB", "RGBA"]),
    st.integers(1, 8),
    arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(4))),
)
def test_every_lossless_format_gives_the_pixels_that_were_saved(kind, mode, orientation, array):
    pixels = array[:, :, 0] if mode == "L" else array[:, :, : len(mode)]
    options = {"WEBP": {"lossless": True, "exact": True}, "TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
    has_exif = kind != "BMP"
    exif = Image.Exif()
    exif[274] = orientation
    content = saved(pixels, kind, **options, **({"exif": exif} if has_exif else {}))
    colours = np.repeat(pixels[:, :, None], 3, axis=2) if mode == "L" else pixels[:, :, :3]
    expected = turned(colours, orientation) if has_exif else colours
    assert np.array_equal(decode_image(content, PATH, LIMIT), expected)
    assert header_of(content, PATH, PHOTOGRAPH).size == expected.shape[:2]


@settings(max_examples=50)
@given(arrays(np.uint16, SIZES), st.sampled_from([8, 16]), st.sampled_from("<>"), st.booleans())
def test_a_grey_tiff_of_either_byte_order_and_polarity_is_read_by_its_upper_bits(samples, bits, order, white_is_zero):
    samples = samples >> (16 - bits)
    grey = (samples >> (bits - 8)).astype(np.uint8)
    expected = 255 - grey if white_is_zero else grey
    content = grey_tiff(samples, bits, order=order, white_is_zero=white_is_zero)
    if (bits, order, white_is_zero) == (16, ">", True):  # Pillow has no reader for it
        with pytest.raises(ImageFileError, match="unknown pixel mode"):
            decode_image(content, PATH, LIMIT)
    else:
        assert np.array_equal(decode_image(content, PATH, LIMIT), expected[:, :, None].repeat(3, axis=2))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits"])
def test_sixteen_bits_of_grey_are_scaled_and_never_clipped(compression):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = decode_image(saved(ramp, "TIFF", compression=compression), PATH, LIMIT)
    assert np.array_equal(pixels[:, :, 0], ramp // 256)
    assert len(np.unique(pixels)) == 64


@settings(max_examples=50)
@given(arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(4))))
def test_cmyk_is_converted_by_the_plain_formula(inks):
    pixels = decode_image(saved(inks, "TIFF", "CMYK"), PATH, LIMIT)
    paper = 255.0 - inks.astype(float)
    assert np.abs(pixels - paper[:, :, :3] * paper[:, :, 3:] / 255).max() <= 1


def test_a_rotated_jpeg_is_read_upright():
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, 16:] = 255
    exif = Image.Exif()
    exif[274] = 6
    pixels = decode_image(saved(stored, "JPEG", exif=exif, quality=95), PATH, LIMIT)
    assert pixels.shape == (32, 16, 3)
    assert (pixels[:16].max(), pixels[16:].min()) == (0, 255), "the right half of the stored image is below"


def test_damaged_exif_is_no_reason_to_refuse_an_image():
    content = saved(np.full((2, 3), 9, np.uint8), "JPEG", exif=b"Exif\0\0" + exif_block(6)[:4] + b"\xff" * 22)
    assert decode_image(content, PATH, LIMIT).shape == (2, 3, 3)


@settings(max_examples=50)
@given(st.data())
def test_a_damaged_png_is_refused_or_read_right(data):
    pixels = data.draw(arrays(np.uint8, (5, 6, 3)))
    content = bytearray(png(pixels, RGB))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        position, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
        content[position] ^= 1 << bit
    try:
        read = decode_image(bytes(content), PATH, LIMIT)
    except ImageFileError as error:
        assert_is_one_line(error)
    else:
        assert np.array_equal(read, pixels)


KINDS = {
    "JPEG": {"exif": exif_block(8)},
    "PNG": {"exif": exif_block(5)},
    "TIFF": {"compression": "tiff_deflate"},
    "WEBP": {"lossless": True},
    "BMP": {},
    "GIF": {},
}
WHOLE = {
    kind: saved(np.arange(360, dtype=np.uint16).reshape(10, 12, 3).astype(np.uint8), kind, **options)
    for kind, options in KINDS.items()
}


@given(st.data())
def test_nothing_but_our_error_comes_out_of_damaged_files(data):
    content = bytearray(WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))])
    for _ in range(data.draw(st.integers(0, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position : position + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    content = bytes(content[: data.draw(st.integers(1, len(content)))])
    for load in (load_photograph, load_mask):
        try:
            read = load(content, PATH, LIMIT)
        except ImageFileError as error:
            assert_is_one_line(error)
        else:
            assert read.header.size[0] * read.header.size[1] <= LIMIT.pixels
            shape = read.pixels.shape[:2] if load is load_photograph else read.picture.size[::-1]
            assert shape == read.header.size


@given(
    st.binary(max_size=64), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"BM", b"GIF89a"])
)
def test_random_bytes_are_refused_in_one_line(content, start):
    with pytest.raises(ImageFileError) as error:
        decode_image(start + content, PATH, LIMIT)
    assert_is_one_line(error.value)


def assert_is_one_line(error: ImageFileError) -> None:
    text = str(error)
    assert text.startswith(f"{PATH} ")
    assert "; " in text
    assert "\n" not in text
    assert "<_io" not in text


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is an empty file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "has the format EPS"),
        (b"%PDF-1.7", "has the format PDF"),
        (b"GIF89a", "has the format GIF"),
        (b"\0\0\0\x18ftypheic", "has the format HEIC or AVIF"),
        (b"<!DOCTYPE html>", "has the format HTML, SVG or XML"),
        (b"hello", "is no image of a known format"),
    ],
)
def test_other_formats_are_named_whatever_the_name_of_the_file(content, found):
    with pytest.raises(ImageFileError, match=rf"^{PATH} {found}, expected JPEG, PNG, TIFF, WebP or BMP; .* remove it$"):
        decode_image(content, PATH, LIMIT)


def test_a_pointer_of_git_lfs_names_the_command():
    with pytest.raises(ImageFileError, match=r"is a Git LFS pointer in place of the file; run git lfs pull$"):
        decode_image(b"version https://git-lfs.github.com/spec/v1\n", PATH, LIMIT)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_masks_are_refused_with_the_cause(kind):
    with pytest.raises(ImageFileError, match="compression may change class values, expected PNG, TIFF, BMP or GIF"):
        load_mask(WHOLE[kind], PATH, LIMIT)


def test_an_image_above_the_limit_is_refused_before_it_is_decoded():
    content = png_without_pixels(60_000, 50_000)
    with pytest.raises(
        ImageFileError, match=r"has 60000 x 50000 pixels, more than 10; .* set data.max_pixels: 3000000000"
    ):
        decode_image(content, PATH, PixelLimit(10))
    with pytest.raises(ImageFileError, match=r"add --max-pixels 3000000000$"):
        load_mask(content, PATH, PixelLimit(10, "add --max-pixels {}"))
    with pytest.raises(ImageFileError, match="cannot be read"):
        decode_image(png_without_pixels(2, 5), PATH, PixelLimit(10))
    assert header_of(content, PATH, MASK).size == (60_000, 50_000)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF"])
def test_files_with_several_pictures_are_refused(kind):
    first, second = (Image.new("L", (3, 2), value) for value in (0, 255))
    buffer = io.BytesIO()
    first.save(buffer, kind, save_all=True, append_images=[second])
    load = load_mask if kind == "GIF" else load_photograph
    with pytest.raises(ImageFileError, match="contains 2 pictures, expected one; save each in a file of its own"):
        load(buffer.getvalue(), PATH, LIMIT)


def test_the_smaller_copies_in_a_tiff_are_no_pictures_of_their_own():
    whole, copy = Image.effect_noise((6, 4), 80), Image.new("L", (3, 2))
    copy.encoderinfo = {"tiffinfo": {254: 1}}
    buffer = io.BytesIO()
    whole.save(buffer, "TIFF", save_all=True, append_images=[copy])
    assert np.array_equal(decode_image(buffer.getvalue(), PATH, LIMIT)[:, :, 0], np.asarray(whole))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(dtype):
    with pytest.raises(ImageFileError, match=r"pixels of mode [IF], whose white and black are unknown; save it again"):
        decode_image(saved(np.ones((2, 3), dtype), "TIFF"), PATH, LIMIT)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "gone.png", tmp_path):
        for read, argument in ((read_image, LIMIT), (read_header, PHOTOGRAPH)):
            with pytest.raises(ImageFileError, match=rf"^{path} cannot be read \(.+\); restore or remove it$"):
                read(path, argument)
        assert png_text(path, "key") is None


def test_a_tiff_above_the_limit_of_pillow_is_decoded_up_to_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # for a small file; it is an error above twice that
    content = saved(np.full((20, 30), 7, np.uint8), "TIFF", compression="tiff_deflate")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (decode_image(content, tmp_path / "a.tif", LIMIT) == 7).all()
    with pytest.raises(ImageFileError, match=r"has 20 x 30 pixels, more than 599;"):
        decode_image(content, tmp_path / "a.tif", PixelLimit(599))
