"""CVAT's archive: colours of the label map stand for the store's labels, and archives of CVAT are read as labels."""

import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from label_store import NAMES, NAN, at_own_size, labels_and_sizes, write_label_store
from PIL import Image

from pipeline.errors import DatasetError, StoreError
from pipeline.exchange import export_labels
from pipeline.exchange.incoming import incoming_masks
from pipeline.settings import DataSettings

QUICK = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
DATA = DataSettings(classes=NAMES, background="background")


def read_masks(folder, data):
    return incoming_masks(folder, folder, "cvat", data, {})


def plain_label_map(archive):
    """Labels by colour, read by the format: NAME:R,G,B:parts:actions; # begins a comment."""
    lines = [line for line in archive.read("labelmap.txt").decode().splitlines() if not line.startswith("#")]
    return {tuple(map(int, line.split(":")[1].split(","))): line.split(":")[0] for line in lines}


@QUICK
@given(labels_and_sizes())
def test_every_pixel_has_the_colour_of_its_label(tmp_path_factory, case):
    labels, sizes = case
    folder = export_labels(write_label_store(tmp_path_factory.mktemp("run"), labels, sizes), "cvat").folder
    with zipfile.ZipFile(folder / "annotations.zip") as archive:
        names = plain_label_map(archive)
        listed = archive.read("ImageSets/Segmentation/default.txt").decode().split()
        assert listed == [f"im_{i}" for i in range(len(sizes))]
        for i, size in enumerate(sizes):
            with archive.open(f"SegmentationClass/im_{i}.png") as file, Image.open(file) as picture:
                assert picture.mode == "RGB"
                found = [[names[tuple(pixel)] for pixel in row] for row in np.array(picture).tolist()]
            expected = at_own_size(labels[0, i], size)
            assert found == [["abstain" if k == 255 else NAMES[k] for k in row] for row in expected.tolist()]
        archive.extractall(folder / "unpacked")
    back = {mask.id: mask.read(size) for mask, size in zip(read_masks(folder / "unpacked", DATA), sizes, strict=True)}
    assert all(np.array_equal(back[f"im_{i}"], at_own_size(labels[0, i], size)) for i, size in enumerate(sizes))


@pytest.fixture
def store(tmp_path):
    return write_label_store(tmp_path, np.array([[[[0, 1, NAN]]]], np.float32), [(1, 3)])


def test_the_labels_and_images_of_the_task_are_written_with_the_archive(store, tmp_path):
    folder = export_labels(store, "cvat").folder
    labels = json.loads((folder / "labels.json").read_text())
    assert [label["name"] for label in labels] == [*NAMES, "abstain"]
    assert (labels[0]["color"], labels[-1]["color"]) == ("#000000", "#ffffff")
    assert (folder / "images.txt").read_text().split() == [str(tmp_path / "images/im_0.png")]
    assert sorted(path.name for path in folder.iterdir()) == [
        "annotations.zip", "images.txt", "labels.json", "provenance.json",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a:b", "#1", "abstain"])
def test_names_that_a_label_map_cannot_contain_are_refused(tmp_path, name):
    path = write_label_store(tmp_path, np.zeros((1, 1, 1, 1), np.float32), [(1, 1)], names=["background", name])
    with pytest.raises(StoreError, match=f"the class '{name}' cannot be exported to CVAT"):
        export_labels(path, "cvat")
    assert not (tmp_path / "export/cvat").exists()


def write_archive(folder, label_map, pixels, name="im_0.png"):
    path = folder / "SegmentationClass" / name
    path.parent.mkdir(parents=True)
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + label_map)
    Image.fromarray(np.array([pixels], np.uint8)).save(path)


def test_unannotated_pixels_are_background_if_the_run_has_it_and_otherwise_have_no_label(tmp_path):
    write_archive(tmp_path, "background:0,0,0::\ndog:9,8,7::\n", [(0, 0, 0), (9, 8, 7)], name="shots/im_0.png")
    (mask,) = read_masks(tmp_path, DATA)
    assert (mask.id, mask.read((1, 2)).tolist()) == ("im_0", [[0, 2]])
    (mask,) = read_masks(tmp_path, DataSettings(classes=["cat", "dog"]))
    assert mask.read((1, 2)).tolist() == [[255, 1]]


def test_grey_masks_number_the_lines_of_the_label_map(tmp_path):
    write_archive(tmp_path, "dog:9,8,7::\n\nabstain:1,1,1::\ncat:2,2,2::\n", [0, 1, 2])
    (mask,) = read_masks(tmp_path, DATA)
    assert mask.read((1, 3)).tolist() == [[2, 255, 1]]


def test_a_label_map_of_windows_is_read_and_one_in_another_encoding_is_refused(tmp_path):
    write_archive(tmp_path, "dog:9,8,7::\n", [(9, 8, 7)])
    path = tmp_path / "labelmap.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    (mask,) = read_masks(tmp_path, DATA)
    assert mask.read((1, 1)).tolist() == [[2]]
    path.write_bytes(b"caf\xe9:9,8,7::\n")
    with pytest.raises(DatasetError, match=r"labelmap.txt is not a text file in UTF-8 .*save it as UTF-8"):
        read_masks(tmp_path, DATA)


def test_two_labels_of_one_colour_are_refused(tmp_path):
    write_archive(tmp_path, "cat:9,8,7::\ndog:9,8,7::\n", [(9, 8, 7)])
    with pytest.raises(DatasetError, match=r"labelmap.txt gives dog and cat the same colour #090807; change one"):
        read_masks(tmp_path, DATA)


@pytest.mark.parametrize("line", ["cat", "cat:1,2::", "cat:red,green,blue::", "cat:1,2,256::", "cat:1,2,²::"])
def test_a_label_map_without_colours_is_refused(tmp_path, line):
    write_archive(tmp_path, f"{line}\n", [0])
    with pytest.raises(DatasetError, match=f"labelmap.txt has the line '{line}', expected NAME:RED,GREEN,BLUE"):
        read_masks(tmp_path, DATA)
