"""Proposals of groups: for images that change slowly from number to number, and for no others."""

import numpy as np
import pytest
from PIL import Image

from pipeline.doctor.sequences import neighbour_distances
from pipeline.sources import find_samples


def write_video(root, name, num, seed, still=True):
    """Frames of a landscape that moves by a few pixels; or unrelated landscapes."""
    rng = np.random.default_rng(seed)
    for i in range(num):
        if i == 0 or not still:
            wide = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 20, 3), dtype=np.uint8)).resize((400, 96), 2))
        shift = 5 * i if still else 0
        frame = wide[:, shift : shift + 128]
        Image.fromarray(frame).save(root / f"images/{name}{30 * i:05}.png")
        Image.fromarray(np.full(frame.shape[:2], i % 3, np.uint8)).save(root / f"masks/{name}{30 * i:05}.png")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    return root


SPLITS = {"data.splits.num_labeled": 30, "data.splits.num_val": 6}


def test_the_proposed_lines_for_frames_of_videos_are_those_that_prepare_accepts(folder, only, make_settings):
    for seed, name in enumerate(("seqA_f", "seqB_f", "drive")):
        write_video(folder, name, 24, seed)
    found = only("look alike", **SPLITS)
    assert found.level == "warning"
    assert (
        r"add to the section data of the run file: groups: '^(.*?)\d+$' (3 groups of the 30 labeled images)"
        in found.fix
    )
    assert r"or groups: '^(.*)\d{2}$' (blocks of 100 numbers, " in found.fix
    for groups in (r"^(.*?)\d+$", r"^(.*)\d{2}$"):
        samples, problems = find_samples(make_settings(**SPLITS, **{"data.groups": groups}).data)
        assert problems == []
        assert len({sample.group for sample in samples}) >= 3


def test_numbered_photographs_that_differ_are_no_sequence(folder, findings):
    write_video(folder, "photo", 40, 0, still=False)
    assert not [finding for finding in findings(**SPLITS) if "look alike" in finding.what]


def test_one_long_video_is_proposed_in_blocks_only(folder, only):
    write_video(folder, "frame", 50, 0)
    fix = only("look alike", **SPLITS).fix
    assert r"groups: '^(.*)\d{2}$'" in fix
    assert r"^(.*?)\d+$" not in fix


def test_groups_of_the_settings_are_judged_instead(folder, findings):
    write_video(folder, "frame", 50, 0)
    (folder / "val.txt").write_text("frame00000\n")
    splits = {"data.splits.num_val": None, "data.splits.val": "val.txt", "data.groups": "^frame"}
    found = [str(finding) for finding in findings(**splits)]
    assert not [line for line in found if "look alike" in line]
    assert [line for line in found if "LABELED IMAGES ARE OF ONE GROUP, frame" in line]


def test_distances_by_hand():
    hashes = np.array([0b0000, 0b0001, 0b0111, 0b1111, 0b0000], np.uint64)
    neighbours, others = neighbour_distances(hashes, np.array([True, True, False, True]))
    assert neighbours.tolist() == [1, 2, 4]
    assert others[:5].tolist() == [4, 1, 3, 3, 3]  # each with the one two places before it, around the end
