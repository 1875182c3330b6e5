"""Layouts of the public data sets, and their published lists."""

import pytest

from pipeline.sources import find_samples, truth_path


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def found(settings):
    samples, problems = find_samples(settings.data)
    assert problems == []
    return {split: {s.id: (s.image, s.mask) for s in samples if s.split == split} for split in ("labeled", "val")} | {
        "unlabeled": [s.image for s in samples if s.split == "unlabeled"]
    }


@pytest.fixture
def layout(make_settings):
    """Settings of a layout; without lists the splits are those of the layout."""

    def make(name, **overrides):
        plain = {"splits.num_labeled": None, "splits.num_val": None}
        return make_settings(**{"data.layout": name} | plain | overrides)

    return make


def test_ade20k_is_split_by_its_folders(root, layout):
    touch(root, *(f"images/training/ADE_train_{i}.jpg" for i in range(3)), "images/validation/ADE_val_1.jpg")
    touch(root, "annotations/training/ADE_train_0.png", "annotations/validation/ADE_val_1.png")
    assert found(layout("ade20k")) == {
        "labeled": {"ADE_train_0": ("images/training/ADE_train_0.jpg", "annotations/training/ADE_train_0.png")},
        "val": {"ADE_val_1": ("images/validation/ADE_val_1.jpg", "annotations/validation/ADE_val_1.png")},
        "unlabeled": ["images/training/ADE_train_1.jpg", "images/training/ADE_train_2.jpg"],
    }


def test_val_images_never_become_training_images(root, layout):
    touch(root, *(f"images/training/t{i}.jpg" for i in range(6)), *(f"images/validation/v{i}.jpg" for i in range(6)))
    touch(root, *(f"annotations/training/t{i}.png" for i in range(6)))
    touch(root, *(f"annotations/validation/v{i}.png" for i in range(6)))
    for num_val in (None, 2):
        splits = found(layout("ade20k", **{"splits.num_labeled": 2, "splits.num_val": num_val}))
        assert len(splits["val"]) == (num_val or 6)
        assert all(image.startswith("images/validation/") for image, _ in splits["val"].values())
        assert len(splits["labeled"]) == 2
        assert len(splits["unlabeled"]) == 4
        assert all(image.startswith("images/training/") for image in splits["unlabeled"])


CITY_IMAGES = [f"leftImg8bit/train/jena/jena_00000{i}_000019_leftImg8bit.png" for i in range(3)]
CITY_VAL = "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png"


def city_mask(image, kind):
    folder, _, name = image.replace("leftImg8bit/", "gtFine/", 1).rpartition("/")
    return f"{folder}/{name.replace('leftImg8bit.png', f'gtFine_{kind}')}"


def test_cityscapes_masks_have_another_folder_and_another_ending(root, layout):
    touch(root, *CITY_IMAGES, CITY_VAL, "leftImg8bit/train_extra/bonn/bonn_000001_000019_leftImg8bit.png")
    touch(root, city_mask(CITY_IMAGES[0], "labelIds.png"), city_mask(CITY_VAL, "labelIds.png"))
    touch(root, city_mask(CITY_IMAGES[1], "color.png"), city_mask(CITY_IMAGES[1], "polygons.json"))
    splits = found(layout("cityscapes"))
    assert list(splits["labeled"].values()) == [(CITY_IMAGES[0], city_mask(CITY_IMAGES[0], "labelIds.png"))]
    assert list(splits["val"].values()) == [(CITY_VAL, city_mask(CITY_VAL, "labelIds.png"))]
    assert splits["unlabeled"] == CITY_IMAGES[1:]  # nothing of train_extra, unless a list names it


