"""Text files of any program: byte order marks, line ends, and files that are no text."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DatasetError
from pipeline.text import read_lines, read_text

MARKED = [
    ("utf-8", b""), ("utf-8", codecs.BOM_UTF8), ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE),
    ("utf-32-le", codecs.BOM_UTF32_LE), ("utf-32-be", codecs.BOM_UTF32_BE),
]  # fmt: skip
LINES = st.lists(
    st.text(st.characters(exclude_characters="\n\r\0\ufeff", exclude_categories=["Cs"]), min_size=1), min_size=1
)


@given(LINES, st.sampled_from(MARKED), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_lines_are_the_same_in_every_encoding_and_with_every_line_end(tmp_path_factory, lines, marked, end, is_ended):
    encoding, mark = marked
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(mark + (end.join(lines) + (end if is_ended else "")).encode(encoding))
    assert read_lines(path) == lines


def test_marks_inside_joined_files_are_left_out_and_empty_lines_are_kept(tmp_path):
    (tmp_path / "joined.txt").write_bytes("\ufeffa\n\n\ufeffb\n".encode())
    assert read_lines(tmp_path / "joined.txt") == ["a", "", "b"]
    (tmp_path / "empty.txt").touch()
    assert read_lines(tmp_path / "empty.txt") == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a\r\nb\xe9c", r"byte 0xe9 in line 2\); save it as UTF-8 text"),
        ("a\nb".encode("utf-16-le"), r"a zero byte in line 1, as in UTF-16 without a byte order mark\); save it"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "byte 0x89 in line 1"),
        (codecs.BOM_UTF16_LE + b"a\0b", "is not a text file"),
    ],
)
def test_a_file_that_is_no_text_is_refused_with_the_line(tmp_path, content, reason):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=reason):
        read_text(tmp_path / "list.txt")


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path):
    with pytest.raises(DatasetError, match=r"gone.txt cannot be read \(No such file or directory\); correct its path"):
        read_lines(tmp_path / "gone.txt")
