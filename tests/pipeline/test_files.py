"""Files that are written whole or not at all."""

import json
import math

import pytest
from killed_writer import leave_half_written
from unprivileged import without_privileges

from pipeline.files import files_in, is_file, remove_leftovers, replacing, replacing_folder, write_json, write_text


def test_an_error_while_writing_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "folder/file.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "begins well, but \ud800 has no bytes")
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


def test_what_json_has_no_number_for_becomes_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": [math.nan, (1.5, math.inf)], "b": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, [1.5, None]], "b": 2}


def test_endings_count_in_any_case(tmp_path):
    for name in ("b.JPG", "a.png", "c.txt", "d.png.part1"):
        (tmp_path / name).touch()
    assert [path.name for path in files_in(tmp_path, (".jpg", ".png"))] == ["a.png", "b.JPG"]


def test_hidden_files_and_folders_of_a_mac_do_not_count(tmp_path):
    for name in ("a.png", "._a.png", "deep/b.png", ".trash/c.png", "__MACOSX/._a.png", "__MACOSX/d.png", "e.png/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    hidden = tmp_path / ".trash"
    assert files_in(tmp_path, (".png",)) == [tmp_path / "a.png"], "a folder e.png is no file"
    below = [str(path.relative_to(tmp_path)) for path in files_in(tmp_path, (".png",), below=True)]
    assert below == ["a.png", "deep/b.png", "e.png/f.png"]
    assert files_in(hidden, (".png",)) == [hidden / "c.png"], "the folder itself may be hidden"
    assert files_in(tmp_path / "gone", (".png",)) == []


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "student"

    def replace(text, fails=False):
        with replacing_folder(path) as part:
            part.mkdir()
            (part / text).write_text(text)
            if fails:
                raise OSError("no space left")

    replace("one")
    with pytest.raises(OSError, match="no space left"):
        replace("two", fails=True)
    assert [file.name for file in path.iterdir()] == ["one"]
    (tmp_path / "student.part").mkdir()  # of a process that was killed
    replace("three")
    assert [file.name for file in path.iterdir()] == ["three"]
    assert [file.name for file in tmp_path.iterdir()] == ["student"]


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_is_not(tmp_path):
    lists = [tmp_path / "train.txt", tmp_path / "val.txt", tmp_path / "deep/a.txt"]
    of_train, of_val, deep = leave_half_written(*lists)
    (tmp_path / "letter.part2-3.txt").write_text("no temporary file")
    with replacing(tmp_path / "train.txt") as ours:
        ours.write_text("being written")
        write_text(tmp_path / "val.txt", "whole")
        assert not of_val.exists(), "the next write of the same file removes it"
        assert of_train.exists(), "another file may have been written by another command"
        remove_leftovers(tmp_path)
        assert not of_train.exists()
        assert ours.exists()
        assert deep.exists(), "sub-folders only if asked for"
        remove_leftovers(tmp_path, below=True)
        assert not deep.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"train.txt", "val.txt", "deep", "letter.part2-3.txt"}
    remove_leftovers(tmp_path / "missing")


def test_a_folder_without_permissions_is_not_empty_and_its_files_are_not_missing(tmp_path):
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "a.png").touch()
    deep.chmod(0)
    with without_privileges():
        with pytest.raises(PermissionError, match="deep"):
            files_in(tmp_path, (".png",), below=True)
        with pytest.raises(PermissionError, match="deep"):
            is_file(deep / "a.png")
    deep.chmod(0o755)
    assert files_in(tmp_path, (".png",), below=True) == [deep / "a.png"]
    assert [is_file(path) for path in (deep / "a.png", deep, deep / "b.png", deep / "a.png/c", f"{deep}/\0")] == [
        *(True, False, False, False, False)
    ]


def test_an_old_folder_that_cannot_be_removed_is_named_and_goes_with_the_next_call(tmp_path):
    path, going = tmp_path / "student", tmp_path / "student.going"
    (path / "locked").mkdir(parents=True)
    (path / "locked/weights").write_text("old")
    (path / "locked").chmod(0o555)
    with without_privileges(), pytest.raises(PermissionError) as error, replacing_folder(path) as part:
        (part / "new").mkdir(parents=True)
    assert error.value.filename == str(going / "locked/weights")
    assert [entry.name for entry in path.iterdir()] == ["new"], "whole, and not half of the old one"
    (going / "locked").chmod(0o755)
    with replacing_folder(path) as part:
        part.mkdir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["student"]
