"""One look at every file: what is seen, and which files a quick look sees."""

import numpy as np
import pytest
from PIL import Image

from pipeline.doctor.survey import look_at_image, look_at_mask, survey
from pipeline.sources import find_samples

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_equal_pictures_have_equal_digests_whatever_their_format(tmp_path):
    for name in ("a.png", "b.bmp"):
        Image.fromarray(PIXELS).save(tmp_path / name)
    Image.fromarray(PIXELS[::-1]).save(tmp_path / "c.png")
    a, b, c = (look_at_image(tmp_path / name) for name in ("a.png", "b.bmp", "c.png"))
    assert a.digest == b.digest != c.digest
    assert (a.size, a.mode, a.orientation) == ((6, 8), "RGB", 1)


def test_the_same_bytes_in_another_shape_are_another_picture(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    Image.fromarray(PIXELS.reshape(8, 6, 3)).save(tmp_path / "b.png")
    assert look_at_image(tmp_path / "a.png").digest != look_at_image(tmp_path / "b.png").digest


def test_mask_values_are_counted_and_colours_too(tmp_path):
    Image.fromarray(np.array([[0, 0, 7], [255, 7, 7]], np.uint8)).save(tmp_path / "index.png")
    assert look_at_mask(tmp_path / "index.png").values == {0: 2, 7: 3, 255: 1}
    Image.fromarray(np.array([[[1, 2, 3], [3, 2, 1], [1, 2, 3]]], np.uint8)).save(tmp_path / "colour.png")
    look = look_at_mask(tmp_path / "colour.png")
    assert (look.num_colours, look.is_grey, look.values) == (2, False, {})


def test_masks_of_unlabeled_images_are_never_opened(data, make_settings):
    settings = make_settings()
    samples, _ = find_samples(settings.data)
    for sample in samples:
        if sample.split == "unlabeled":
            (data / f"masks/{sample.id}.png").write_bytes(b"no image")
    looked = survey(samples, settings.data)
    assert [look.problems for look in looked.looks] == [()] * 12
    assert sum(look.mask is not None for look in looked.looks) == 8
    assert looked.is_whole


@pytest.mark.parametrize(("quick", "seen"), [(5, 5), (100, 12)])
def test_quick_looks_at_so_many(data, make_settings, quick, seen):
    settings = make_settings()
    looked = survey(find_samples(settings.data)[0], settings.data, quick)
    assert (len(looked.looks), looked.num_samples, looked.is_whole) == (seen, 12, seen == 12)
