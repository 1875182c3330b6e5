"""Exports of a run with tiles: one label for each image, whose pixels are those of the tile that answers for them."""

import json

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from stage_runs import run_stages
from tiny_run import write_run_file, write_sample_files

from pipeline.api import Labels
from pipeline.exchange import export_labels, export_training_set
from pipeline.exchange.import_masks import import_masks
from pipeline.exchange.labels import open_exported
from pipeline.exchange.next_images import propose_images
from pipeline.inspect.evidence import open_evidence, tile_with
from pipeline.inspect.explain import explain
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.stages.prepare import prepare
from pipeline.store import DONE

IDS = [f"im{i}" for i in range(7)]
ROWS, COLUMNS = ((0, 0, 20), (16, 20, 40)), ((0, 0, 21), (18, 21, 37), (32, 37, 56))
"""Tiles of 24 pixels of 40 x 56 with an overlap of at least 6, by hand: first pixel, and start and end of the core."""
SCALE, PLACE = 33550, 33922  # tags of a GeoTIFF


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A labeled run of images of 40 x 56 pixels: GeoTIFFs, one of whose tiles the annotator fails on."""
    folder = tmp_path_factory.mktemp("stitched")
    write_sample_files(folder / "data", IDS, size=(40, 56))
    for path in sorted((folder / "data/images").glob("*.png")):
        pixels = np.array(Image.open(path))
        pixels[:, :, 0] |= 1  # no red value is even
        if path.stem == "im0":
            pixels[16:20, 18:22] = 0  # the corner of the middle tile below
        directory = ImageFileDirectory_v2()
        for tag, value in {SCALE: (0.5, 0.5, 0.0), PLACE: (0.0, 0.0, 0.0, 500000.0, 5400000.0, 0.0)}.items():
            directory.tagtype[tag], directory[tag] = 12, value
        Image.fromarray(pixels).save(path.with_suffix(".tif"), tiffinfo=directory)
        path.unlink()
    (folder / "data/unlabeled.txt").write_text("im0\nim1\n")
    settings = load_settings(
        write_run_file(folder),
        {
            "data.tile": {"size": 24, "overlap": 6},
            "data.splits.unlabeled": "unlabeled.txt",
            "data.splits.num_labeled": 4,
            "data.splits.num_val": 1,
            "annotate.max_failed_fraction": 0.5,
            "annotate.python.arguments": {"bad_red": 0},
        },
    )
    run_stages(settings)
    return Run(settings)


def by_hand(run, image):
    """The label of an image from the labels of its tiles on the grid of 16 x 24, pixel by pixel."""
    store = run.open_labels()
    labels = {store.sample_ids[row]: store.label(row) for row in np.flatnonzero(store.status == DONE).tolist()}
    nothing = np.full((16, 24), np.nan)
    label = np.full((40, 56), 255, np.uint8)
    for y in range(40):
        for x in range(56):
            top = next(start for start, first, stop in ROWS if first <= y < stop)
            left = next(start for start, first, stop in COLUMNS if first <= x < stop)
            value = labels.get(f"{image}@{top},{left}", nothing)[int((y - top + 0.5) * 16 / 24), x - left]
            label[y, x] = 255 if np.isnan(value) else value
    return label


def test_the_label_of_an_image_is_that_of_the_tile_which_answers_for_each_pixel(run):
    written = export_labels(run.folder.labels, "png")
    assert (written.num_images, written.left_out) == (2, ["im0@16,18"])
    assert "2 images; without im0@16,18, where the annotator failed" in written.summary()
    labels = Labels(open_exported(run.folder.labels))
    assert list(labels) == ["im0", "im1"]
    for image in labels:
        expected = by_hand(run, image)
        assert (np.array(Image.open(written.folder / f"{image}.png")) == expected).all()
        assert (labels[image] == expected).all()
    failed = labels["im0"] == 255
    assert failed[20:, 21:37].all()
    assert not failed[:20].all()


def test_a_geotiff_of_a_stitched_label_has_the_georeference_of_the_image(run):
    written = export_labels(run.folder.labels, "geotiff")
    with Image.open(written.folder / "im1.tif") as file:
        assert (np.array(file) == by_hand(run, "im1")).all()
        assert file.tag_v2[SCALE] == (0.5, 0.5, 0.0)
        assert file.tag_v2[PLACE][3:5] == (500000.0, 5400000.0)


def test_scores_and_images_of_other_formats_are_those_of_whole_images(run):
    written = export_labels(run.folder.labels, "coco")
    content = json.loads((written.folder / "annotations.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["images/im0.tif", "images/im1.tif"]
    label, areas = by_hand(run, "im1"), {}
    for one in content["annotations"]:
        assert one["segmentation"]["size"] == [40, 56]
        if one["image_id"] == 2:
            areas[one["category_id"] - 1] = one["area"]
    assert areas == {k: (label == k).sum() for k in areas}


def test_a_training_set_has_whole_images_and_masks(run):
    written = export_training_set(run.settings, "mmseg")
    masks = list((written.folder / "ann_dir").rglob("*.png"))
    assert sorted(path.stem for path in masks) == IDS
    assert {Image.open(path).size for path in masks} == {(56, 40)}


def test_the_most_uncertain_image_is_chosen_by_all_its_tiles(run):
    store = run.open_labels()
    rates = {}
    for image in ("im0", "im1"):
        rows = [i for i, name in enumerate(store.sample_ids) if name.startswith(image) and store.status[i] == DONE]
        rates[image] = np.mean([~np.isnan(store.label(i)) for i in rows])
    written = export_labels(run.folder.labels, "cvat", most_uncertain=1)
    assert (written.folder / "images.txt").read_text().strip().endswith(f"{min(rates, key=rates.get)}.tif")


@pytest.mark.parametrize(("x", "y", "where"), [(20, 19, ("im1@0,0", 20, 19)), (21, 20, ("im1@16,18", 3, 4))])
def test_a_pixel_of_an_image_is_explained_in_the_tile_that_answers_for_it(run, x, y, where):
    tile, own_x, own_y = tile_with(run.settings, "im1", x, y)
    assert (tile, own_x, own_y) == where
    facts = explain(open_evidence(run.settings, tile), own_x, own_y)
    label = by_hand(run, "im1")[y, x]
    assert facts["decision"] == (None if label == 255 else run.settings.data.class_names[label])


def test_images_to_label_next_are_images_and_not_tiles(run):
    assert sorted(one.id for one in propose_images(run.settings, 5)) == ["im0", "im1"]
    assert len(propose_images(run.settings, 1)) == 1


def test_a_corrected_mask_of_an_image_is_cut_like_others(run, tmp_path):
    label = by_hand(run, "im1")
    label[:, 20:40] = 2
    (tmp_path / "masks").mkdir()
    Image.fromarray(label).save(tmp_path / "masks/im1.png")
    origin = run.settings.origin
    words = [f"{name}={json.dumps(value)}" for name, value in origin.overrides.items()]
    imported = import_masks(origin.run, words, tmp_path / "masks", "png")
    assert imported.ids["imported"] == ["im1"]
    settings = load_settings(imported.run)
    prepare(settings)
    index = Run(settings).samples()
    found = np.full((40, 56), 9)
    for sample in index.of("labeled"):
        if sample.tile.image == "im1":
            sample.tile.core.of(found)[...] = sample.tile.core_of(index.mask(sample, settings.data))
    assert (found == label).all()
