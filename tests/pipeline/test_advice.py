"""What messages tell the user to do is done, as they write it, and helps."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from advice import command_in, options_in, set_words, settings_in
from click.testing import CliRunner
from label_store import NAN, write_label_store
from PIL import Image
from tiny_run import write_run_file, write_sample_files

from pipeline.__main__ import main
from pipeline.datasets import load_samples
from pipeline.errors import ConfigError
from pipeline.run_file import load_settings

IDS = [f"im{i:02d}" for i in range(12)]


def call(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refusal(*words):
    """The message of a command that refuses its inputs."""
    result = call(*words)
    assert result.exit_code == 1, result.output
    return result.stderr[result.stderr.index("error: ") :]


def accepted(*words):
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    write_sample_files(tmp_path / "data", IDS)
    monkeypatch.chdir(tmp_path)
    return write_run_file(tmp_path)


SETTINGS = [
    ({"stage1.batch_labeled": 4}, "stage1"),
    ({"train.framework": "allspark", "stage1.batch_size": 4}, ""),
    ({"stage2.cutmix": 0.5}, "stage2"),
    ({"stage2.complementary_dropout": True, "stage2.views": 1}, "stage2"),
    ({"stage2.confidence": "conformal"}, ""),
    ({"stage2.lambda_end": 0.0}, "stage2"),
    ({"train.labeled_loss": "ohem", "train.accumulate": 2}, "train"),
]


@pytest.mark.parametrize(("overrides", "section"), SETTINGS)
def test_settings_that_do_not_fit_together_load_with_the_setting_of_the_message(run_file, overrides, section):
    with pytest.raises(ConfigError) as refused:
        load_settings(run_file, overrides)
    load_settings(run_file, overrides | settings_in(str(refused.value), section))


def strange_values(data):
    Image.fromarray(np.full((24, 32), 77, np.uint8)).save(next((data / "masks").iterdir()))


def some_images_in_no_list(data):
    for name, ids in {"train": IDS[:10], "labeled": IDS[:5], "unlabeled": IDS[5:8], "val": IDS[10:]}.items():
        (data / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids))


LISTS = [f"data.splits.{split}={split}.txt" for split in ("train", "labeled", "unlabeled", "val")]
PREPARE = {
    "strange values": (strange_values, []),
    "large images": (lambda data: None, ["data.max_pixels=100"]),
    "lists of some": (some_images_in_no_list, [*LISTS, "data.splits.num_labeled=null", "data.splits.num_val=null"]),
}


@pytest.mark.parametrize("case", PREPARE)
def test_prepare_accepts_what_its_message_tells_to_set(run_file, tmp_path, case):
    change, overrides = PREPARE[case]
    change(tmp_path / "data")
    words = ["prepare", run_file, *(word for override in overrides for word in ("--set", override))]
    accepted(*words, *set_words(refusal(*words)))


def test_images_in_sub_folders_are_read_with_the_setting_of_the_warning(run_file, tmp_path, caplog):
    for kind in ("images", "masks"):
        (tmp_path / f"data/{kind}/more").mkdir()
        shutil.move(tmp_path / f"data/{kind}/{IDS[0]}.png", tmp_path / f"data/{kind}/more")
    accepted("prepare", run_file)
    (warning,) = [line for line in caplog.messages if "sub-folder" in line]
    accepted("prepare", run_file, *set_words(warning))
    assert len(load_samples(tmp_path / "results/tiny/samples.json").samples) == len(IDS)


def test_the_finding_of_doctor_is_gone_with_what_it_tells_to_set(run_file):
    distorted = ["doctor", run_file, "--set", "data.grid=[32, 16]"]
    (finding,) = [line for line in accepted(*distorted).stdout.splitlines() if "aspect ratio" in line]
    assert "aspect ratio" not in accepted(*distorted, *set_words(finding)).stdout


@pytest.fixture
def store(tmp_path):
    return write_label_store(tmp_path, np.array([[[[0, 1], [2, NAN]]]]), [(4, 6)])


def test_export_takes_what_its_messages_name(store, tmp_path):
    words = ["export", store, "--out", tmp_path / "out", "--to"]
    for name in re.search(r"use one of (.*)", refusal(*words, "pgn"))[1].split(", "):
        accepted(*words, name)
    stored = re.search(
        r"has labels of alpha ([\d.]+), not of 0.5; choose one", refusal(*words, "png", "--alpha", "0.5")
    )
    accepted(*words, "png", "--alpha", stored[1])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    message = refusal("export", store, "--to", "png", "--out", tmp_path / "mine")
    assert message.strip().endswith("use another folder: --out")
    accepted("export", store, "--to", "png", "--out", tmp_path / "another")


def test_import_masks_takes_the_options_of_its_messages(run_file, tmp_path):
    accepted("prepare", run_file)
    samples = load_samples(tmp_path / "results/tiny/samples.json")
    labeled, unlabeled = samples.of("labeled")[0].id, samples.of("unlabeled")[0].id
    (tmp_path / "back").mkdir()
    Image.fromarray(np.ones((24, 32), np.uint8)).save(tmp_path / f"back/{labeled}.png")
    words = ["import-masks", run_file, tmp_path / "back"]
    accepted(*words, *options_in(refusal(*words)))
    size = {"height": 24, "width": 32}
    images = [{"id": 1, "file_name": f"{unlabeled}.png", **size}]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    words = ["import-masks", tmp_path / "tiny_corrected.yaml", tmp_path / "coco.json"]
    again = options_in(accepted(*words).stdout)
    assert "masks imported into" in accepted(*words, *again).stdout
    assert unlabeled in [sample.id for sample in load_samples(tmp_path / "results/tiny/samples.json").of("labeled")]


def test_convert_coco_takes_the_option_of_its_warning(tmp_path, caplog):
    (tmp_path / "annotations").mkdir()
    images = [{"id": 1, "file_name": "a.jpg", "height": 2, "width": 2}]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "annotations/instances_all.json").write_text(json.dumps(content))
    accepted("convert-coco", tmp_path)
    (warning,) = [line for line in caplog.messages if "--unannotated" in line]
    accepted("convert-coco", tmp_path, *options_in(warning))
    assert (tmp_path / "masks/a.png").is_file()


def test_init_writes_a_run_file_after_the_command_of_its_message(run_file, tmp_path):
    for path in sorted((tmp_path / "data/masks").iterdir())[6:]:
        path.unlink()
    words = ["init", "data/images", "--masks", "data/masks", "--name", "my dive"]
    accepted(*words)
    _, path = command_in(refusal(*words), "rm")
    Path(path).unlink()
    accepted(*words)
