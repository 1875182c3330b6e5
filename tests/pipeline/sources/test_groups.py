"""The group of each image: from ids, from CSV files as other programs write them, and what is refused."""

import pytest

from pipeline.datasets import Sample, in_groups, num_groups, units_of
from pipeline.errors import ConfigError
from pipeline.sources import find_samples
from pipeline.sources.groups import group_warnings, with_groups

IDS = ["0001TP_006690", "0001TP_006720", "Seq05VD_f00000", "0016E5_00390"]
VIDEOS = ["0001TP", "0001TP", "Seq05VD", "0016E5"]


@pytest.fixture
def grouped(tmp_path, make_settings):
    """Groups of IDS, and messages, with these settings."""

    def group(groups, ids=IDS):
        data = make_settings(**{"data.groups": groups}).data
        samples, problems = with_groups([Sample(i, f"{i}.png", None, "unlabeled") for i in ids], data)
        return [sample.group for sample in samples], problems

    (tmp_path / "data").mkdir()
    return group


def test_the_group_is_the_first_capture_group_or_the_whole_match(grouped):
    assert grouped("^[^_]+") == (VIDEOS, [])
    assert grouped(r"^(.*?)_f?\d+$") == (VIDEOS, [])
    assert grouped(r"_f?\d(\d)") == (["0", "0", "0", "0"], [])


def test_without_the_setting_each_image_is_on_its_own(grouped):
    assert grouped(None) == ([""] * 4, [])
    samples = [Sample(i, i, None, "unlabeled") for i in IDS]
    assert units_of(samples).tolist() == [0, 1, 2, 3]
    assert num_groups(samples) is None


def test_an_id_that_does_not_match_is_refused_with_its_name(grouped):
    assert grouped(r"^\d+") == (
        [""] * 4,
        [
            r"data.groups '^\\d+' finds no group in the id of image Seq05VD_f00000; change the expression, or list ids "
            "and groups in a CSV file, and set data.groups to its name"
        ],
    )
    _, (message,) = grouped("^x?", IDS)  # an empty match is no group
    assert "in the id of images 0001TP_006690, 0001TP_006720, Seq05VD_f00000" in message


LINES = [f"{i}{{0}}{group}" for i, group in zip(IDS, VIDEOS, strict=True)]


@pytest.mark.parametrize("separator", [",", ";", "\t", ", ", " ; "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("head", ["", "id{0}group", "\ufeffID{0}Group"])
def test_csv_files_of_other_programs(tmp_path, grouped, separator, end, head):
    lines = [*([head] if head else []), *LINES, ""]
    (tmp_path / "data/groups.csv").write_bytes(end.join(line.format(separator) for line in lines).encode())
    assert grouped("groups.csv") == (VIDEOS, [])


def test_quoted_names_may_contain_the_separator(tmp_path, grouped):
    (tmp_path / "data/groups.csv").write_text('id,group\n"a,1","the first, in May"\nb,x\n')
    assert grouped("groups.csv", ["a,1", "b"]) == (["the first, in May", "x"], [])


@pytest.mark.parametrize(
    ("content", "message"),
    {
        "id,group\na,x\n": r"data.groups groups.csv has no line for image b; add a line with the id and its group",
        "a,x\na,y\nb,z\n": r"groups.csv line 2: a is in the groups x and y; remove one of the lines",
        "a,x\nb\n": r"groups.csv line 2: expected an image id and its group, separated by ',', got 'b'; write one",
        "a,x\nb,\n": r"groups.csv line 2: expected an image id and its group",
        "a,x,y\nb,z,y\n": r"groups.csv line 1: expected an image id and its group",
    }.items(),
)
def test_refuses_a_list_without_one_group_for_each_image(tmp_path, grouped, content, message):
    (tmp_path / "data/groups.csv").write_text(content)
    groups, problems = grouped("groups.csv", ["a", "b"])
    assert groups == ["", ""]
    assert message in problems[0]


def test_refuses_a_list_that_does_not_exist_and_an_expression_that_is_none(grouped):
    assert "no list of groups" in grouped("none.csv")[1][0]
    with pytest.raises(ConfigError, match=r"groups '\(' is no regular expression .* and no CSV file .*; correct it"):
        grouped("(")


def samples_in(**groups):
    """Samples of a split, one for each letter, which is its group."""
    return [
        Sample(f"{split}{i}", "", None, split, group=g) for split, text in groups.items() for i, g in enumerate(text)
    ]


def test_warns_of_a_single_group_of_few_groups_and_of_groups_that_also_judge():
    assert group_warnings(samples_in(labeled="abcdefghij", unlabeled="kk", val="xx")) == []
    (one,) = group_warnings(samples_in(labeled="aaa", unlabeled="bcd"))
    assert one.startswith("ALL 3 LABELED IMAGES ARE OF ONE GROUP, a: nothing can be held out")
    few, both = group_warnings(samples_in(labeled="aabbc", unlabeled="x", val="bcy"))
    assert few.startswith(
        "the 5 labeled images are of 3 groups only: intervals from fewer than 10 groups are too narrow"
    )
    assert both.startswith("2 of 3 groups of val images have training images, too (b, c)")


def test_numbers_in_words():
    assert in_groups(46, None) == "46 labeled images"
    assert in_groups(46, 3) == "46 labeled images in 3 groups"
    assert in_groups(1, 1, "unlabeled") == "1 unlabeled image in 1 group"


def test_val_images_are_drawn_in_whole_groups_and_no_other_image_of_them_is_used(tmp_path, write_images, make_settings):
    ids = [f"{video}{i}" for video in "abcdef" for i in range(4)]
    write_images(tmp_path / "data", ids, masked=[i for i in ids if i[1] != "3"])
    splits = {"data.splits.num_labeled": None, "data.splits.num_val": 4}
    drawn = set()
    for seed in range(5):
        data = make_settings(**splits, **{"data.groups": "^.", "data.splits.seed": seed}).data
        samples, problems = find_samples(data)
        assert problems == []
        videos = {
            split: {one.group for one in samples if one.split == split} for split in ("labeled", "unlabeled", "val")
        }
        assert len(videos["val"]) == 2
        assert not videos["val"] & (videos["labeled"] | videos["unlabeled"])
        assert sum(one.split == "val" for one in samples) == 6  # all of the two videos that have a mask
        assert len(samples) == 6 + 4 * 4
        drawn.add(frozenset(videos["val"]))
        assert group_warnings(samples) == [group_warnings(samples)[0]]  # of few groups, not of val groups in training
    assert len(drawn) > 1


def test_refuses_to_draw_val_images_if_that_leaves_no_group_with_masks(tmp_path, write_images, make_settings):
    write_images(tmp_path / "data", [f"frame{i}" for i in range(6)])
    settings = make_settings(**{"data.groups": "^frame", "data.splits.num_labeled": None, "data.splits.num_val": 2})
    _, problems = find_samples(settings.data)
    assert problems[0] == (
        "all images with masks are in the groups of the 6 val images that were drawn; list val images in "
        "data.splits.val, or set data.groups to smaller groups"
    )
