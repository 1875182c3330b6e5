"""Masks as programs save them, read against the values that made the file."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.datasets import decode_index_mask, mask_classes, unknown_mask_values
from pipeline.errors import DatasetError, ImageFileError
from pipeline.images import PixelLimit
from pipeline.settings import DataSettings

PATH, LIMIT = Path("masks/a.png"), PixelLimit(10**6)
SIZES = st.tuples(st.integers(1, 5), st.integers(1, 9))


def png(values, bits, colour_type, palette=None):
    """A PNG of samples with so many bits, most significant first, as the specification says."""
    height, width = values.shape
    shifts = np.arange(bits - 1, -1, -1)
    rows = np.packbits((values[..., None] >> shifts & 1).reshape(height, -1).astype(np.uint8), axis=1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))]
    chunks += [(b"PLTE", bytes(palette))] if palette else []
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]
    sums = (zlib.crc32(name + data) for name, data in chunks)
    parts = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", s) for (n, d), s in zip(chunks, sums, strict=True))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(values, order, sample_format, photometric=1, compression=1):
    """An uncompressed TIFF with one strip. order: < or >; sample_format: 1 unsigned, 2 signed, 3 float"""
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    height, width = values.shape
    short = {258: values.dtype.itemsize * 8, 259: compression, 262: photometric, 277: 1, 339: sample_format}
    tags = short | {256: width, 257: height, 273: 8, 278: height, 279: len(data)}
    offset = 8 + len(data) + len(data) % 2
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, offset)
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 3 if tag in short else 4, 1)
        + (struct.pack(f"{order}HH", tags[tag], 0) if tag in short else struct.pack(f"{order}I", tags[tag]))
        for tag in sorted(tags)
    )
    count = struct.pack(f"{order}H", len(tags))
    return head + data + b"\0" * (len(data) % 2) + count + entries + struct.pack(f"{order}I", 0)


def saved(picture, **options):
    file = io.BytesIO()
    picture.save(file, **options)
    return file.getvalue()


def values_of(content):
    return decode_index_mask(content, PATH, LIMIT).values


def drawn(data, low, high):
    shape = data.draw(SIZES)
    numbers = data.draw(st.lists(st.integers(low, high), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return np.array(numbers).reshape(shape)


@given(st.data(), st.sampled_from([(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (1, 3), (2, 3), (4, 3), (8, 3)]))
@settings(max_examples=60, deadline=None)
def test_png_of_any_depth_is_read_as_it_is_stored(data, kind):
    bits, colour_type = kind
    values = drawn(data, 0, 2**bits - 1)
    palette = [7] * (3 * 2**bits) if colour_type == 3 else None
    mask = decode_index_mask(png(values, bits, colour_type, palette), PATH, LIMIT)
    assert mask.values.tolist() == values.tolist()
    assert (mask.palette is None) == (palette is None)
    assert mask.values.max() <= mask.highest


@given(st.data(), st.sampled_from(["u1", "i1", "u2", "i2", "i4"]), st.sampled_from("<>"))
@settings(max_examples=60, deadline=None)
def test_tiff_of_any_integer_type_and_byte_order_is_read_as_it_is_stored(data, dtype, order):
    info = np.iinfo(dtype)
    values = drawn(data, int(info.min), int(info.max))
    content = tiff(values.astype(dtype), order, 2 if dtype[0] == "i" else 1)
    assert values_of(content).tolist() == values.tolist()


@given(st.data(), st.sampled_from(["PNG", "BMP", "TIFF"]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_pillow_writes_is_read_as_it_was_given(data, format_name, has_palette):
    values = drawn(data, 0, 255).astype(np.uint8)
    picture = Image.fromarray(values)
    if has_palette:
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    assert values_of(saved(picture, format=format_name)).tolist() == values.tolist()


@given(st.data(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_gif_is_read_as_it_was_given_or_refused_because_pillow_renumbers_its_values(data, has_palette):
    values = drawn(data, 0, data.draw(st.sampled_from([1, 3, 255]))).astype(np.uint8)
    picture = Image.fromarray(values)
    if has_palette:
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    content = saved(picture, format="GIF")
    with Image.open(io.BytesIO(content)) as written:
        is_as_given = np.array_equal(np.asarray(written), values)
    try:
        assert values_of(content).tolist() == values.tolist()
    except ImageFileError:
        assert not is_as_given or len(np.unique(values)) == values.max() + 1


def test_a_gif_with_a_whole_palette_is_read():
    values = np.resize(np.array([0, 1, 2], np.uint8), (512, 512))  # Pillow renumbers smaller ones
    picture = Image.fromarray(values)
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    assert values_of(saved(picture, format="GIF")).tolist() == values.tolist()


WHOLE = saved(Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10)), format="TIFF", compression="tiff_lzw")


@pytest.mark.filterwarnings("ignore")
@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=4), st.integers(0, 4))
@settings(max_examples=80, deadline=None)
def test_a_damaged_file_is_refused_in_one_line_or_has_a_shape(start, inserted, removed):
    try:
        values = values_of(WHOLE[:start] + inserted + WHOLE[start + removed :])
    except DatasetError as error:
        message = str(error)
    else:
        message = "; "
        assert (values.dtype, values.ndim) == (np.int32, 2)
    assert "\n" not in message
    assert "; " in message


NOISE = np.random.default_rng(0).integers(0, 9, (6, 8, 4), dtype=np.uint8)
GREY = Image.fromarray(NOISE[..., 0])


@pytest.mark.parametrize(
    ("content", "error", "reason"),
    [
        (saved(GREY, format="JPEG"), ImageFileError, "is a JPEG file, whose compression may change class values"),
        (saved(GREY, format="WEBP"), ImageFileError, "is a WebP file, whose compression may change class values"),
        (saved(GREY, format="TIFF", compression="jpeg"), ImageFileError, "compressed with jpeg, which changes class"),
        (saved(Image.fromarray(NOISE[..., :2], "LA"), format="PNG"), ImageFileError,
         r"alpha channel \(mode LA\), .*; save it without transparency"),
        (saved(Image.fromarray(NOISE[..., 0] / np.float32(2)), format="TIFF"), ImageFileError,
         r"floating-point values \(mode F\), .*; save it with integers"),
        (saved(Image.fromarray(NOISE), format="PNG"), DatasetError, r"has colours \(mode RGBA\), .*; convert"),
        (saved(Image.fromarray(NOISE[..., :3]), format="BMP"), DatasetError, r"has colours \(mode RGB\)"),
        (saved(GREY.convert("RGB"), format="PNG"), DatasetError,
         r"grey saved as colours \(mode RGB\), .*; save one channel of it as PNG"),
        (tiff(NOISE[..., 0], "<", 1, photometric=0), ImageFileError, r"0 is white .*; save it as PNG"),
    ],
)  # fmt: skip
def test_other_files_are_refused_with_their_own_cause(content, error, reason):
    with pytest.raises(error, match=f"masks/a.png .*{reason}"):
        values_of(content)


DATA = DataSettings(classes=["bg", {"name": "a", "values": [65535, 7]}, {"name": "b", "values": [300]}])


@given(st.lists(st.integers(-(2**31), 2**31 - 1) | st.sampled_from([-1, 0, 7, 300, 65535, 65536]), min_size=1))
def test_only_the_values_of_a_class_become_it(values):
    expected = {0: 0, 7: 1, 65535: 1, 300: 2}
    assert mask_classes(np.array(values, np.int32), DATA).tolist() == [expected.get(value, 255) for value in values]
    unknown = sorted({value for value in values if value >= 0} - {*expected, 255})
    assert unknown_mask_values(np.array(values, np.int32), DATA) == unknown
