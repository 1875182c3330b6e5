"""Damaged facts of a finished store come back from the receipt of its stage, and no image is made again."""

import pytest
from stage_runs import digest_of
from store_damage import flip_a_bit, follow, receipt_of, run_command, store_of

from pipeline.errors import StoreError
from pipeline.inspect import check_store
from pipeline.run import Run
from pipeline.store import open_labels


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
