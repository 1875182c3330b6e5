"""annotate after a new prepare: unchanged images keep their maps, and all maps are those of their images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stage_runs import forget_maps, kill_stage, run_stages

from pipeline.errors import DatasetError, UnreadableSourceError
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.stages.annotate import annotate
from pipeline.store import DONE, open_probabilities

IDS = [f"im{i:02d}" for i in range(14)]


@pytest.fixture
def run(tmp_path, write_images, make_settings):
    """A run with all its maps."""
    write_images(tmp_path / "data", IDS)
    run_stages(make_settings(), "prepare", "annotate")
    return Run(make_settings())


def image_of(run, number, split="unlabeled"):
    index = run.samples()
    return index.root / index.of(split)[number].image


def draw(path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)


def maps_of(run):
    """Id -> bytes of the chunk of each image's maps, and the file that holds them."""
    store = open_probabilities(run.folder.probabilities)
    assert (store.status == DONE).all()
    chunks = [store.path / f"logits/c/{i}/0/0/0" for i in range(len(store.sample_ids))]
    return {name: (path.read_bytes(), path.stat().st_ino) for name, path in zip(store.sample_ids, chunks, strict=True)}


def maps_from_the_start(run, folder):
    """Id -> bytes of each image's maps in a run that has made all of them from the files as they are."""
    settings = load_settings(run.settings.origin.run, {"results": str(folder)})
    run_stages(settings, "prepare", "annotate")
    return {name: content for name, (content, _) in maps_of(Run(settings)).items()}


def swap(first, second):
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


# what changes, and how many images get maps that are made again
CHANGES = {
    "one image": (lambda run: draw(image_of(run, 2), 100), 1),
    "a labeled and an unlabeled one": (
        lambda run: [draw(image_of(run, 0, split), 101 + i) for i, split in enumerate(("labeled", "unlabeled"))],
        2,
    ),
    "two images swapped": (lambda run: swap(image_of(run, 0), image_of(run, 3)), 0),
    "one image fewer": (lambda run: image_of(run, 1).unlink(), 0),
    "two images more": (lambda run: [draw(image_of(run, 0).with_name(f"new{i}.png"), 110 + i) for i in (0, 1)], 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_new_and_changed_images_are_annotated(run, tmp_path, change):
    edit, num_made = CHANGES[change]
    before = set(maps_of(run).values())
    edit(run)
    run_stages(run.settings, "prepare", "annotate")
    after = maps_of(run)
    assert {name: content for name, (content, _) in after.items()} == maps_from_the_start(run, tmp_path / "again")
    assert len(set(after.values()) - before) == num_made
    assert [path.name for path in run.folder.path.iterdir() if path.name.startswith("probs")] == ["probs.zarr"]


def test_the_fingerprint_is_that_of_a_run_from_the_start(run, tmp_path):
    before = run.recorded("annotate")["fingerprint"]
    draw(image_of(run, 2), 100)
    run_stages(run.settings, "prepare", "annotate")
    assert run.recorded("annotate")["fingerprint"] != before
    settings = load_settings(run.settings.origin.run, {"results": str(tmp_path / "again")})
    run_stages(settings, "prepare", "annotate")
    assert Run(settings).recorded("annotate")["fingerprint"] == run.recorded("annotate")["fingerprint"]


def test_a_changed_image_is_refused_and_what_is_done_is_kept(run):
    forget_maps(run.settings)
    changed = image_of(run, 3)
    draw(changed, 100)
    with pytest.raises(DatasetError, match=rf"{changed} is not the file that prepare read .* run snakemake .*annotate"):
        annotate(run.settings)
    done = open_probabilities(run.folder.probabilities, writable=True).status
    assert (done == DONE).sum() == 8  # batches of two: the six labeled images, and two of the unlabeled ones
    run_stages(run.settings, "prepare", "annotate")
    assert len(maps_of(run)) == 12


def test_the_first_image_may_be_gone(run):
    forget_maps(run.settings)
    gone = image_of(run, 0, "labeled")
    gone.unlink()
    settings = load_settings(run.settings.origin.run, {"max_failed_fraction": 0.1})
    assert list(annotate(settings)["failed"]) == [gone.stem]
    for path in gone.parent.iterdir():
        path.unlink()
    forget_maps(run.settings)
    with pytest.raises(UnreadableSourceError, match=r"cannot be read .* to continue without the file, run snakemake"):
        annotate(settings)


@pytest.mark.parametrize(("fragment", "moment"), [("probs.zarr.part", 3), ("probs.zarr.going", 1), ("logits/c", 4)])
def test_a_replacement_that_is_killed_loses_no_map(run, fragment, moment):
    before = set(maps_of(run).values())
    draw(image_of(run, 2), 100)
    run_stages(run.settings, "prepare")
    kill_stage(Path(run.settings.origin.run), "annotate", fragment, moment)
    run_stages(run.settings, "annotate")
    assert len(set(maps_of(run).values()) - before) == 1
    assert [path.name for path in run.folder.path.iterdir() if path.name.startswith("probs")] == ["probs.zarr"]
