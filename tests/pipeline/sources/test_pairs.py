"""Lists of two different splits, which together leave images out."""

import pytest

from pipeline.settings import SplitSettings
from pipeline.sources import find_samples
from pipeline.sources.pairs import pair_problems
from pipeline.sources.splits import ADE_TRAIN_IMAGES, ade_lists

ADE = [f"ADE_train_{i:08d}" for i in range(1, ADE_TRAIN_IMAGES + 1)]
NAMED = SplitSettings(labeled="a.txt", unlabeled="b.txt")


def ade_pair(labeled_of, unlabeled_of):
    return {"labeled": ade_lists(ADE, labeled_of)[0], "unlabeled": ade_lists(ADE, unlabeled_of)[1]}


@pytest.mark.parametrize("lists_known", [{"train": ADE}, {}])  # by the layout's folder, or by the published split
def test_the_labeled_images_of_one_split_beside_the_others_of_a_larger_one_are_refused(lists_known):
    assert pair_problems(NAMED, lists_known | ade_pair(64, 64), ADE) == []
    (problem,) = pair_problems(NAMED, lists_known | ade_pair(128, 64), ADE)
    assert problem == (
        "158 of the 20210 training images are neither in data.splits.labeled (a.txt, 158 images: the published split "
        "ade20k/1_128, 20052 others) nor in data.splits.unlabeled (b.txt, 19894 images); use both lists of one "
        "split, or remove data.splits.unlabeled (all other images are then unlabeled), or set data.splits.partial: "
        "true to leave images out"
    )
    allowed = NAMED.model_copy(update={"partial": True})
    assert pair_problems(allowed, lists_known | ade_pair(128, 64), ADE) == []


def test_val_images_and_images_in_no_training_list_are_not_counted():
    ids = {"labeled": ["a"], "unlabeled": ["b", "extra"], "val": ["c"], "train": ["a", "b", "c"]}
    assert pair_problems(NAMED, ids, ["a", "b", "c", "d", "extra"]) == []
    (problem,) = pair_problems(NAMED, ids | {"unlabeled": ["extra"]}, [])
    assert problem.startswith("1 of the 3 training images are neither in")


def test_without_a_training_list_images_that_are_not_used_are_logged(caplog):
    with caplog.at_level("INFO"):
        assert pair_problems(NAMED, {"labeled": ["a"], "unlabeled": ["b"], "val": ["c"]}, "abcde") == []
    assert "2 images are in no list and are not used, e.g. d" in caplog.text


def test_the_problems_of_a_data_set_are_found(tmp_path, make_settings):
    root = tmp_path / "data"
    for split, names in {"training": "abcd", "validation": "v"}.items():
        for folder, ending in (("images", "jpg"), ("annotations", "png")):
            (root / folder / split).mkdir(parents=True)
            for name in names:
                (root / folder / split / f"{name}.{ending}").touch()
    (root / "l.txt").write_text("a\n")
    (root / "u.txt").write_text("b\nc\n")
    lists = {"data.layout": "ade20k", "splits.labeled": "l.txt", "splits.unlabeled": "u.txt"}
    none = {"splits.num_labeled": None, "splits.num_val": None}
    (problem,) = find_samples(make_settings(**lists, **none).data)[1]
    assert problem.startswith("1 of the 4 training images are neither in data.splits.labeled (l.txt, 1 images) nor")
    (root / "u.txt").write_text("a\nb\nc\nd\n")
    (root / "l.txt").write_text("a\nb\n")
    (problem,) = find_samples(make_settings(**lists, **none).data)[1]
    assert problem.startswith("2 images are both in labeled and in unlabeled, e.g. a; remove them from one of")
    (root / "u.txt").write_text("c\nd\n")
    assert find_samples(make_settings(**lists, **none).data)[1] == []
