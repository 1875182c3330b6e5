"""Changes of a data set after prepare: found by sizes and times, decided by contents."""

import os
import shutil
from pathlib import Path

import pytest
from stage_runs import run_stages

from pipeline.run import Run
from pipeline.sources.stamps import read_stamps

IDS = [f"im{i:02d}" for i in range(12)]


@pytest.fixture
def run(tmp_path, write_images, make_settings):
    """A prepared run."""
    write_images(tmp_path / "data", IDS)
    run_stages(make_settings(), "prepare")
    return Run(make_settings())


def mask_of(run, split="labeled"):
    index = run.samples()
    return index.root / index.of(split)[0].mask


def image_of(run):
    index = run.samples()
    return index.root / index.of("unlabeled")[0].image


def test_the_stamps_are_those_of_every_image_and_mask_that_prepare_read(run):
    index = run.samples()
    read = {sample.image for sample in index.samples} | {sample.mask for sample in index.of("labeled", "val")}
    stamps = read_stamps(run.folder.stamps)
    assert stamps.keys() == read
    for name, (inode, size, modified, changed) in stamps.items():
        found = (index.root / name).stat()
        assert (inode, size, modified, changed) == (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def swap(first, second):
    between = first.with_name("between")
    first.rename(between)
    second.rename(first)
    between.rename(second)


def set_back_times(path, content):
    """Other bytes, as many as before, and the time of before."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


CHANGES = {
    "another mask": lambda run: shutil.copy(run.samples().root / "masks/im00.png", mask_of(run, "val")),
    "an emptied image": lambda run: image_of(run).write_bytes(b""),
    "two images swapped": lambda run: swap(image_of(run), run.samples().root / run.samples().of("val")[0].image),
    "a mask that is gone": lambda run: mask_of(run).unlink(),
    "an image that is gone": lambda run: image_of(run).unlink(),
    "an image more": lambda run: shutil.copy(image_of(run), image_of(run).with_name("new.png")),
    "other bytes with the old size and time": lambda run: set_back_times(
        mask_of(run), mask_of(run).read_bytes()[:-1] + b"?"
    ),
    "no list of samples": lambda run: run.folder.samples.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_prepare_runs_again_after(run, change):
    assert run.is_current("prepare")
    CHANGES[change](run)
    assert not run.is_current("prepare")


def touch_all(run):
    for path in Path(run.settings.data.root).rglob("*.png"):
        os.utime(path)


EQUAL = {
    "new times": touch_all,
    "lost stamps": lambda run: run.folder.stamps.unlink(),
    "damaged stamps": lambda run: run.folder.stamps.write_text("{"),
    "another mask of an unlabeled image": lambda run: shutil.copy(
        mask_of(run), run.samples().root / f"masks/{run.samples().of('unlabeled')[0].id}.png"
    ),
    "a data set that is not there": lambda run: Path(run.settings.data.root).rename("elsewhere"),
}


@pytest.mark.parametrize("change", EQUAL)
def test_prepare_does_not_run_again_after(run, change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    EQUAL[change](run)
    assert run.is_current("prepare")


def test_new_times_are_noted_so_that_files_are_read_once(run, monkeypatch):
    touch_all(run)
    assert not run.has_other_sources("prepare")
    monkeypatch.setattr("pipeline.sources.stamps.file_digest", None)  # whoever reads a file fails
    assert not run.has_other_sources("prepare")
    os.utime(image_of(run))
    with pytest.raises(TypeError):
        run.has_other_sources("prepare")


def test_a_second_prepare_leaves_an_equal_list_of_samples_as_it_is(run):
    before = run.folder.samples.stat().st_mtime_ns
    touch_all(run)
    run_stages(run.settings, "prepare")
    assert run.folder.samples.stat().st_mtime_ns == before
    shutil.copy(image_of(run), image_of(run).with_name("new.png"))
    run_stages(run.settings, "prepare")
    assert run.folder.samples.stat().st_mtime_ns != before
