"""Images and masks that are not those that prepare read: a stage refuses them in one line, or does not read them."""

import contextlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from stage_runs import STAGES, digest_of, forget_maps, run_stages
from tiny_run import write_run_file, write_sample_files

from pipeline.__main__ import main
from pipeline.errors import DatasetError, StoreError
from pipeline.exchange import export_labels
from pipeline.folder import FILE_OF, STAGE_OF
from pipeline.overrides import split_workflow_config
from pipeline.run import Run
from pipeline.run_file import load_settings

ANY = r"data/(?:images|masks)/im\d\d.png"  # whichever of two swapped files is read first
IDS = [f"im{i:02d}" for i in range(12)]
STORE_OF = {stage: FILE_OF[kind] for kind, stage in STAGE_OF.items()}


@pytest.fixture(scope="module")
def labeled_folder(tmp_path_factory):
    """The folder of a run up to its labels, whose paths are relative to it."""
    folder = tmp_path_factory.mktemp("labeled")
    with contextlib.chdir(folder):
        write_sample_files(Path("data"), IDS)
        run_stages(load_settings(write_run_file(Path())))
    return folder


@pytest.fixture
def run(labeled_folder, tmp_path, monkeypatch):
    """A copy of the run and of its data set, in the working folder."""
    shutil.copytree(labeled_folder, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return Run(load_settings("tiny.yaml"))


def file_of(run, kind, split):
    sample = run.samples().of(split)[0]
    return run.samples().root / (sample.image if kind == "image" else sample.mask)


def turn(path):
    with Image.open(path) as opened:
        turned = opened.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    turned.save(path)


def swap_with_the_next(path):
    other = sorted(path.parent.iterdir())[(sorted(path.parent.iterdir()).index(path) + 1) % len(IDS)]
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


CHANGES = {
    "changed": turn,
    "swapped": swap_with_the_next,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
}


def command(*words):
    first, *rest = words
    return CliRunner().invoke(main, [first, "tiny.yaml", *rest])


def refusal(result, pattern):
    """The command of a refusal, which must be one line that names a file of the pattern."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    (line,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.output
    found = re.search(rf"{pattern} .* run (snakemake --cores 8 .*)$", line)
    assert found, line
    return shlex.split(found[1])


def follow(words):
    """Run the stages up to a printed command's target, as Snakemake does once prepare has run."""
    assert words[:3] == ["snakemake", "--cores", "8"]
    assert words[4:7] == ["-R", "prepare", "--config"]
    pairs = dict(word.split("=", 1) for word in words[7:])
    settings = load_settings(*split_workflow_config(pairs))
    for stage in list(STAGES)[: list(STAGES).index(words[3]) + 1]:
        Run(settings).folder.receipt(stage).unlink(missing_ok=True)
        run_stages(settings, stage)
    return Run(settings)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("stage", "kind", "split"),
    [("annotate", "image", "unlabeled"), ("calibrate", "mask", "labeled")],
)
def test_a_stage_refuses_a_file_that_has_changed_and_its_command_takes_it_in(run, stage, kind, split, change):
    path = file_of(run, kind, split)
    shutil.rmtree(run.folder.path / STORE_OF[stage])
    forget_maps(run.settings) if stage == "annotate" else None
    run.folder.receipt(stage).unlink()
    original = path.read_bytes()
    CHANGES[change](path)
    words = refusal(command(stage), ANY if change == "swapped" else re.escape(str(path)))
    assert words[3] == stage
    if change in ("truncated", "emptied"):
        with pytest.raises(DatasetError, match=rf"{path} (cannot be read|is an empty file).* or remove it"):
            follow(words)
        path.write_bytes(original)
    again = follow(words)
    assert again.samples().image(again.samples().of("labeled")[0]).shape == (24, 32, 3)
    assert again.recorded(stage)["sources"] == again.sources(stage)


@pytest.mark.parametrize("change", ["swapped", "deleted"])
@pytest.mark.parametrize(("stage", "kind", "split"), [
    ("annotate", "mask", "labeled"), ("calibrate", "image", "labeled"), ("pseudolabel", "image", "unlabeled"),
    ("pseudolabel", "mask", "labeled"),
])  # fmt: skip
def test_a_stage_that_does_not_read_a_file_gives_the_same_bytes(run, stage, kind, split, change):
    store = run.folder.path / STORE_OF[stage]
    before = digest_of(store)
    shutil.rmtree(store)
    CHANGES[change](file_of(run, kind, split))
    assert command(stage).exit_code == 0
    assert digest_of(store) == before


@pytest.mark.parametrize("words", [("gallery",), ("export", "--to", "ome-zarr"), ("export", "--to", "huggingface")])
def test_a_tool_refuses_an_image_that_has_changed(run, words):
    path = file_of(run, "image", "unlabeled")
    turn(path)
    assert refusal(command(*words), path)[3] == "pseudolabel"
    path.unlink()
    assert refusal(command(*words), path)[3] == "pseudolabel"


def test_labels_of_an_image_as_it_was_are_not_exported_with_the_image_as_it_is(run):
    turn(file_of(run, "image", "unlabeled"))
    run_stages(run.settings, "prepare")
    expected = r"labels.zarr was made from other images than .*samples.json lists now; run snakemake .* pseudolabel"
    with pytest.raises(StoreError, match=expected):
        export_labels(run.folder.labels, "ome-zarr")
    run_stages(run.settings, "annotate")
    with pytest.raises(StoreError, match=expected):
        export_labels(run.folder.labels, "ome-zarr")
    run_stages(run.settings, "calibrate", "pseudolabel")
    assert export_labels(run.folder.labels, "ome-zarr").num_images == 4


def test_the_report_refuses_an_image_that_has_changed(run):
    path = file_of(run, "image", "unlabeled")
    turn(path)
    assert refusal(command("report"), path)[3] == "report"


def test_after_a_new_prepare_no_stage_goes_on_from_what_is_of_the_old_files(run):
    turn(file_of(run, "mask", "labeled"))
    run_stages(run.settings, "prepare")
    expected = r"calibrate.json was made from other images or masks than .*samples.json lists now; run snakemake"
    with pytest.raises(StoreError, match=expected):
        run_stages(run.settings, "pseudolabel")
    assert not run.is_current("calibrate")
    assert run.is_current("annotate"), "annotate reads no mask"
    run_stages(run.settings, "calibrate", "pseudolabel")
    assert run.is_current("pseudolabel")
    turn(file_of(run, "image", "labeled"))
    run_stages(run.settings, "prepare")
    with pytest.raises(StoreError, match=r"annotate.json was made from other images or masks .* run snakemake"):
        run_stages(run.settings, "calibrate")
    turn(file_of(run, "mask", "val"))
    run_stages(run.settings, "prepare", "annotate", "calibrate")
    assert run.has_other_sources("pseudolabel")
