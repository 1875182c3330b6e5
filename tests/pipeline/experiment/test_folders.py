"""Links to files that several runs use, runs with all masks, the quality of labels, and the GPU of a run."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from store_damage import flip_a_bit
from tiny_run import write_run_file, write_sample_files

from pipeline.datasets import load_samples
from pipeline.errors import DatasetError
from pipeline.experiment.folders import write_with_every_mask
from pipeline.experiment.quality import missing_miou
from pipeline.experiment.running import start_over_if_changed
from pipeline.folder import Folder, link, stage_command, write_workflow
from pipeline.gpus import claimed_gpu, visible_gpus
from pipeline.record import read_record
from pipeline.run_file import load_settings
from pipeline.stages.prepare import prepare
from pipeline.store import remake_command, repair_command
from pipeline.workflow import SNAKEFILE


def test_links_reach_the_files_from_wherever_one_is(tmp_path, monkeypatch):
    (tmp_path / "results/run").mkdir(parents=True)
    (tmp_path / "results/run/samples.json").write_text("1")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # links of before are replaced
        link(tmp_path / "results/run", tmp_path / "results/run/experiments/labels/a", ["prepare", "annotate"])
    monkeypatch.chdir("/")
    place = tmp_path / "results/run/experiments/labels/a/samples.json"
    assert place.is_symlink()
    assert place.read_text() == "1"
    assert not (place.parent / "probs.zarr").exists()


@pytest.fixture
def prepared(tmp_path):
    ids = [f"im{i:02d}" for i in range(12)]
    write_sample_files(tmp_path / "data", ids)
    settings = load_settings(write_run_file(tmp_path))
    prepare(settings)
    return settings


def test_all_masks_make_every_unlabeled_image_a_labeled_one(prepared, tmp_path):
    before = load_samples(prepared.folder / "samples.json")
    write_with_every_mask(before, prepared.data, tmp_path / "own")
    complete = load_samples(tmp_path / "own/samples.json")
    assert len(complete.of("labeled")) == len(before.of("labeled", "unlabeled"))
    assert complete.of("unlabeled") == []
    assert complete.of("val") == before.of("val")
    assert all(complete.mask(sample, prepared.data).shape == (24, 32) for sample in complete.of("labeled"))


def test_all_masks_need_every_one(prepared, tmp_path):
    index = load_samples(prepared.folder / "samples.json")
    gone = index.of("unlabeled")[0].id
    (tmp_path / f"data/masks/{gone}.png").unlink()
    with pytest.raises(DatasetError, match=f"the unlabeled image {gone} has no mask"):
        write_with_every_mask(index, prepared.data, tmp_path / "own")


def with_palette(values, colours):
    picture = Image.fromarray(values)
    picture.putpalette(colours)
    return picture


@pytest.mark.parametrize(
    ("replacement", "reason"),
    [
        (
            lambda values: Image.fromarray(np.full_like(values, 77)),
            "has values of no class: 77; add them to",
        ),
        (
            lambda values: with_palette(values, [0, 0, 0, 0, 255, 0, 255, 0, 0]),
            "1 of 12 .* its colours in another order",
        ),
    ],
)
def test_masks_of_unlabeled_images_that_prepare_would_refuse_are_refused(tmp_path, prepared, replacement, reason):
    index = load_samples(prepared.folder / "samples.json")
    wrong = tmp_path / f"data/masks/{index.of('unlabeled')[0].id}.png"
    for path in (tmp_path / "data/masks").iterdir():
        values = np.asarray(Image.open(path)) % 3
        picture = with_palette(values, [0, 0, 0, 255, 0, 0, 0, 255, 0])
        (replacement(values) if path == wrong else picture).save(path)
    with pytest.raises(DatasetError, match=reason):
        write_with_every_mask(index, prepared.data, tmp_path / "own")


def test_pixels_without_a_label_are_missed():
    kept = np.array([[3, 0, 0], [1, 2, 0], [0, 0, 0]])
    # class 0: 3 of 5 + 4 - 3; class 1: 2 of 8 + 2 - 2; class 2 is nowhere
    assert missing_miou(kept, np.array([5, 8, 0])) == pytest.approx((3 / 6 + 2 / 8) / 2)


def test_another_plan_starts_over_and_the_same_plan_goes_on(tmp_path):
    (tmp_path / "stage1.json").write_text("{}")
    start_over_if_changed(tmp_path, {"epochs": (3, 1)})
    assert not (tmp_path / "stage1.json").exists()  # finished under an unknown plan
    (tmp_path / "stage1.json").write_text("{}")
    start_over_if_changed(tmp_path, {"epochs": (3, 1)})
    assert (tmp_path / "stage1.json").exists()
    start_over_if_changed(tmp_path, {"epochs": (4, 1)})
    assert not (tmp_path / "stage1.json").exists()
    assert read_record(tmp_path / "plan.json", "again") == {"epochs": [4, 1]}
    (tmp_path / "stage1.json").write_text("{}")
    flip_a_bit(tmp_path / "plan.json")
    start_over_if_changed(tmp_path, {"epochs": (4, 1)})
    assert not (tmp_path / "stage1.json").exists()  # a damaged plan proves nothing


def test_every_run_gets_a_gpu_of_its_own(tmp_path, monkeypatch):
    visible_gpus.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    with claimed_gpu(tmp_path) as first, claimed_gpu(tmp_path) as second:
        assert [first, second] == [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    with claimed_gpu(tmp_path) as again:
        assert again == first
    visible_gpus.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with claimed_gpu(tmp_path) as none:
        assert none == {}
    visible_gpus.cache_clear()


@pytest.fixture
def experiment_folders(tmp_path, monkeypatch):
    """Folders of an experiment's labels and of a run on them, with receipts; the working folder is their parent."""
    monkeypatch.chdir(tmp_path)
    Path("Snakefile").symlink_to(SNAKEFILE)
    base, labels, run = (
        Path("results/tiny", *words) for words in ((), ("experiments/labels/a",), ("experiments/runs/b-0",))
    )
    for folder, stages in ((base, ("prepare", "annotate")), (labels, ("calibrate", "pseudolabel")), (run, ("stage1",))):
        for stage in stages:
            Folder(folder).receipt(stage).parent.mkdir(parents=True, exist_ok=True)
            Folder(folder).receipt(stage).write_text("{}")
    link(base, labels, ("prepare", "annotate"))
    link(labels, run, ("prepare", "annotate", "calibrate", "pseudolabel"))
    for folder in (labels, run):
        write_workflow(folder, "experiment", ["run=tiny", "table=1"])
    return labels, run


