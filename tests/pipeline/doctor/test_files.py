"""Damaged and unsuitable files: each fault is written, and found with its fix."""

import shutil

import pytest
from PIL import ExifTags, Image

SIZE = (32, 24)  # width and height, as Pillow has them


def test_an_unreadable_image_and_a_truncated_mask_are_named(data, labeled, findings):
    (data / labeled[0].image).write_bytes(b"hello")
    mask = data / labeled[1].mask
    mask.write_bytes(mask.read_bytes()[:60])
    found = [finding for finding in findings() if finding.level == "error"]
    assert [finding.what.partition(" ")[0] for finding in found] == [str(data / labeled[0].image), str(mask)]
    assert [finding.fix for finding in found] == ["replace or remove it"] * 2


def test_a_mask_of_another_size_is_named_with_both_sizes(data, labeled, only):
    Image.new("L", (5, 4)).save(data / labeled[0].mask)
    finding = only("its image is")
    assert finding.level == "error"
    assert finding.what == f"{labeled[0].mask} is 4 x 5 (height x width), its image is 24 x 32"
    assert "by nearest neighbour" in finding.fix


@pytest.mark.parametrize(("mode", "level", "text"), [("RGBA", "note", "transparency"), ("CMYK", "warning", "CMYK")])
def test_modes_that_lose_information_are_found(data, labeled, only, mode, level, text):
    suffix = ".tif"  # has every mode
    path = (data / labeled[0].image).with_suffix(suffix)
    (data / labeled[0].image).unlink()
    Image.effect_noise(SIZE, 80).convert("RGB").convert(mode).save(path)
    finding = only(text)
    assert (finding.level, finding.where) == (level, (f"images/{path.name}",))


@pytest.fixture
def turned(data, labeled):
    """A labeled image that is stored rotated, with an EXIF orientation."""
    image, path = Image.effect_noise(SIZE, 80).convert("RGB"), data / labeled[0].image
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path.unlink()
    image.save(path.with_suffix(".jpg"), exif=exif)
    return path.with_suffix(".jpg")


def test_a_mask_of_the_upright_image_is_right(data, turned, labeled, findings):
    Image.new("L", SIZE[::-1]).save(data / labeled[0].mask)
    assert not [finding for finding in findings() if finding.level != "note" and "EXIF" in str(finding)]


def test_a_mask_of_the_stored_image_is_distinguished_from_one_of_another_size(turned, labeled, only):
    finding = only("it fits the image as it is stored")
    assert finding.level == "error"
    assert finding.what.startswith(f"{labeled[0].mask} is 24 x 32 (height x width), its image is 32 x 24: ")


def test_a_rotated_mask_of_an_upright_image_has_another_size(data, labeled, only):
    Image.new("L", SIZE[::-1]).save(data / labeled[0].mask)
    assert "is 32 x 24 (height x width), its image is 24 x 32" in only(labeled[0].mask).what


def test_unused_masks_are_a_warning(data, labeled, only):
    shutil.copy(data / labeled[0].mask, data / "masks/nobody.png")
    finding = only("1 mask without an image of the same stem")
    assert (finding.level, finding.where) == ("warning", ("masks/nobody.png",))
    assert "data.mask_ending" in finding.fix


def test_masks_saved_as_jpeg_are_an_error(data, only):
    (data / "masks/im00.png").unlink()
    Image.new("L", SIZE).save(data / "masks/im00.jpg")
    finding = only("masks/im00.jpg cannot be read as masks")
    assert (finding.level, finding.fix.startswith("export the masks again")) == ("error", True)


def test_problems_of_the_sources_are_findings(data, only):
    shutil.rmtree(data / "images")
    finding = only("no image folder")
    assert (finding.level, finding.fix) == ("error", "set data.root or data.images")
