"""Damaged facts of a store come back, from its stage's receipt or settings, and no image is made again."""

import pytest
from stage_runs import STAGES, digest_of
from store_damage import (
    IMAGE_ARRAYS,
    flip_a_bit,
    follow,
    make_unfinished,
    receipt_of,
    run_command,
    store_of,
    times_of,
)
from store_flips import OPEN

from pipeline.errors import StoreError
from pipeline.folder import STAGE_OF
from pipeline.inspect import check_store
from pipeline.run import Run
from pipeline.store import open_for_inspection, open_labels


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("probabilities", lambda root: root.write_bytes(b"")),
        ("calibration", lambda root: flip_a_bit(root, 8 * root.read_bytes().index(b"alphas"))),
        ("calibration", lambda root: flip_a_bit(root, 8 * root.read_bytes().index(b'"digest"') + 8 * 12)),
        ("labels", lambda root: root.unlink()),
    ],
    ids=["an empty file", "a flipped bit", "a flipped bit in the digest", "no file"],
)
def test_the_command_restores_damaged_facts_and_makes_nothing_again(run, kind, damage):
    path = store_of(run, kind)
    expected, receipt = digest_of(path), receipt_of(run, kind).read_bytes()
    damage(path / "zarr.json")
    with pytest.raises(
        StoreError, match=r"zarr.json is (damaged|lost).*; run conformalsam inspect .* --repair"
    ) as refused:
        getattr(Run(run), f"open_{kind}")()
    follow(str(refused.value).rpartition("; run ")[2], run)
    assert digest_of(path) == expected
    assert receipt_of(run, kind).read_bytes() == receipt
    assert check_store(path).findings == []


def test_facts_of_another_store_are_not_restored(run):
    path = store_of(run, "labels")
    open_labels(path, writable=True).array("made_by")[0] = 1
    (path / "zarr.json").unlink()
    refused = run_command("inspect", path, "--repair")
    assert refused.exit_code == 1
    (line,) = (line for line in refused.stderr.splitlines() if line.startswith("error: "))
    assert "neither its digest nor the images are those of the facts that the receipt of pseudolabel records" in line
    assert f"; run rm {receipt_of(run, 'labels')} && rm -r {path} && snakemake" in line
    assert not (path / "zarr.json").exists()


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("probabilities", lambda root: flip_a_bit(root, 8 * root.read_bytes().index(b'"maps"'))),
        ("calibration", lambda root: root.write_bytes(b"")),
        ("labels", lambda root: root.unlink()),
    ],
    ids=["a flipped bit", "an empty file", "no file"],
)
def test_the_stage_writes_damaged_facts_of_an_unfinished_store_again_and_keeps_its_images(run, kind, damage):
    path = store_of(run, kind)
    expected = digest_of(path)
    make_unfinished(path, open_for_inspection(path), image=1, arrays=IMAGE_ARRAYS[kind])
    receipt_of(run, kind).unlink()
    damage(path / "zarr.json")
    before = times_of(path, kind)
    with pytest.raises(StoreError, match=r"zarr.json is (damaged|lost)") as refused:
        check_store(path)
    follow(str(refused.value).rpartition("; run ")[2], run)
    assert digest_of(path) == expected
    after = times_of(path, kind)
    assert before == {file: after[file] for file in before}
    assert len(after) > len(before)


@pytest.mark.parametrize("kind", ["probabilities", "labels"])
def test_damaged_facts_of_images_of_other_settings_are_refused(run, kind):
    path = store_of(run, kind)
    expected = digest_of(path)
    made_by = OPEN[kind](path, writable=True).array("made_by")
    made_by[:] = 1
    receipt_of(run, kind).unlink()
    (path / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=r"no image in .* was made with these settings; run rm -r ") as refused:
        STAGES[STAGE_OF[kind]](run)
    assert (path / "zarr.json").read_text() == "{"
    follow(str(refused.value).rpartition("; run ")[2], run)
    assert digest_of(path) == expected
