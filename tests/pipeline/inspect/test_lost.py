"""A finished store that has lost something, or had a byte changed, is refused by whoever reads it."""

import shutil

import pytest
from stage_runs import digest_of
from store_damage import KINDS, chunk_files, follow, store_of
from store_flips import PLACES, flip_bytes

from pipeline.errors import StoreError
from pipeline.exchange.labels import open_exported
from pipeline.experiment.quality import label_quality
from pipeline.folder import FILE_OF
from pipeline.gallery.labeled_run import open_labeled_run
from pipeline.inspect import check_store, inspect_run, inspect_store, write_picture
from pipeline.inspect.evidence import open_evidence
from pipeline.run import Run
from pipeline.stages.report import report
from train.stage1 import open_run_labels

READERS = {
    "stage1": open_run_labels,
    "report": report,
    "gallery": open_labeled_run,
    "export": lambda settings: open_exported(settings.folder / "labels.zarr"),
    "explain": lambda settings: open_evidence(settings, Run(settings).samples().of("unlabeled")[0].id),
    "inspect": lambda settings: inspect_store(settings.folder / "labels.zarr"),
    "picture": lambda settings: write_picture(settings.folder / "labels.zarr", "im00", settings.folder / "im00.png"),
    "experiment": lambda settings: label_quality(Run(settings)),
}


def lose_status(path):
    (path / "status/c/0").unlink()


def lose_fingerprints_of_images(path):
    (path / "made_by/c/0").unlink()


def lose_a_chunk(path):
    chunk_files(path, "label")[2].unlink()


def lose_an_array(path):
    shutil.rmtree(path / "label")


def lose_the_chunks_of_a_plane(path):
    shutil.rmtree(path / "p_second/c")


LOSSES = (lose_status, lose_fingerprints_of_images, lose_a_chunk, lose_an_array, lose_the_chunks_of_a_plane)


@pytest.mark.parametrize("lose", LOSSES)
def test_every_reader_refuses_labels_that_lost_something_and_the_command_makes_them_again(run, lose):
    path = store_of(run, "labels")
    expected = digest_of(path)
    lose(path)
    commands = set()
    message = r"labels.zarr.*; run conformalsam inspect .* --repair && snakemake"
    for read in READERS.values():
        with pytest.raises(StoreError, match=message) as error:
            read(run)
        commands.add(str(error.value).rpartition("; run ")[2])
    (command,) = commands
    assert [store["problem"].rpartition("; run ")[2] for store in inspect_run(run)["stores"] if "problem" in store] == [
        command
    ]
    follow(command, run)
    assert digest_of(path) == expected


@pytest.mark.parametrize("kind", ["probabilities", "calibration"])
def test_maps_and_thresholds_that_lost_something_are_refused(run, kind):
    path = store_of(run, kind)
    for array in ("status", "made_by", {"probabilities": "logits", "calibration": "score"}[kind]):
        file = chunk_files(path, array)[0]
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(StoreError, match=rf"{FILE_OF[kind]}.*; run conformalsam inspect .* --repair && snakemake"):
            getattr(Run(run), f"open_{kind}")()
        file.write_bytes(content)
    getattr(Run(run), f"open_{kind}")()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_byte_that_changes_is_found_wherever_it_is(finished, place, kind):
    flips = flip_bytes(finished[1] / FILE_OF[kind], place, num=6, seed=0)
    assert [flip for flip in flips if not flip.found] == []
    assert not any("\n" in flip.found for flip in flips)
    assert check_store(finished[1] / FILE_OF[kind]).findings == []


def test_other_facts_are_no_reason_to_read_logits_as_probabilities(run):
    file = store_of(run, "probabilities") / "zarr.json"
    file.write_text(file.read_text().replace('"space": "logits"', '"space": "logitq"'))
    with pytest.raises(StoreError, match="its facts do not have the digest") as error:
        Run(run).open_probabilities()
    command = str(error.value).rpartition("; run ")[2]
    assert command.startswith(f"conformalsam inspect {file.parent} --repair && snakemake")
