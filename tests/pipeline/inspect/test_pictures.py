"""Pictures of the images of a store."""

import numpy as np
import pytest
from PIL import Image

from pipeline.drawing.pictures import OPACITY, hatch
from pipeline.errors import DatasetError, StoreError
from pipeline.inspect import write_picture
from pipeline.palette import class_colours, scale_colours

PHOTO = np.full((8, 40, 3), 100, np.uint8)  # enlarged 8 times in a picture, so that its legend fits
ENLARGED = 8


def picture(path, sample_id, out):
    """The drawn picture, one pixel for each of the photograph, without its legend."""
    write_picture(path, sample_id, out)
    with Image.open(out) as image:
        drawn = np.asarray(image.convert("RGB"))
    assert drawn.shape[0] > 8 * ENLARGED  # there is a legend
    return drawn[: 8 * ENLARGED : ENLARGED, ::ENLARGED]


def blended(colour):
    return np.rint((1 - OPACITY) * 100 + OPACITY * np.asarray(colour, float)).tolist()


def test_a_picture_of_labels_paints_classes_and_hatches_abstention(labels, tmp_path):
    drawn = picture(labels.path, "im_0", tmp_path / "new" / "p.png")
    cat = class_colours(3, background=0)[1]
    assert (drawn[:6] == blended(cat)).all()  # 30 of 40 pixels: three of four rows of the grid
    np.testing.assert_array_equal(drawn[6:], hatch(PHOTO)[6:])


def test_a_picture_of_probabilities_shows_the_most_probable_class(probabilities, tmp_path):
    drawn = picture(probabilities.path, "im_0", tmp_path / "p.png")
    assert (drawn[:, :20] == blended(class_colours(3)[2])).all()
    assert (drawn[:, 20:] == blended(class_colours(3)[1])).all()


def test_a_picture_of_scores_is_light_where_the_annotator_was_wrong(calibration, tmp_path):
    drawn = picture(calibration.path, "im_0", tmp_path / "p.png")
    assert (drawn[:, 20:] == blended(scale_colours()[-1])).all()
    np.testing.assert_array_equal(drawn[:, :20], hatch(PHOTO)[:, :20])


@pytest.mark.parametrize(
    ("sample_id", "message"),
    [
        ("im0", r"has no image im0; did you mean im_[012]\?"),
        ("zebra", "has no image zebra; e.g. im_0"),
        ("im_1", "im_1 of .* failed, see the receipt of annotate"),
        ("im_2", "im_2 of .* is not done yet"),
    ],
)
def test_an_image_that_cannot_be_drawn_is_a_one_line_error(probabilities, tmp_path, sample_id, message):
    with pytest.raises(StoreError, match=message) as error:
        write_picture(probabilities.path, sample_id, tmp_path / "p.png")
    assert "\n" not in str(error.value)


def test_a_lost_chunk_is_not_drawn_as_abstention(labels, tmp_path):
    (labels.path / "label/c/1/0/0").unlink()
    with pytest.raises(StoreError, match=r"label of im_1 is not on disk; run conformalsam inspect .* --repair"):
        write_picture(labels.path, "im_1", tmp_path / "p.png")


def test_a_picture_needs_the_samples_and_the_photograph(labels, tmp_path):
    (tmp_path / "im_0.png").unlink()
    with pytest.raises(DatasetError, match=r"im_0.png cannot be read .*, start this command in the folder"):
        write_picture(labels.path, "im_0", tmp_path / "p.png")
    (tmp_path / "samples.json").unlink()
    with pytest.raises(DatasetError, match="no sample index"):
        write_picture(labels.path, "im_0", tmp_path / "p.png")