@pytest.mark.parametrize(
    "write",
    [
        lambda image: f"{image} {city_mask(image, 'labelTrainIds.png')}",  # UniMatch, whose masks are not in the tree
        lambda image: image,  # U2PL
        lambda image: image.rpartition("/")[2].removesuffix(".png"),
        lambda image: image.rpartition("/")[2].removesuffix("_leftImg8bit.png"),
    ],
    ids=["pairs", "images", "stems", "frames"],
)
def test_cityscapes_lists_of_every_kind_find_the_official_masks(root, layout, write):
    extra = "leftImg8bit/train_extra/bonn/bonn_000001_000019_leftImg8bit.png"
    touch(root, *CITY_IMAGES, CITY_VAL, extra)
    touch(root, *(city_mask(image, "labelIds.png") for image in (*CITY_IMAGES, CITY_VAL)))
    (root / "labeled.txt").write_text(f"{write(CITY_IMAGES[1])}\n")
    (root / "unlabeled.txt").write_text(f"{write(CITY_IMAGES[0])}\n{write(CITY_IMAGES[2])}\n{extra} None\n")
    (root / "val.txt").write_text(f"{write(CITY_VAL)}\n")
    lists = {f"splits.{name}": f"{name}.txt" for name in ("labeled", "unlabeled", "val")}
    splits = found(layout("cityscapes", **lists))
    assert list(splits["labeled"].values()) == [(CITY_IMAGES[1], city_mask(CITY_IMAGES[1], "labelIds.png"))]
    assert list(splits["val"].values()) == [(CITY_VAL, city_mask(CITY_VAL, "labelIds.png"))]
    assert splits["unlabeled"] == [CITY_IMAGES[0], CITY_IMAGES[2], extra]


def test_another_ending_reads_the_train_ids(root, layout):
    touch(root, *CITY_IMAGES, CITY_VAL)
    for image in (CITY_IMAGES[0], CITY_VAL):
        touch(root, city_mask(image, "labelIds.png"), city_mask(image, "labelTrainIds.png"))
    splits = found(layout("cityscapes", mask_ending="_gtFine_labelTrainIds.png"))
    masks = [mask for split in ("labeled", "val") for _, mask in splits[split].values()]
    assert masks == [city_mask(image, "labelTrainIds.png") for image in (CITY_IMAGES[0], CITY_VAL)]


def test_coco_masks_are_in_one_folder(root, layout):
    touch(root, "train2017/1.jpg", "train2017/2.jpg", "val2017/3.jpg", "masks/1.png", "masks/3.png", "test2017/4.jpg")
    assert found(layout("coco")) == {
        "labeled": {"1": ("train2017/1.jpg", "masks/1.png")},
        "val": {"3": ("val2017/3.jpg", "masks/3.png")},
        "unlabeled": ["train2017/2.jpg"],
    }


def test_voc_lists_that_name_derived_masks_find_those_of_the_mask_folder(root, layout):
    touch(root, *(f"JPEGImages/{name}.jpg" for name in ("a", "b", "c", "v")))
    touch(root, "SegmentationClass/a.png", "SegmentationClass/v.png")
    touch(root, *(f"SegmentationClassAug/{name}.png" for name in ("a", "b", "c", "v")))
    for name, ids in (("labeled", "ab"), ("unlabeled", "c"), ("val", "v")):
        (root / f"{name}.txt").write_text("".join(f"JPEGImages/{i}.jpg SegmentationClass/{i}.png\n" for i in ids))
    lists = {f"splits.{name}": f"{name}.txt" for name in ("labeled", "unlabeled", "val")}
    splits = found(layout("voc", **lists, **{"data.masks": "SegmentationClassAug"}))
    assert splits["labeled"] == {
        "a": ("JPEGImages/a.jpg", "SegmentationClass/a.png"),
        "b": ("JPEGImages/b.jpg", "SegmentationClassAug/b.png"),
    }


def test_in_layout_folder_a_mask_that_a_list_names_must_exist(root, layout):
    touch(root, *(f"images/{name}.png" for name in "abc"), *(f"masks/{name}.png" for name in "abc"))
    (root / "labeled.txt").write_text("images/a.png other/a.png\n")
    _, problems = find_samples(layout("folder", **{"splits.labeled": "labeled.txt", "splits.num_val": 1}).data)
    named = root / "other/a.png"
    assert problems[0] == f"labeled image a has no mask ({named}); add a mask, or list the image as unlabeled"


