"""Published splits: ADE20K's recipe gives the published fingerprints, and lists are identified by their contents."""

from itertools import pairwise

import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.errors import DatasetError
from pipeline.sources.splits import (
    ADE_DENOMINATORS,
    ADE_TRAIN_IMAGES,
    KNOWN,
    ade_lists,
    fingerprint,
    refuse_others,
    verify,
    write_ade_lists,
)

ADE_NAMES = [f"ADE_train_{i:08d}.jpg" for i in range(1, ADE_TRAIN_IMAGES + 1)]


def invoke(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture(scope="module")
def ade(tmp_path_factory):
    """ADE20K's training images by name alone, and the lists made from them."""
    root = tmp_path_factory.mktemp("ade")
    (root / "images/training").mkdir(parents=True)
    for name in ADE_NAMES:
        (root / "images/training" / name).touch()
    result = invoke("splits", "ade", root, root / "splits")
    assert result.exit_code == 0
    return root, result.output


def test_a_fingerprint_depends_on_the_stems_and_not_on_their_order():
    # printf 'a\nb' | sha1sum
    assert fingerprint(["b", "a"]) == fingerprint(["a", "b"]) == "fcd127ffa101"
    assert fingerprint(["a", "c"]) != fingerprint(["a", "b"])


@pytest.mark.parametrize(
    ("part", "num", "published"),
    [
        (128, 158, "8149a74bb22e"),
        (64, 316, "73c19328dfe0"),
        (32, 632, "63bc2e025739"),
        (16, 1263, "864f60639cf5"),
        (8, 2526, "833a67749da7"),
    ],
)
def test_the_recipe_gives_the_published_lists_of_ade20k(part, num, published):
    labeled, unlabeled = ade_lists(reversed(ADE_NAMES), part)
    assert fingerprint(name.removesuffix(".jpg") for name in labeled) == published
    assert (len(labeled), len(unlabeled)) == (num, ADE_TRAIN_IMAGES - num)
    assert sorted(labeled + unlabeled) == ADE_NAMES


def test_larger_splits_of_ade20k_contain_the_smaller_ones():
    splits = [set(ade_lists(ADE_NAMES, part)[0]) for part in ADE_DENOMINATORS]
    assert all(small < large for small, large in pairwise(splits))


def test_the_command_writes_lists_that_verify_identifies(ade):
    root, output = ade
    assert [line.split()[2] for line in output.splitlines()] == [f"ade20k/1_{part}" for part in ADE_DENOMINATORS]
    first = (root / "splits/1_128/labeled.txt").read_text().splitlines()[0]
    assert first == "images/training/ADE_train_00001609.jpg annotations/training/ADE_train_00001609.png"
    assert (root / "splits/1_128/unlabeled.txt").read_text().splitlines()[0].endswith(".jpg None")
    verdicts = verify([root / "splits/1_8/labeled.txt", root / "splits/1_128/labeled.txt"])
    assert [(v.split, v.is_labeled) for v in verdicts] == [("ade20k/1_8", True), ("ade20k/1_128", True)]
    result = invoke("splits", "verify", root / "splits/1_64", "--expect", "ade20k/1_64")
    assert result.exit_code == 0
    assert "73c19328dfe0     316  ade20k/1_64" in result.output
    assert "19894  ade20k/1_64, the unlabeled images" in result.output


def test_bare_ids_images_and_pairs_have_one_fingerprint(tmp_path):
    labeled, _ = ade_lists(ADE_NAMES, 128)
    stems = [name.removesuffix(".jpg") for name in labeled]
    (tmp_path / "bare.txt").write_text("\n".join(stems))
    (tmp_path / "images.txt").write_text("\n".join(f"images/training/{name}" for name in labeled))
    (tmp_path / "pairs.txt").write_text("\n\n".join(f"a/{name} b/{name}" for name in labeled) + "\n")
    assert {verdict.split for verdict in verify([tmp_path])} == {"ade20k/1_128"}


def test_a_list_of_another_split_ends_with_exit_code_1(ade, tmp_path):
    root, _ = ade
    lines = (root / "splits/1_64/labeled.txt").read_text().splitlines()
    changed = tmp_path / "labeled.txt"
    changed.write_text("\n".join(lines[1:]))
    result = invoke("splits", "verify", changed)
    assert result.exit_code == 0
    assert "315  no published split" in result.output
    result = invoke("splits", "verify", changed, "--expect", "ade20k/1_64")
    assert result.exit_code == 1
    assert "is no published split (315 images, fingerprint" in result.output
    assert "expected ade20k/1_64 (316 images, fingerprint 73c19328dfe0)" in result.output
    result = invoke("splits", "verify", root / "splits/1_64/labeled.txt", "--expect", "ade20k/1_32")
    assert result.exit_code == 1
    assert "labeled.txt is ade20k/1_64 (316 images" in result.output


@pytest.mark.slow
def test_unlabeled_images_are_judged_together_with_the_labeled_ones(ade, tmp_path):
    root, _ = ade
    labeled = (root / "splits/1_64/labeled.txt").read_text()
    unlabeled = (root / "splits/1_64/unlabeled.txt").read_text().splitlines()
    (tmp_path / "labeled.txt").write_text(labeled)
    for others, split in (
        (unlabeled, "ade20k/1_64"),
        (unlabeled[1:], None),
        ([*unlabeled[1:], "images/training/other.jpg None"], None),
        ([*unlabeled[1:], labeled.splitlines()[0]], None),
    ):
        (tmp_path / "unlabeled.txt").write_text("\n".join(others))
        assert [verdict.split for verdict in verify([tmp_path])] == ["ade20k/1_64", split]


def test_the_recipe_refuses_other_images(tmp_path):
    (tmp_path / "images/training").mkdir(parents=True)
    (tmp_path / "images/training/ADE_train_00000001.jpg").touch()
    with pytest.raises(DatasetError, match=r"contains 1 images, expected the 20210 of ADEChallengeData2016"):
        next(write_ade_lists(tmp_path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("paths", "expected", "message"),
    [
        (["missing.txt"], None, "missing.txt is neither a list nor a folder with lists"),
        (["empty"], None, r"empty is neither a list nor a folder with lists \(\*.txt\)"),
        (
            ["list.txt"],
            "voc/91",
            "voc/91 is not a known split; did you mean voc/92.*to one of voc/92, voc/183",
        ),
        (["image.txt"], None, "image.txt is not a text file"),
    ],
)
def test_a_wrong_argument_is_named(tmp_path, paths, expected, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("a\n")
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DatasetError, match=message):
        verify([tmp_path / path for path in paths], expected)


def test_a_verdict_of_another_split_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a\n")
    with pytest.raises(DatasetError, match=r"list\.txt is no published split"):
        refuse_others(verify([tmp_path / "list.txt"]), "voc/92")


def test_the_published_numbers_are_consistent():
    wholes = {"voc": 10582, "ade20k": 20210, "cityscapes": 2975, "coco": 118287}
    for split in KNOWN:
        if split.num_unlabeled:
            assert split.num_labeled + split.num_unlabeled == wholes[split.name.partition("/")[0]], split.name
    assert len({split.fingerprint for split in KNOWN}) == len({split.name for split in KNOWN}) == len(KNOWN)
