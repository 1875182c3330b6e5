"""Zips: what is unpacked, what is refused, and that no changed byte gives other content or a traceback."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import DatasetError
from pipeline.sources.annotations import cvat_masks
from pipeline.sources.annotations.archive import FREE_BYTES, unpack

LABEL = np.array([[0, 1, 2], [2, 2, 1]], np.uint8)
COLOURS = np.array([(0, 0, 0), (9, 9, 9), (70, 0, 0)], np.uint8)
LABEL_MAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:9,9,9::\ndog:70,0,0::\n"


def packed(entries, method=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return content.getvalue()


def unpacked(tmp_path, content, num_pixels=6):
    """Content by name of the files that are unpacked."""
    (tmp_path / "task.zip").write_bytes(content)
    folder = tmp_path / "out"
    folder.mkdir()
    unpack(tmp_path / "task.zip", folder, num_pixels)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def picture():
    content = io.BytesIO()
    Image.fromarray(COLOURS[LABEL]).save(content, format="PNG")
    return content.getvalue()


def test_masks_and_annotations_are_unpacked_and_the_files_of_macos_and_others_are_not(tmp_path):
    wanted = {"labelmap.txt": b"a", "SegmentationClass/a.PNG": b"b", "x/y.json": b"{}"}
    left = ("__MACOSX/SegmentationClass/._a.png", "._labelmap.txt", ".git/a.txt", "images/a.jpg", "run.sh", "empty/")
    content = packed([*wanted.items(), *((name, b"c") for name in left)])
    assert unpacked(tmp_path, content) == wanted


def test_jpegs_are_unpacked_where_nothing_else_can_be_the_masks(tmp_path):
    masks = {"masks/a.jpg": b"a", "masks/b.JPEG": b"b"}
    assert unpacked(tmp_path, packed([*masks.items(), ("._a.jpg", b"c"), ("run.sh", b"d")])) == masks


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_method_of_python_is_read(tmp_path, method):
    assert unpacked(tmp_path, packed([("a.txt", b"text" * 99)], method)) == {"a.txt": b"text" * 99}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["../a.png"], "has the entry '../a.png', a file outside the zip"),
        (["x/../../a.png"], "a file outside the zip"),
        (["/etc/a.txt"], "has the entry '/etc/a.txt', a file outside the zip"),
        (["a\n.txt"], r"has the entry 'a\\n.txt'"),
        pytest.param(["a.png", "a.png"], "'a.png' twice", marks=pytest.mark.filterwarnings("ignore:Duplicate name")),
        (["x/a.png", "x//a.png"], "'x//a.png' twice"),
    ],
)
def test_names_outside_the_folder_and_double_names_are_refused(tmp_path, names, message):
    with pytest.raises(DatasetError, match=message):
        unpacked(tmp_path, packed([(name, b"x") for name in names]))
    assert not list((tmp_path / "out").iterdir())
    assert not (tmp_path / "a.png").exists()


def changed_header(content, offset, value):
    """The zip of one entry with two bytes changed in its local header and in its central one (2 bytes further)."""
    content = bytearray(content)
    central = content.index(b"PK\x01\x02")
    for start in (offset, central + offset + 2):
        content[start : start + 2] = value.to_bytes(2, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (6, 1, r"task.zip is encrypted \('a.txt'\); unpack it, and give the folder instead"),
        (8, 9, r"uses the compression method 9 \('a.txt'\)"),
        (8, 97, r"uses the compression method 97 \('a.txt'\)"),
        (22, 3, r"is not a complete zip"),  # it announces 3 bytes; the checksum is that of all
    ],
)
def test_encrypted_zips_other_methods_and_wrong_sizes_are_refused(tmp_path, offset, value, message):
    content = packed([("a.txt", b"a long text")])
    with pytest.raises(DatasetError, match=message):
        unpacked(tmp_path, changed_header(content, offset, value))


@pytest.mark.parametrize("num_pixels", [6, FREE_BYTES])
def test_a_zip_that_unpacks_to_much_more_than_masks_need_is_refused_before_unpacking(tmp_path, num_pixels):
    half = bytes(FREE_BYTES // 2)
    content = packed([("a.png", half), ("b.png", half), ("c.png", half)])
    with pytest.raises(DatasetError, match=r"would unpack to 0.1 GB from 0.000 GB, much more than masks of the run's"):
        unpacked(tmp_path, content, num_pixels)
    assert not list((tmp_path / "out").iterdir())


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_changed_byte_gives_another_label_or_a_traceback(tmp_path_factory, data):
    """A task of CVAT with some bytes of the zip changed, removed or added: its label as it was, or an error."""
    content = bytearray(packed([("labelmap.txt", LABEL_MAP), ("SegmentationClass/im.png", picture())]))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    folder = tmp_path_factory.mktemp("zip")
    try:
        unpacked(folder, content)
        found = [image.draw(LABEL.shape).mask - 1 for image in cvat_masks.read(folder / "out").images]
    except (DatasetError, OSError):  # import-masks gives both in one line
        return
    assert all(np.array_equal(label, LABEL) for label in found)
