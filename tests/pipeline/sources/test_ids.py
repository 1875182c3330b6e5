"""Images are found by id, path, or unique stem; a stem that two images have is refused with both."""

import pytest

from pipeline.errors import DatasetError
from pipeline.settings import DataSettings
from pipeline.sources.groups import groups_of
from pipeline.sources.ids import ImageIds
from pipeline.sources.lists import Entry, named_images, read_split

IDS = ["cam1__1", "cam2__1", "cam2__7", "x y.v2"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("cam1__1", ["cam1__1"]),
        ("cam1/1", ["cam1__1"]),
        ("cam1/1.jpg", ["cam1__1"]),
        ("images\\cam1\\1.PNG", ["cam1__1"]),
        ("/data/images/cam2/1.jpg", ["cam2__1"]),
        ("1", ["cam1__1", "cam2__1"]),
        ("1.jpg", ["cam1__1", "cam2__1"]),
        ("7", ["cam2__7"]),
        ("cam1/7", []),
        ("m1/1", []),
        ("x y.v2", ["x y.v2"]),
        ("x y", []),
        ("", []),
    ],
)
def test_names_mean_the_images_whose_paths_end_like_them(name, found):
    assert ImageIds(IDS).named(name) == found


def test_a_list_of_any_kind_may_have_paths_and_unique_stems_and_names_the_candidates_of_others(tmp_path):
    (tmp_path / "ids.txt").write_text("cam2/1\n7\ncam1__1\nelse.jpg\n")
    assert named_images(tmp_path / "ids.txt", IDS) == ["cam2__1", "cam2__7", "cam1__1", "else.jpg"]
    known = {sample_id: Entry(sample_id, tmp_path / sample_id) for sample_id in IDS}
    problems = []
    (tmp_path / "labeled.txt").write_text("cam2/1\n7\ncam1__1\n")
    entries = read_split(tmp_path, "labeled", "labeled.txt", known, problems)
    assert ([entry.id for entry in entries], problems) == (["cam2__1", "cam2__7", "cam1__1"], [])
    (tmp_path / "groups.csv").write_text("cam1/1,a\ncam2/1,b\n7,b\nx y.v2,c\n")
    data = DataSettings(root=str(tmp_path), classes=["a", "b"], groups="groups.csv")
    assert groups_of(IDS, data) == dict(zip(IDS, "abbc", strict=True))

    (tmp_path / "ids.txt").write_text("7\n1\n")
    message = "ids.txt: 1 may be each of cam1__1, cam2__1; write the id of the right one, or its path, e.g. cam1/1"
    with pytest.raises(DatasetError, match=message):
        named_images(tmp_path / "ids.txt", IDS)
    read_split(tmp_path, "labeled", "ids.txt", known, problems)
    assert [problem.endswith(message) for problem in problems] == [True]
