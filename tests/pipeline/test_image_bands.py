"""Rows of a TIFF without the others: the same pixels as in the whole, whatever the layout, depth and compression."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import blocked_tiff
from PIL import Image

from pipeline.errors import ImageFileError
from pipeline.images import MASK, PHOTOGRAPH, PixelLimit, band_of, decode_image, index_mask, load_mask

LIMIT = PixelLimit(10**6)


def rows_of(path, start, stop):
    band = band_of(path, PHOTOGRAPH, start, stop)
    return decode_image(band.content, path, LIMIT)[start - band.first : stop - band.first]


@settings(max_examples=50)
@given(st.data())
def test_rows_of_any_layout_are_those_of_the_array(tmp_path_factory, data):
    height, width = (data.draw(st.integers(1, 50)) for _ in range(2))
    num = data.draw(st.sampled_from([1, 3, 4]))
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = rng.integers(0, np.iinfo(dtype).max + 1, (height, width, num)).astype(dtype)
    block = tuple(16 * data.draw(st.integers(1, 3)) for _ in range(2))
    has_tiles = data.draw(st.booleans())
    options = {"order": data.draw(st.sampled_from("<>")), "is_planar": num == 3 and data.draw(st.booleans())}
    path = tmp_path_factory.getbasetemp() / "bands.tif"
    path.write_bytes(blocked_tiff(values, block, has_tiles=has_tiles, **options))
    start = data.draw(st.integers(0, height - 1))
    stop = data.draw(st.integers(start + 1, height))
    expected = (values >> 8 if dtype == np.uint16 else values).astype(np.uint8)[start:stop, :, :3]
    assert (rows_of(path, start, stop) == expected).all()
    band = band_of(path, PHOTOGRAPH, start, stop)
    assert band.first <= start < band.first + block[0]


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "jpeg", "tiff_ccitt", None])
def test_rows_of_files_of_pillow_are_those_of_the_whole(tmp_path, compression):
    across = np.add.outer(np.arange(60), 2 * np.arange(40)).astype(np.uint8)
    picture = Image.fromarray(np.stack([across, across.T[:40].repeat(2, 0)[:60, :40], 255 - across], axis=2))
    picture = picture.convert("1") if compression == "tiff_ccitt" else picture
    path = tmp_path / "picture.tif"
    layout = {"tiffinfo": {278: 16}} if compression is None else {"strip_size": 40 * 3 * 16}
    picture.save(path, compression="group4" if compression == "tiff_ccitt" else compression, **layout)
    whole = decode_image(path.read_bytes(), path, LIMIT)
    assert len(band_of(path, PHOTOGRAPH, 20, 21).content) < path.stat().st_size
    for start, stop in ((0, 60), (5, 20), (33, 34), (59, 60)):
        assert (rows_of(path, start, stop) == whole[start:stop]).all()


def test_rows_of_a_mask_keep_values_and_palette(tmp_path):
    values = np.arange(60, dtype=np.uint8).reshape(20, 3)
    picture = Image.fromarray(values)
    picture.putpalette(bytes(range(180)))
    path = tmp_path / "mask.tif"
    picture.save(path, compression="tiff_lzw", strip_size=12)
    band = band_of(path, MASK, 7, 12)
    mask = index_mask(load_mask(band.content, path, LIMIT), path)
    assert (mask.values[7 - band.first : 12 - band.first] == values[7:12]).all()
    assert mask.palette[21].tolist() == [63, 64, 65]


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "cut.tif"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(path, tiffinfo={278: 8})
    path.write_bytes(path.read_bytes()[:-9])
    assert rows_of(path, 0, 32).shape == (32, 40, 3)
    with pytest.raises(ImageFileError, match=r"cut\.tif cannot be read \(it is cut off\)"):
        band_of(path, PHOTOGRAPH, 30, 40)


def test_uncompressed_planes_of_16_bits_are_refused_because_pillow_mixes_them(tmp_path):
    content = blocked_tiff(np.zeros((4, 4, 3), np.uint16), (16, 16), is_planar=True, is_deflated=False)
    with pytest.raises(ImageFileError, match=r"16 bits with one plane after the other, .* INTERLEAVE=PIXEL"):
        decode_image(content, tmp_path / "planes.tif", LIMIT)


def test_the_first_three_of_more_bands_are_read_and_other_bands_refused_with_the_command_that_chooses(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (8, 9, 6), dtype=np.uint8)
    assert (decode_image(blocked_tiff(values, (16, 16)), tmp_path / "six.tif", LIMIT) == values[:, :, :3]).all()
    with pytest.raises(ImageFileError, match=r"bands that are not read, .* gdal_translate -b 1 -b 2 -b 3 \S+five"):
        decode_image(blocked_tiff(values[:, :, :5].astype(np.uint16), (16, 16)), tmp_path / "five.tif", LIMIT)
