"""The values of masks: each wrong coding is written into real files, and found with its fix."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.doctor.masks import void_fraction
from pipeline.doctor.survey import MaskFacts
from pipeline.run_file import load_settings
from pipeline.sources.misreadings import suspicions

CONFIG = Path(__file__).parents[3] / "config"
OWN = [
    load_settings(
        CONFIG / "camvid.yaml", {"data.classes": [f"c{k}" for k in range(5)], "data.ignore_values": ignored}
    ).data
    for ignored in ([255], [255, 77])
]


@pytest.fixture
def write_masks(data):
    """Give every mask these values, in stripes."""

    def write(*values):
        for path in (data / "masks").glob("*.png"):
            stripes = np.array(values, np.uint8)[np.arange(32) * len(values) // 32]
            Image.fromarray(np.tile(stripes, (24, 1))).save(path)

    return write


def test_colour_images_are_found_with_their_number_of_colours(data, labeled, only):
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:, 10:20] = (128, 0, 0)
    pixels[:, 20:] = (0, 128, 0)
    Image.fromarray(pixels).save(data / labeled[0].mask)
    finding = only("1 masks are colour images (3 colours each)")
    assert (finding.level, finding.where) == ("error", (labeled[0].mask,))
    assert "index" in finding.fix


def test_index_masks_saved_in_colour_need_one_channel_only(data, labeled, only):
    with Image.open(data / labeled[0].mask) as mask:
        grey = mask.convert("RGB")
    grey.save(data / labeled[0].mask)
    finding = only("three equal channels")
    assert (finding.level, finding.where) == ("error", (labeled[0].mask,))
    assert "mode L" in finding.fix


def test_masks_of_0_and_255_are_an_error_where_255_is_ignored(write_masks, only):
    write_masks(0, 255)
    finding = only("contain 0 and 255 only")
    assert finding.level == "error"
    assert "values: [255]" in finding.fix


def test_0_and_255_are_fine_where_255_is_a_class(write_masks, findings):
    write_masks(0, 255)
    classes = [{"name": "background", "values": [0]}, {"name": "cat", "values": [255]}]
    found = findings(**{"data.classes": classes, "data.ignore_values": []})
    assert [f for f in found if f.level == "error"] == []


@pytest.mark.parametrize(
    ("values", "classes", "settings", "level", "text"),
    [
        ((0, 1, 2, 3), ["a cat", "a dog", "a cow"], {}, "error", "count classes from 1 to 3, the settings from 0 to 2"),
        ((254, 255, 0), ["background", "cat", "dog"], {}, "error", "probably 255 after a shift by one"),
        ((253, 254, 255, 0), ["background", "cat", "dog"], {}, "error", "probably 255 after two shifts by one"),
        ((0, 1, 255), ["background", "cat", "dog"], {}, "warning", "shifted by one (reduce zero label) once too often"),
        ((0, 1, 2, 255), [{"name": n, "values": [k]} for k, n in enumerate(["cat", "dog", "cow"], 1)],
         {"data.ignore_values": [0]}, "error", "count classes from 0 to 2"),
        ((0, 1, 2), [{"name": n, "values": [k]} for k, n in enumerate(["cat", "dog", "cow"], 1)],
         {"data.ignore_values": [0]}, "warning", "count classes from 0 to 2"),
    ],
)  # fmt: skip
def test_masks_that_are_shifted_are_found(write_masks, only, values, classes, settings, level, text):
    write_masks(*values)
    background = "background" if "background" in classes else None
    finding = only(text, **{"data.classes": classes, "data.background": background, **settings})
    assert finding.level == level
    assert finding.fix


@given(st.sampled_from(OWN), st.lists(st.frozensets(st.sampled_from([0, 1, 2, 3, 4, 255])), max_size=5))
def test_masks_that_fit_the_settings_are_never_suspected(data, masks):
    found = frozenset().union(*masks)
    for suspicion in suspicions(masks, data):
        assert found == {0, 255} if suspicion.is_certain else 4 not in found


@given(st.sampled_from(OWN), st.sets(st.sampled_from([0, 1, 2, 3, 4])))
def test_classes_counted_from_one_are_found_whatever_else_occurs(data, values):
    (suspicion,) = suspicions([frozenset(values), frozenset({5})], data)
    assert suspicion.is_certain


def test_published_codings_are_recognised_by_the_sources(tmp_path, only):
    for folder, names in (("training", ["t1", "t2", "t3", "t4"]), ("validation", ["v"])):
        for kind in ("images", "annotations"):
            (tmp_path / f"data/{kind}/{folder}").mkdir(parents=True)
        for name in names:
            Image.effect_noise((32, 24), 80).convert("RGB").save(tmp_path / f"data/images/{folder}/{name}.jpg")
            Image.new("L", (32, 24), 150).save(tmp_path / f"data/annotations/{folder}/{name}.png")
    classes = [f"thing called {k}x" for k in range(150)]
    splits = {"num_labeled": 2}
    finding = only(
        "their coding is official (0 is other",
        **{"data.layout": "ade20k", "data.classes": classes, "data.background": None, "data.splits": splits},
    )
    assert finding.level == "error"


def test_values_without_a_class_are_listed(write_masks, only):
    write_masks(0, 1, 2, 77, 99)
    finding = only("values without a class: 77, 99")
    assert (finding.level, len(finding.where)) == ("error", 8)
    assert "data.unknown_values: ignore" in finding.fix


def test_many_values_hint_at_smoothed_masks(write_masks, only):
    write_masks(*range(30))
    assert "(27 values, probably from smoothing or compression)" in str(only("values without a class"))


def test_much_void_is_a_warning_and_a_mask_without_a_class_too(data, write_masks, labeled, findings):
    write_masks(0, 1, 255, 255, 255, 255, 255, 2)
    Image.new("L", (32, 24), 255).save(data / labeled[0].mask)
    warnings = [str(finding) for finding in findings() if finding.level == "warning"]
    # 7 masks of 8 have 5 eighths of void, one is void only
    assert any(f"on average {100 * (7 * 5 / 8 + 1) / 8:.1f} % of a mask is void" in line for line in warnings)
    assert any(f"1 masks have no pixel with a class: {labeled[0].mask}" in line for line in warnings)


def test_the_void_fraction_counts_pixels_and_not_values():
    data = load_settings(CONFIG / "demo.yaml").data
    assert void_fraction(MaskFacts((1, 8), {0: 2, 255: 6}), data) == 0.75
