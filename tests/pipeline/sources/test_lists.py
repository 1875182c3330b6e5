"""Id lists as people and programs write them, read against the names that made them."""

import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DatasetError
from pipeline.files import normal
from pipeline.init.classes import read_class_list
from pipeline.sources import find_samples
from pipeline.sources.lists import Entry, read_list

NAMES = st.text("ab1 #,;()é\\'\"-.", min_size=1, max_size=8).filter(
    lambda name: name.strip(" ") == name and name.strip(".")
)
FORMS = st.sampled_from(["NFC", "NFD"])
KINDS = st.sampled_from(["id", "path", "pair with a tab", "pair with a space", "unlabeled"])
COMMENTS = st.sampled_from(["", " # z", "\t#z z.png", "   "])


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_every_line_is_read_as_the_names_that_made_it(data):
    with tempfile.TemporaryDirectory() as folder:
        check_a_list(Path(folder), data)


def check_a_list(root, data):
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    names = data.draw(st.lists(NAMES, min_size=1, max_size=4, unique_by=normal))
    lines, expected = ["# z", "", "  #z"], []
    for name in names:
        on_disk, in_list, kind = data.draw(FORMS), data.draw(FORMS), data.draw(KINDS)
        stored, written = (unicodedata.normalize(form, name) for form in (on_disk, in_list))
        image, mask = root / f"images/{stored}.png", root / f"masks/{stored}.png"
        image.touch()
        mask.touch()
        slash = data.draw(st.sampled_from("/\\")) if "\\" not in name else "/"
        lines.append(
            {
                "id": written,
                "path": f"images{slash}{written}.png",
                "pair with a tab": f"images{slash}{written}.png\tmasks{slash}{written}.png",
                "pair with a space": f"images{slash}{written}.png  masks{slash}{written}.png",
                "unlabeled": f"images{slash}{written}.png None",
            }[kind]
            + data.draw(COMMENTS)
        )
        entry = Entry(normal(name), None if kind == "id" else image)
        if kind not in ("id", "path"):
            entry = entry._replace(mask=None if kind == "unlabeled" else mask, names_mask=True)
        expected.append(entry)
    encoding, end = (
        data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])),
        data.draw(st.sampled_from(["\n", "\r", "\r\n"])),
    )
    (root / "list.txt").write_bytes(end.join(lines).encode(encoding))
    assert read_list(root / "list.txt", root, {normal(name) for name in names}) == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("images/a.png,masks/a.png", "comma or semicolon; write one image per line, with a space or tab before"),
        ("images/a.png, masks/a.png", "comma or semicolon"),
        ("a;b", "comma or semicolon"),
        (r"C:\images\a.png C:\masks\a.png", "has a drive of Windows; write paths relative to the folder of the data"),
        ('"images/a.png"', "is in quotes; remove them"),
        ("'a'", "is in quotes"),
        ("images/a\x07.png", "control characters"),
        ("a -1", "'a -1' is no image, but a is; remove the rest of the line"),
        ("images/x.png y.png z.png", "can be read in several ways; put a tab between image and mask"),
    ],
)
def test_a_line_of_another_format_is_refused_with_its_cause_and_number(tmp_path, line, reason):
    (tmp_path / "list.txt").write_text(f"a\n{line}\n")
    with pytest.raises(DatasetError, match=rf"list.txt line 2: .*{reason}"):
        read_list(tmp_path / "list.txt", tmp_path, {"a"})


def test_a_name_that_no_file_can_have_is_a_problem_of_its_line(tmp_path, write_images, make_settings):
    write_images(tmp_path / "data", "abcd")
    (tmp_path / "data/labeled.txt").write_text(f"a\n{'x' * 5000}\nimages/{'y' * 5000}.png {'z' * 5000}.png\n")
    _, problems = find_samples(make_settings(**{"splits.labeled": "labeled.txt"}).data)
    assert ["has no file" in problem for problem in problems[:2]] == [True, True]


@pytest.mark.parametrize("ending", [".png", "_mask.png"])
def test_images_masks_and_lists_match_by_normal_form(tmp_path, make_settings, ending):
    root, mac = tmp_path / "data", lambda text: unicodedata.normalize("NFD", text)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i in range(6):
        (root / f"images/és{i}.png").touch()
        (root / "masks" / mac(f"és{i}{ending}")).touch()
    (root / "labeled.txt").write_text(mac(f"és1\nimages/és2.png masks/és2{ending}\n"))
    lists = {"splits.labeled": "labeled.txt", "splits.num_labeled": None, "splits.num_val": 1}
    samples, problems = find_samples(make_settings(mask_ending=ending if ending[0] == "_" else None, **lists).data)
    assert problems == []
    labeled = [sample for sample in samples if sample.split == "labeled"]
    assert [sample.id for sample in labeled] == ["és1", "és2"]
    assert all((root / sample.image).is_file() and (root / sample.mask).is_file() for sample in labeled)


def test_two_files_with_equal_names_in_other_characters_are_refused(tmp_path, write_images, make_settings):
    write_images(tmp_path / "data", ["a", "b", unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")])
    _, problems = find_samples(make_settings().data)
    assert any("have the same stem é, written with other Unicode characters; rename" in p for p in problems)


PIECES = st.sampled_from(["a", ".png", " ", "\t", "\n", "/", "#", ",", "..", "None", "\ufeff", "é", "=", ":", "1"])
BYTES = st.binary(max_size=60) | st.lists(PIECES, max_size=20).map(lambda words: "".join(words).encode())


@given(BYTES)
@settings(max_examples=60, deadline=None)
def test_any_file_is_a_list_or_refused_in_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    for read in (lambda: read_list(path, path.parent, {"a"}), lambda: read_class_list(path)):
        try:
            message = "" if isinstance(read(), list) else "no list"
        except DatasetError as error:
            message = str(error)
        assert "\n" not in message
        assert not message or "; " in message
