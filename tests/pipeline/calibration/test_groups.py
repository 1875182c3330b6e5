"""A run whose images are in groups: no group is divided, and the number of groups is shown beside that of images."""

import logging
import shutil

import numpy as np
import pytest
from stage_runs import STAGES, run_stages
from tiny_run import write_run_file, write_sample_files

import calib
from pipeline.calibration.cross_fitting import labeled_maps
from pipeline.errors import ConfigError
from pipeline.inspect import format_summary, inspect_store
from pipeline.receipt import read_receipt
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.store import open_calibration

IDS = [f"{video}_{i:02}" for video in "abcdefgh" for i in range(3)]
SPLITS = {"data.splits.num_labeled": 18, "data.splits.num_val": None, "data.splits.val": "val.txt"}
GUARANTEED = SPLITS | {
    "data.groups": "^.",
    "rule": "auto",
    "guarantee": {"precision": 0.1, "confidence": 0.9},
    "alphas": [0.3],
    "variants": ["image"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run file, calibrated and labeled with groups."""
    folder = tmp_path_factory.mktemp("groups")
    write_sample_files(folder / "data", IDS)
    (folder / "data/val.txt").write_text("a_00\nb_00\n")
    path = write_run_file(folder)
    run_stages(load_settings(path, GUARANTEED))
    return path


@pytest.fixture
def settings(run):
    return load_settings(run, GUARANTEED)


def receipt(settings, stage):
    return read_receipt(settings.folder / f"{stage}.json", stage)


def videos_of(index, split="labeled"):
    return {sample.id[0] for sample in index.of(split)}


def test_no_group_is_in_two_folds(settings):
    store = open_calibration(settings.folder / "calibration.zarr")
    fold = np.asarray(store.array("fold")[:])
    folds_of = {video: set(fold[[i[0] == video for i in store.sample_ids]].tolist()) for video in "abcdefgh"}
    assert all(len(folds) <= 1 for folds in folds_of.values())
    assert len(set(fold.tolist())) == len(videos_of(Run(settings).samples()))
    assert (labeled_maps(settings, store).unit_of_image == calib.number_units([i[0] for i in store.sample_ids])).all()


def test_log_receipts_and_inspect_show_the_number_of_groups(settings, caplog):
    index = Run(settings).samples()
    num = len(videos_of(index))
    calibrated, labels = receipt(settings, "calibrate"), receipt(settings, "pseudolabel")
    assert receipt(settings, "prepare")["num_groups"]["labeled"] == num
    assert (calibrated["held_out"]["num_images"], calibrated["held_out"]["num_groups"]) == (18, num)
    images = f"18 labeled images in {num} groups"
    assert f"of the labels of new groups like those of the {images} are right" in labels["guarantee"]
    assert f"95 % interval over {images} " in labels["verdict"]
    num_unlabeled = len(videos_of(index, "unlabeled"))
    assert labels["shift"]["num_groups"] == {"labeled": num, "unlabeled": num_unlabeled}
    text = format_summary(inspect_store(settings.folder / "calibration.zarr"))
    assert f"{images} in {num} folds; [95 % interval over groups]" in text
    with caplog.at_level(logging.INFO):
        run_stages(settings, "calibrate", "pseudolabel")
    assert caplog.text.count(images) >= 4  # guarantee and verdict, of both stages


@pytest.mark.slow
def test_a_refused_guarantee_counts_groups(run):
    strict = load_settings(run, GUARANTEED | {"guarantee": {"precision": 0.6, "confidence": 0.9}, "name": "strict"})
    run_stages(strict, "prepare", "annotate")
    with pytest.raises(
        ConfigError, match=r"18 labeled images in \d groups do not show a precision of 0.6 .* more groups"
    ):
        STAGES["calibrate"](strict)


@pytest.mark.slow
def test_other_groups_make_other_estimates_and_the_same_labels_of_a_plain_rule(run):
    plain = SPLITS | {"rule": "paper", "alpha": 0.3, "variant": "image"}
    found, first = {}, load_settings(run, GUARANTEED)
    for name, groups in {"alone": None, "videos": "^.", "whole": "_"}.items():
        settings = load_settings(run, plain | {"data.groups": groups, "name": name})
        shutil.copytree(first.folder / "probs.zarr", settings.folder / "probs.zarr")  # annotate finds every map
        run_stages(settings, *(STAGES if name == "whole" else ("prepare", "annotate", "calibrate")))
        found[name] = settings
    (alone, videos, whole) = (receipt(settings, "calibrate") for settings in found.values())
    assert len({one["fingerprint"] for one in (alone, videos, whole)}) == 3
    q_hats = [open_calibration(one.folder / "calibration.zarr").q_hat(0.3) for one in found.values()]
    assert all(np.array_equal(q_hats[0], q_hat) for q_hat in q_hats)
    assert videos["held_out"]["folds"] == videos["held_out"]["num_groups"] < alone["held_out"]["folds"]
    assert alone["held_out"]["num_groups"] is None
    assert whole["held_out"] is None
    (warning,) = (w for w in receipt(found["whole"], "prepare")["warnings"] if "ONE GROUP" in w)
    assert warning.startswith("ALL 18 LABELED IMAGES ARE OF ONE GROUP, _: nothing can be held out")
    assert '"group"' not in (found["alone"].folder / "samples.json").read_text()
    assert receipt(found["whole"], "pseudolabel")["shift"]["num_groups"] == {"labeled": 1, "unlabeled": 1}


def test_a_changed_list_of_groups_is_found(run, tmp_path):
    listed = tmp_path / "groups.csv"
    listed.write_text("".join(f"{i},{i[0]}\n" for i in IDS))
    settings = load_settings(run, SPLITS | {"data.groups": str(listed), "name": "listed"})
    run_stages(settings, "prepare")
    assert not Run(settings).has_other_sources("prepare")
    before = Run(settings).sources("calibrate"), Run(settings).sources("annotate")
    listed.write_text("".join(f"{i},{i[-1]}\n" for i in IDS))
    assert Run(settings).has_other_sources("prepare")
    run_stages(settings, "prepare")
    after = Run(settings).sources("calibrate"), Run(settings).sources("annotate")
    assert before[0] != after[0]
    assert before[1] == after[1]  # no map depends on the groups
