"""Facts of every file, and the files that are read with --quick."""

import numpy as np
import pytest
from PIL import Image

from pipeline.doctor.survey import image_facts, mask_facts, survey
from pipeline.settings import DataSettings
from pipeline.sources import find_samples

DATA = DataSettings(classes=["a", "b"], max_pixels=100)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_equal_images_have_equal_digests_whatever_their_format(tmp_path):
    for name in ("a.png", "b.bmp"):
        Image.fromarray(PIXELS).save(tmp_path / name)
    Image.fromarray(PIXELS[::-1]).save(tmp_path / "c.png")
    a, b, c = (image_facts(tmp_path / name, DATA) for name in ("a.png", "b.bmp", "c.png"))
    assert a.digest == b.digest != c.digest
    assert (a.header.size, a.header.mode, a.header.orientation) == ((6, 8), "RGB", 1)


def test_the_same_bytes_in_another_shape_are_another_image(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    Image.fromarray(PIXELS.reshape(8, 6, 3)).save(tmp_path / "b.png")
    assert image_facts(tmp_path / "a.png", DATA).digest != image_facts(tmp_path / "b.png", DATA).digest


def test_mask_values_are_counted_and_colours_too(tmp_path):
    Image.fromarray(np.array([[0, 0, 7], [255, 7, 7]], np.uint8)).save(tmp_path / "index.png")
    assert mask_facts(tmp_path / "index.png", DATA).values == {0: 2, 7: 3, 255: 1}
    Image.fromarray(np.array([[[1, 2, 3], [3, 2, 1], [1, 2, 3]]], np.uint8)).save(tmp_path / "colour.png")
    facts = mask_facts(tmp_path / "colour.png", DATA)
    assert (facts.num_colours, facts.is_grey, facts.values) == (2, False, {})


def test_masks_of_unlabeled_images_are_never_opened(data, make_settings):
    settings = make_settings()
    samples, _ = find_samples(settings.data)
    for sample in samples:
        if sample.split == "unlabeled":
            (data / f"masks/{sample.id}.png").write_bytes(b"no image")
    surveyed = survey(samples, settings.data)
    assert [facts.problems for facts in surveyed.samples] == [()] * 12
    assert sum(facts.mask is not None for facts in surveyed.samples) == 8
    assert surveyed.is_complete


@pytest.mark.parametrize(("quick", "seen"), [(5, 5), (100, 12)])
def test_quick_reads_this_many(data, make_settings, quick, seen):
    settings = make_settings()
    surveyed = survey(find_samples(settings.data)[0], settings.data, quick)
    assert (len(surveyed.samples), surveyed.num_samples, surveyed.is_complete) == (seen, 12, seen == 12)
