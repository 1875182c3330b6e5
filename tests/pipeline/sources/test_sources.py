"""Layouts, id lists and splits."""

from pathlib import Path

import pytest

from pipeline.sources import find_samples, truth_path


def ids_of(samples, split):
    return [sample.id for sample in samples if sample.split == split]


def touch_files(root: Path, images, masks=(), image_folder="images", mask_folder="masks"):
    for folder, names in ((image_folder, images), (mask_folder, masks)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (root / folder / name).touch()


def test_images_with_masks_are_labeled_and_the_others_are_not(tmp_path, make_settings):
    touch_files(tmp_path / "data", [f"{i}.jpg" for i in range(20)], [f"{i}.png" for i in range(10)])
    settings = make_settings(**{"splits.num_labeled": None, "splits.num_val": None})
    samples, problems = find_samples(settings.data)
    assert problems == []
    assert len(ids_of(samples, "val")) == 2  # a fifth of the images that have masks
    assert len(ids_of(samples, "labeled")) == 8
    assert sorted(ids_of(samples, "unlabeled"), key=int) == [str(i) for i in range(10, 20)]
    assert all((sample.mask is None) == (sample.split == "unlabeled") for sample in samples)


def test_a_draw_is_the_same_without_masks_that_were_not_drawn(tmp_path, make_settings):
    names = [f"{i}.png" for i in range(30)]
    touch_files(tmp_path / "data", names, names)
    data = make_settings().data
    before, _ = find_samples(data)
    for sample in before:
        if sample.split == "unlabeled":
            (tmp_path / f"data/masks/{sample.id}.png").unlink()
    after, problems = find_samples(data)
    assert problems == []
    assert after == before


def test_another_seed_draws_other_images(tmp_path, make_settings):
    names = [f"{i}.png" for i in range(30)]
    touch_files(tmp_path / "data", names, names)
    first, _ = find_samples(make_settings().data)
    second, _ = find_samples(make_settings(**{"splits.seed": 1}).data)
    assert ids_of(first, "labeled") != ids_of(second, "labeled")


def test_ids_and_image_mask_pairs_give_the_same_samples(tmp_path, make_settings):
    root = tmp_path / "data"
    touch_files(root, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], ["a.png", "b.png", "c.png", "d.png"])
    (root / "bare.txt").write_text("a\nb\n")
    (root / "pairs.txt").write_text("images/a.jpg masks/a.png\nimages/b.jpg masks/b.png\n")
    (root / "rest.txt").write_text("images/c.jpg None\n")
    (root / "val.txt").write_text("d\n")
    found = []
    for labeled in ("bare.txt", "pairs.txt"):
        lists = {"splits.labeled": labeled, "splits.unlabeled": "rest.txt", "splits.val": "val.txt"}
        samples, problems = find_samples(make_settings(**lists).data)
        assert problems == []
        found.append(samples)
    assert found[0] == found[1]
    assert [(s.id, s.split, s.mask) for s in found[0]] == [
        ("a", "labeled", "masks/a.png"),
        ("b", "labeled", "masks/b.png"),
        ("c", "unlabeled", None),
        ("d", "val", "masks/d.png"),
    ]


def test_voc_layout_uses_its_own_lists(tmp_path, make_settings):
    root = tmp_path / "data"
    names = ["2007_1", "2007_2", "2007_3", "2007_4"]
    touch_files(root, [f"{n}.jpg" for n in names], [f"{n}.png" for n in names], "JPEGImages", "SegmentationClass")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_1\n2007_2\n2007_3\n")
    (lists / "val.txt").write_text("2007_4\n")
    overrides = {"data.layout": "voc", "splits.num_labeled": 1, "splits.num_val": None}
    samples, problems = find_samples(make_settings(**overrides).data)
    assert problems == []
    assert ids_of(samples, "val") == ["2007_4"]
    assert len(ids_of(samples, "labeled")) == 1
    assert len(ids_of(samples, "unlabeled")) == 2


def test_every_problem_is_found_with_its_fix(tmp_path, make_settings):
    root = tmp_path / "data"
    touch_files(root, ["a.jpg", "a.png", "b.jpg", "c.jpg"], ["a.png"])
    (root / "labeled.txt").write_text("a\nb\nmissing\n")
    (root / "unlabeled.txt").write_text("a\na\n")
    (root / "val.txt").write_text("\n")
    lists = {"splits.labeled": "labeled.txt", "splits.unlabeled": "unlabeled.txt", "splits.val": "val.txt"}
    _, problems = find_samples(make_settings(**lists).data)
    assert any("a.png and a.jpg have the same stem a; rename or remove one" in p for p in problems)
    assert any("unlabeled.txt contains a twice; remove one line" in p for p in problems)
    assert any("val.txt is empty" in p for p in problems)
    (root / "images/a.png").unlink()
    (root / "unlabeled.txt").write_text("a\n")
    (root / "val.txt").write_text("a\n")
    _, problems = find_samples(make_settings(**lists).data)
    assert problems == [
        "labeled image b has no mask; add a mask, or list the image as unlabeled",
        "labeled image missing has no file; add the file, or remove the id from the list",
        "a is both in labeled and in unlabeled; remove it from one of them",
        "a is both in labeled and in val; remove it from one of them",
        "a is both in unlabeled and in val; remove it from one of them",
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.images": "pictures"}, "no image folder .*pictures; set data.root or data.images"),
        ({"splits.train": "train.txt"}, "no id list .*train.txt; correct data.splits.train"),
        (
            {"splits.num_labeled": 9},
            "num_labeled is 9, but only 2 images to draw from have masks; set data.splits",
        ),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, make_settings, overrides, message):
    touch_files(tmp_path / "data", ["a.png", "b.png", "c.png", "d.png"], ["a.png", "b.png", "c.png", "d.png"])
    _, problems = find_samples(make_settings(**overrides).data)
    assert len(problems) >= 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(problems[0])


def test_an_empty_split_is_a_problem(tmp_path, make_settings):
    touch_files(tmp_path / "data", ["a.png", "b.png", "c.png"], ["a.png", "b.png", "c.png"])
    _, problems = find_samples(make_settings(**{"splits.num_labeled": 2, "splits.num_val": 1}).data)
    assert problems == ["the split unlabeled is empty; add images to it, or change data.splits"]


def test_the_truth_of_an_unlabeled_image_is_found_by_truth_path_only(tmp_path, make_settings):
    touch_files(tmp_path / "data", [f"{i}.png" for i in range(10)], [f"{i}.png" for i in range(9)])
    data = make_settings().data
    samples, _ = find_samples(data)
    unlabeled = [sample for sample in samples if sample.split == "unlabeled"]
    truths = {sample.id: truth_path(sample, data) for sample in unlabeled}
    assert truths.pop("9") is None
    assert all(path == tmp_path / f"data/masks/{i}.png" for i, path in truths.items())
