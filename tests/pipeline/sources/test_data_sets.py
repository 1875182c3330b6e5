"""The run files of the public data sets: classes, values and prompts, read from tiny trees like the official ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from pipeline.datasets import load_samples
from pipeline.run_file import load_settings
from pipeline.sources.convert_masks import convert_coco, convert_sbd
from pipeline.sources.convert_masks.png import write_mask
from pipeline.stages.prepare import prepare

CONFIG = Path(__file__).parents[3] / "config"
DRAWN = {"data.splits.train": None, "data.splits.labeled": None, "data.splits.unlabeled": None}


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_run_file_is_valid(path):
    settings = load_settings(path)
    assert settings.name == path.stem
    if settings.train.initial_weights.endswith(".pth"):  # an encoder of a size that the student must have
        assert settings.train.weights == f"checkpoints/mit_{settings.train.student}.pth"


@pytest.mark.parametrize(
    ("run", "num_classes", "background", "values", "last_prompts", "crop"),
    [
        ("voc", 21, "background", range(21), ["tv monitor"], 513),
        ("voc_92", 21, "background", range(21), ["tv monitor"], 513),
        ("ade20k", 150, None, range(1, 151), ["flag"], 513),
        ("cityscapes", 19, None, [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33], ["bicycle"], 801),
        ("cityscapes_trainids", 19, None, range(19), ["bicycle"], 801),
        ("coco", 81, "background", range(81), ["toothbrush"], 513),
    ],
)
def test_classes_values_and_crop_are_those_of_published_work(run, num_classes, background, values, last_prompts, crop):
    settings = load_settings(CONFIG / f"{run}.yaml")
    data = settings.data
    assert (data.num_classes, data.background, settings.train.crop) == (num_classes, background, crop)
    assert data.mask_values == [[value] for value in values]
    assert data.class_prompts[-1] == last_prompts
    assert all(prompt == prompt.strip() for prompts in data.class_prompts for prompt in prompts)


def test_every_label_id_of_cityscapes_is_a_class_or_ignored():
    data = load_settings(CONFIG / "cityscapes.yaml").data
    assert sorted([value for values in data.mask_values for value in values] + data.ignore_values) == list(range(34))


def masks_after_prepare(run, root, **overrides):
    """Class names in each labeled and val mask, as the stages read it; None is ignored."""
    places = {"data.root": str(root), "results": str(root / "results")}
    settings = load_settings(CONFIG / f"{run}.yaml", places | overrides)
    prepare(settings)
    index = load_samples(settings.folder / "samples.json")
    names = dict(enumerate(settings.data.class_names))
    masks = {sample.id: index.mask(sample, settings.data) for sample in index.of("labeled", "val")}
    unlabeled = [sample.id for sample in index.of("unlabeled")]
    return {i: {names.get(value) for value in np.unique(mask).tolist()} for i, mask in masks.items()}, unlabeled


def write_image(path, width=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, 1)).save(path)


def write_values(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([values], np.uint8)).save(path)


def test_voc_and_sbd_from_the_files_of_their_archives(tmp_path):
    voc, sbd = tmp_path / "VOC2012", tmp_path / "benchmark_RELEASE"
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    (voc / "SegmentationClass").mkdir()
    (sbd / "dataset/cls").mkdir(parents=True)
    for name in ("2007_000032", "2007_000033", "2008_000002", "2008_000007"):
        write_image(voc / f"JPEGImages/{name}.jpg")
    for name, split in (("2007_000032", "train"), ("2007_000033", "val")):
        (voc / f"ImageSets/Segmentation/{split}.txt").write_text(f"{name}\n")
        write_mask(voc / f"SegmentationClass/{name}.png", np.array([[0, 1, 20, 255]], np.uint8))
    for name in ("2008_000002", "2008_000007"):
        savemat(sbd / f"dataset/cls/{name}.mat", {"GTcls": {"Segmentation": np.array([[0, 0, 20, 20]], np.uint8)}})
    convert_sbd(sbd, voc)
    masks, unlabeled = masks_after_prepare("voc", voc)
    everything = {"background", "aeroplane", "tv/monitor", None}
    assert masks == {"2007_000032": everything, "2007_000033": everything}
    assert unlabeled == ["2008_000002", "2008_000007"]

    (voc / "splits/92").mkdir(parents=True)
    for name, ids in (("labeled", ["2008_000002"]), ("unlabeled", ["2007_000032", "2008_000007"])):
        lines = [f"JPEGImages/{i}.jpg SegmentationClass/{i}.png\n" for i in ids]  # UniMatch's, whose masks it lacks
        (voc / f"splits/92/{name}.txt").write_text("".join(lines))
    masks, unlabeled = masks_after_prepare("voc_92", voc)
    assert masks == {"2008_000002": {"background", "tv/monitor"}, "2007_000033": everything}
    assert unlabeled == ["2007_000032", "2008_000007"]


def test_ade20k_from_the_files_of_its_archive(tmp_path):
    for folder, name in (("training", "ADE_train_1"), ("training", "ADE_train_2"), ("validation", "ADE_val_1")):
        write_image(tmp_path / f"images/{folder}/{name}.jpg")
    for folder, name in (("training", "ADE_train_1"), ("validation", "ADE_val_1")):
        write_values(tmp_path / f"annotations/{folder}/{name}.png", [0, 1, 149, 150])
    masks, unlabeled = masks_after_prepare("ade20k", tmp_path, **DRAWN)
    assert masks == {name: {None, "wall", "clock", "flag"} for name in ("ADE_train_1", "ADE_val_1")}
    assert unlabeled == ["ADE_train_2"]


@pytest.mark.parametrize(
    ("run", "ending", "values"),
    [("cityscapes", "labelIds", [0, 7, 33, 29]), ("cityscapes_trainids", "labelTrainIds", [255, 0, 18, 255])],
)
def test_cityscapes_from_the_files_of_its_archives(tmp_path, run, ending, values):
    names = [("train", "jena", "jena_000000_000019"), ("train", "ulm", "ulm_000000_000019")]
    for split, city, name in [*names, ("val", "bonn", "bonn_000000_000019")]:
        write_image(tmp_path / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png")
    for split, city, name in (names[0], ("val", "bonn", "bonn_000000_000019")):
        write_values(tmp_path / f"gtFine/{split}/{city}/{name}_gtFine_{ending}.png", values)
    masks, unlabeled = masks_after_prepare(run, tmp_path, **DRAWN)
    found = {None, "road", "bicycle"}
    assert masks == {"jena_000000_000019_leftImg8bit": found, "bonn_000000_000019_leftImg8bit": found}
    assert unlabeled == ["ulm_000000_000019_leftImg8bit"]


def test_coco_from_the_files_of_its_archives(tmp_path):
    (tmp_path / "annotations").mkdir()
    for folder, name in (("train2017", "000000000009"), ("train2017", "000000000025"), ("val2017", "000000000139")):
        write_image(tmp_path / f"{folder}/{name}.jpg")
    ids = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]  # COCO's, with its gaps
    person = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [[1, 0, 2, 0, 2, 1, 1, 1]]}
    brush = {"id": 2, "image_id": 1, "category_id": 90, "iscrowd": 0, "segmentation": [[2, 0, 3, 0, 3, 1, 2, 1]]}
    crowd = person | {"id": 3, "iscrowd": 1, "segmentation": {"size": [1, 4], "counts": [3, 1]}}
    for split, name in (("train2017", "000000000009"), ("val2017", "000000000139")):
        content = {
            "images": [{"id": 1, "file_name": f"{name}.jpg", "height": 1, "width": 4}],
            "annotations": [person, brush, crowd],
            "categories": [{"id": i, "name": str(i)} for i in ids],
        }
        (tmp_path / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    convert_coco(tmp_path)
    masks, unlabeled = masks_after_prepare("coco", tmp_path, **DRAWN)
    found = {"background", "person", "toothbrush", None}
    assert masks == {"000000000009": found, "000000000139": found}
    assert unlabeled == ["000000000025"]
