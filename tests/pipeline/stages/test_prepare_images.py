"""Images that need care: prepare reads them right, refuses them, or logs what it leaves out."""

import logging
import shutil

import numpy as np
import pytest
from image_files import GREY, exif_block, png, png_without_pixels, turned
from PIL import Image

from pipeline.datasets import load_samples
from pipeline.doctor import examine
from pipeline.errors import DatasetError
from pipeline.init.folders import find_files
from pipeline.stages.prepare import prepare

IDS = [f"im{i:02d}" for i in range(12)]


@pytest.fixture
def data(tmp_path, write_images):
    write_images(tmp_path / "data", IDS)
    return tmp_path / "data"


@pytest.fixture
def prepared(make_settings, caplog):
    """Prepare the run; returns its samples by id, and the warnings."""

    def run(**overrides):
        settings = make_settings(**overrides)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            prepare(settings)
        index = load_samples(settings.folder / "samples.json")
        return index, {sample.id: sample for sample in index.samples}, [record.message for record in caplog.records]

    return run


def refused(settings) -> str:
    """The error of prepare, which doctor finds too."""
    with pytest.raises(DatasetError) as error:
        prepare(settings)
    problems = str(error.value).splitlines()[1:]
    found = [str(finding) for finding in examine(settings) if finding.level == "error"]
    for problem in problems:
        cause = problem.strip().removeprefix(f"{settings.data.root}/").partition("; ")[0]
        assert any(cause in finding for finding in found), (cause, found)
    return str(error.value)