@pytest.mark.parametrize(
    ("stage", "rerun", "expected"),
    [
        ("pseudolabel", None, "snakemake --cores 8 experiment --config run=tiny table=1"),
        ("stage1", "prepare", "snakemake --cores 8 experiment -R prepare --config run=tiny table=1"),
        ("annotate", "annotate", "snakemake --cores 8 experiment -R annotate --config run=tiny table=1"),
        ("pseudolabel", "pseudolabel", "rm results/tiny/experiments/labels/a/pseudolabel.json && SAME"),
        ("stage1", "stage1", "rm results/tiny/experiments/runs/b-0/stage1.json && SAME"),
    ],
)
def test_commands_of_an_experiments_run_make_its_table(experiment_folders, stage, rerun, expected):
    expected = expected.replace("SAME", "snakemake --cores 8 experiment --config run=tiny table=1")
    assert stage_command(experiment_folders[1] / "samples.json", stage, rerun) == expected


def test_the_command_of_a_linked_store_is_about_the_store_itself(experiment_folders):
    labels, run = experiment_folders
    (labels / "labels.zarr").mkdir()
    link(labels, run, ("pseudolabel",))
    own = "results/tiny/experiments/labels/a"
    expected = f"rm {own}/pseudolabel.json && rm -r {own}/labels.zarr && snakemake --cores 8 experiment --config"
    assert remake_command(run / "labels.zarr").startswith(expected)
    assert repair_command(run / "labels.zarr", "labels").startswith(f"conformalsam inspect {own}/labels.zarr --repair")