def test_none_in_a_list_makes_an_image_unlabeled_even_if_the_layout_has_its_mask(root, layout):
    touch(root, *(f"JPEGImages/{name}.jpg" for name in "abv"), *(f"SegmentationClass/{name}.png" for name in "abv"))
    (root / "train.txt").write_text("JPEGImages/a.jpg\nJPEGImages/b.jpg None\n")
    (root / "val.txt").write_text("v\n")
    splits = found(layout("voc", **{"splits.train": "train.txt", "splits.val": "val.txt"}))
    assert list(splits["labeled"]) == ["a"]
    assert splits["unlabeled"] == ["JPEGImages/b.jpg"]


@pytest.mark.parametrize(
    ("name", "image", "mask"),
    [
        ("voc", "JPEGImages/a.jpg", "SegmentationClass/a.png"),
        ("ade20k", "images/training/a.jpg", "annotations/training/a.png"),
        ("cityscapes", CITY_IMAGES[0], city_mask(CITY_IMAGES[0], "labelIds.png")),
        ("coco", "train2017/a.jpg", "masks/a.png"),
    ],
)
def test_the_truth_of_an_unlabeled_image_is_found_by_truth_path_only(root, layout, name, image, mask):
    touch(root, image, mask)
    (root / "unlabeled.txt").write_text(f"{image} {mask}\n")
    samples, _ = find_samples(layout(name, **{"splits.unlabeled": "unlabeled.txt"}).data)
    sample = next(s for s in samples if s.split == "unlabeled")
    assert (sample.image, sample.mask) == (image, None)
    assert truth_path(sample, layout(name).data) == root / mask
    (root / mask).unlink()
    assert truth_path(sample, layout(name).data) is None


def test_a_missing_folder_and_a_stem_in_two_folders_are_named(root, layout):
    touch(root, "val2017/1.jpg")
    _, problems = find_samples(layout("coco").data)
    assert problems == [f"no image folder {root / 'train2017'}; set data.root or data.images"]
    touch(root, "train2017/1.jpg")
    _, problems = find_samples(layout("coco").data)
    message = f"{root}/val2017/1.jpg and {root}/train2017/1.jpg have the same stem 1; rename or remove one of them"
    assert problems == [message]


def test_masks_may_be_outside_the_root(root, layout, tmp_path):
    touch(root, *(f"JPEGImages/{name}.jpg" for name in "abv"))
    touch(tmp_path / "elsewhere", *(f"{name}.png" for name in "av"))
    (root / "val.txt").write_text("v\n")
    settings = layout("voc", **{"data.masks": str(tmp_path / "elsewhere"), "splits.val": "val.txt"})
    assert found(settings)["labeled"] == {"a": ("JPEGImages/a.jpg", str(tmp_path / "elsewhere/a.png"))}


def test_images_with_one_stem_in_two_sub_folders_are_called_by_their_paths(tmp_path, make_settings):
    root = tmp_path / "data"
    images = ("cam1/0", "cam2/0", "cam2/1", "2", "3", "4")
    for name in (*[f"images/{name}" for name in images], "masks/cam1/0", "masks/cam2__1", "masks/0", "masks/3"):
        (root / f"{name}.png").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.png").touch()
    (root / "labeled.txt").write_text("images\\cam1\\0.png masks\\cam1\\0.png\ncam2__1\n")
    lists = {"splits.labeled": "labeled.txt", "splits.num_labeled": None, "splits.num_val": 1}
    samples, problems = find_samples(make_settings(subfolders=True, **lists).data)
    assert problems == []
    assert {sample.id: (sample.mask, sample.split) for sample in samples} == {
        "cam1__0": ("masks/cam1/0.png", "labeled"),
        "cam2__1": ("masks/cam2__1.png", "labeled"),
        "3": ("masks/3.png", "val"),
        "cam2__0": (None, "unlabeled"),
        "2": (None, "unlabeled"),
        "4": (None, "unlabeled"),
    }
    for path in (root / "images/cam2").glob("0.png"):
        path.rename(root / "images/cam2/5.png")
    samples, _ = find_samples(make_settings(subfolders=True, **{**lists, "splits.labeled": None}).data)
    assert {sample.id for sample in samples} == {"0", "1", "2", "3", "4", "5"}, "stems that differ are ids"