def test_sixteen_bit_photographs_are_scaled(data, prepared):
    rng = np.random.default_rng(0)
    grey = {name: rng.integers(0, 40_000, (24, 32, 1)).astype(np.uint16) for name in IDS}
    for name, pixels in grey.items():
        (data / f"images/{name}.png").write_bytes(png(pixels, GREY, 16))
    index, samples, warnings = prepared()
    assert warnings == []
    for name, pixels in grey.items():
        assert np.array_equal(index.image(samples[name]), pixels.repeat(3, axis=2) // 256)


def test_twelve_bits_in_sixteen_are_refused_until_they_are_multiplied(data, make_settings, prepared):
    bits = np.random.default_rng(0).integers(0, 4096, (24, 32, 1)).astype(np.uint16)
    for name in IDS:
        (data / f"images/{name}.png").write_bytes(png(bits, GREY, 16))
    message = refused(make_settings())
    assert "12 images with 16 bits per channel have no value above 4095 of 65535" in message
    assert message.endswith("mogrify -evaluate multiply 16 FILES")
    for name in IDS:
        (data / f"images/{name}.png").write_bytes(png(bits * 16, GREY, 16))
    index, samples, _ = prepared()
    assert np.array_equal(index.image(samples[IDS[0]])[:, :, 0], bits[:, :, 0] >> 4)


def test_an_image_above_the_limit_is_a_listed_problem_and_the_setting_admits_it(data, make_settings, prepared):
    path = data / f"images/{IDS[0]}.png"
    whole = path.read_bytes()
    path.write_bytes(png_without_pixels(60_000, 50_000))
    assert f"{path} has 60000 x 50000 pixels, more than 200000000; " in refused(make_settings())
    path.write_bytes(whole)
    message = refused(make_settings(max_pixels=700))
    assert message.splitlines()[0] == f"12 problems with the data set in {data}:"
    (fix,) = {line.rpartition("set data.max_pixels: ")[2] for line in message.splitlines()[1:]}
    assert prepared(max_pixels=int(fix))[2] == []


def test_a_mask_of_another_size_is_refused_before_it_is_decoded(data, make_settings, prepared):
    _, samples, _ = prepared()
    labeled = next(sample for sample in samples.values() if sample.split == "labeled")
    (data / labeled.mask).write_bytes(png_without_pixels(20_000, 10_000))
    with pytest.raises(DatasetError, match=r"is 20000 x 10000 \(height x width\), its image is 24 x 32; resize"):
        prepare(make_settings())


def test_the_hidden_files_of_a_mac_are_left_out(data, make_settings, prepared):
    _, expected, _ = prepared()
    for folder in ("images", "masks"):
        for name in (*(f"._{name}.png" for name in IDS[:3]), ".DS_Store", "Thumbs.db"):
            (data / folder / name).write_bytes(b"\0\5\x16\7")
    _, samples, warnings = prepared()
    assert samples == expected
    assert warnings == []
    assert sorted(find_files(data / "images", data / "masks").images) == IDS


@pytest.fixture
def batch(data):
    """Move six images into a sub-folder."""
    (data / "images/batch2").mkdir()
    for name in IDS[6:]:
        shutil.move(data / f"images/{name}.png", data / f"images/batch2/{name}.png")
    return data / "images/batch2"


def test_images_in_sub_folders_are_warned_of_and_read_if_the_settings_say_so(batch, data, make_settings, prepared):
    few = {"num_labeled": 2, "data.splits.num_val": 1}
    _, samples, warnings = prepared(**few)
    (warning,) = [warning for warning in warnings if "sub-folders" in warning]
    expected = f"prepare: 6 images in sub-folders of {data / 'images'} are not read: batch2 (6); to read them, set "
    assert warning == f"{expected}data.subfolders: true"
    assert sorted(samples) == IDS[:6]
    assert any("sub-folders" in str(f) for f in examine(make_settings(**few)) if f.level == "warning")
    _, samples, warnings = prepared(**few, subfolders=True)
    assert warnings == []
    assert sorted(samples) == IDS
    assert samples[IDS[6]].image == f"images/batch2/{IDS[6]}.png"


def test_masks_of_images_in_sub_folders_are_beside_the_others_or_in_the_same_sub_folder(batch, data, prepared):
    (data / "masks/batch2").mkdir()
    for name in IDS[9:]:
        shutil.move(data / f"masks/{name}.png", data / f"masks/batch2/{name}.png")
    _, samples, _ = prepared(subfolders=True, num_labeled=9)
    masks = {name: sample.mask for name, sample in samples.items() if sample.mask is not None}
    assert len(masks) == 11
    assert masks == {name: f"masks/{'batch2/' if name in IDS[9:] else ''}{name}.png" for name in masks}


def test_folders_of_masks_below_the_images_are_no_images(tmp_path, data, prepared):
    shutil.move(data / "masks", data / "images/masks")
    (data / "images/corrected/run/masks").mkdir(parents=True)
    shutil.copy(data / f"images/masks/{IDS[0]}.png", data / "images/corrected/run/masks")
    _, samples, warnings = prepared(root=str(data / "images"), images=".", masks="masks", subfolders=True)
    assert (sorted(samples), warnings) == (IDS, [])
    assert all(sample.image == f"{name}.png" for name, sample in samples.items())


def test_pictures_of_other_formats_are_warned_of(data, prepared):
    for name in ("a.HEIC", "b.heic", "c.gif"):
        (data / "images" / name).touch()
    (warning,) = prepared()[2]
    assert "3 pictures in" in warning
    assert "of a format that is not read: a.HEIC, b.heic, c.gif; to read them, save them as PNG or JPEG" in warning


def store_turned(path, orientation):
    """Store an image so that its EXIF orientation turns it back to what it was; returns its pixels."""
    upright = np.asarray(Image.open(path))
    back = {6: 8, 8: 6}.get(orientation, orientation)  # the others are their own inverse
    Image.fromarray(turned(upright, back)).save(path, exif=exif_block(orientation))
    return upright


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_image_is_read_upright_and_its_mask_must_be_upright(data, make_settings, prepared, orientation):
    _, samples, _ = prepared()
    sample = next(sample for sample in samples.values() if sample.split == "labeled")
    upright = store_turned(data / sample.image, orientation)
    index, samples, warnings = prepared()
    assert np.array_equal(index.image(samples[sample.id]), upright)
    assert samples[sample.id].size == (24, 32)
    has_doubt = orientation < 5
    assert [f"stored turned or mirrored, {sample.image}" for w in warnings if sample.image in w] == (
        [f"stored turned or mirrored, {sample.image}"] if has_doubt else []
    )
    Image.fromarray(np.zeros((32, 24), np.uint8)).save(data / sample.mask)
    message = refused(make_settings())
    assert ("it fits the image as it is stored" in message) == (not has_doubt)


def test_val_images_that_are_also_training_images_are_warned_of(data, prepared):
    _, samples, _ = prepared()
    val = next(sample for sample in samples.values() if sample.split == "val")
    other = next(sample for sample in samples.values() if sample.split == "unlabeled")
    shutil.copy(data / other.image, data / val.image)
    (warning,) = prepared()[2]
    assert f"the student is evaluated on images that it was trained on: {other.id} = {val.id}; remove one" in warning


def test_masks_of_0_and_255_are_refused_while_255_is_ignored(data, make_settings):
    for name in IDS:
        mask = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (24, 32))
        Image.fromarray(mask).save(data / f"masks/{name}.png")
    assert "the masks contain 0 and 255 only, and 255 is ignored" in refused(make_settings())
