"""SBD and VOC: which mask is used, the list train_aug, and resuming after an interruption."""

import numpy as np
import pytest
from click.testing import CliRunner
from killed_writer import leave_half_written
from PIL import Image
from scipy.io import savemat

from pipeline.__main__ import main
from pipeline.errors import DatasetError
from pipeline.sources.convert_masks import convert_sbd
from pipeline.sources.convert_masks.png import write_mask

LISTS = {"train": ["2007_1", "2007_2"], "val": ["2007_3", "2008_5"]}
SBD_IDS = ["2007_2", "2008_4", "2008_5"]  # one of VOC's train, one of its own, one of VOC's val


@pytest.fixture
def folders(tmp_path):
    sbd, voc = tmp_path / "benchmark_RELEASE", tmp_path / "VOC2012"
    (sbd / "dataset/cls").mkdir(parents=True)
    for number, sample_id in enumerate(SBD_IDS):
        mask = np.full((3, 4), 10 + number, np.uint8)
        content = {"GTcls": {"Boundaries": np.zeros(20), "Segmentation": mask, "CategoriesPresent": [[10 + number]]}}
        savemat(sbd / f"dataset/cls/{sample_id}.mat", content, do_compression=True)
    (voc / "SegmentationClass").mkdir(parents=True)
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    for name, ids in LISTS.items():
        (voc / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(ids) + "\n")
        for sample_id in ids:
            write_mask(voc / f"SegmentationClass/{sample_id}.png", np.full((3, 4), 255, np.uint8))
    return sbd, voc


def test_masks_of_voc_are_used_first_and_those_of_sbd_are_added(folders):
    folder = convert_sbd(*folders)
    values = {path.stem: np.unique(np.asarray(Image.open(path))).tolist() for path in folder.glob("*.png")}
    assert values == {"2007_1": [255], "2007_2": [255], "2007_3": [255], "2008_4": [11], "2008_5": [255]}
    assert Image.open(folder / "2008_4.png").mode == "P"
    assert (folder / "2007_2.png").read_bytes() == (folders[1] / "SegmentationClass/2007_2.png").read_bytes()


def test_the_list_contains_train_and_sbd_but_nothing_of_val(folders):
    convert_sbd(*folders)
    listed = (folders[1] / "ImageSets/Segmentation/train_aug.txt").read_text().split()
    assert listed == ["2007_1", "2007_2", "2008_4"]


def test_any_folder_of_the_archive_may_be_given(folders):
    sbd, voc = folders
    for folder in (sbd.parent, sbd, sbd / "dataset", sbd / "dataset/cls"):
        assert len(list(convert_sbd(folder, voc).glob("*.png"))) == 5


def test_existing_masks_are_kept(folders):
    folder = convert_sbd(*folders)
    (folder / "2008_4.png").write_bytes(b"from before")
    (folder / "2007_1.png").unlink()
    leave_half_written(folder / "2007_1.png")
    convert_sbd(*folders)
    assert (folder / "2008_4.png").read_bytes() == b"from before"
    assert (folder / "2007_1.png").is_file()
    assert not list(folder.glob("*.part*"))


def test_missing_and_damaged_files_are_named(folders, tmp_path):
    sbd, voc = folders
    with pytest.raises(DatasetError, match=r"no folder dataset/cls in .*; give the path of benchmark_RELEASE"):
        convert_sbd(voc, voc)
    with pytest.raises(DatasetError, match=r"SegmentationClass contains no \*.png; unpack VOCtrainval"):
        convert_sbd(sbd, tmp_path)
    (sbd / "dataset/cls/2008_4.mat").write_bytes(b"hello")
    with pytest.raises(DatasetError, match=r"2008_4\.mat cannot be read as a mask of SBD"):
        convert_sbd(sbd, voc)
    savemat(sbd / "dataset/cls/2008_4.mat", {"GTinst": 1})
    with pytest.raises(DatasetError, match=r"2008_4\.mat cannot be read as a mask of SBD"):
        convert_sbd(sbd, voc)
    (voc / "ImageSets/Segmentation/val.txt").unlink()
    (sbd / "dataset/cls/2008_4.mat").unlink()
    with pytest.raises(DatasetError, match=r"no id list .*val\.txt"):
        convert_sbd(sbd, voc)


def test_the_command_judges_the_list(folders):
    result = CliRunner().invoke(main, ["convert-sbd", *map(str, folders)])
    assert result.exit_code == 0
    assert "no published split" in result.output
    assert "masks: SegmentationClassAug" in result.output


def test_the_palette_is_that_of_voc(tmp_path):
    write_mask(tmp_path / "a.png", np.arange(256, dtype=np.uint8).reshape(16, 16))
    image = Image.open(tmp_path / "a.png")
    colours = np.array(image.getpalette()).reshape(-1, 3)
    assert (np.asarray(image).ravel() == np.arange(256)).all()
    assert colours[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
