"""`conformalsam next`: the images that are proposed, their list, and its export."""

import csv

import numpy as np
import pytest
from click.testing import CliRunner
from stage_runs import run_stages
from tiny_run import write_run_file, write_sample_files

from pipeline.__main__ import main
from pipeline.errors import StoreError
from pipeline.exchange.next_images import propose_images, reason
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.store import open_labels


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A run with labels of four unlabeled images. Only `next` and `export` write into it."""
    folder = tmp_path_factory.mktemp("next")
    ids = [f"im{i:02}" for i in range(12)]
    write_sample_files(folder / "data", ids, masked=ids[:8])
    settings = load_settings(write_run_file(folder), {"alpha": 0.4})
    run_stages(settings)
    return settings


def test_every_unlabeled_image_can_be_proposed_with_its_counts(settings):
    store = open_labels(settings.folder / "labels.zarr")
    proposals = propose_images(settings, 9)
    assert sorted(one.id for one in proposals) == sorted(store.sample_ids)
    for one in proposals:
        index = store.sample_ids.index(one.id)
        label, planes = store.label(index), store.planes(index)
        probability = np.maximum(planes.p_foreground, planes.p_background)
        assert one.unlabeled == pytest.approx(np.isnan(label).mean())
        assert one.doubt == pytest.approx(1 - probability[~np.isnan(label)].mean(dtype=np.float64), abs=1e-6)
        assert set(one.classes) <= set(store.class_names)
    assert sum(one.represents for one in proposals) == len(proposals)
    assert f"{100 * proposals[0].unlabeled:.0f} % without a label" in reason(proposals[0])


def test_the_list_can_be_exported_in_its_order(settings):
    done = CliRunner().invoke(main, ["next", settings.origin.run, "--set", "alpha=0.4", "--count", "2", "--to", "cvat"])
    assert done.exit_code == 0, done.output
    ids = (settings.folder / "next/images.txt").read_text().split()
    assert ids == [one.id for one in propose_images(settings, 2)]
    with (settings.folder / "next/reasons.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == ids
    exported = (settings.folder / "export/cvat/images.txt").read_text().splitlines()
    assert [path.rpartition("/")[2] for path in exported] == [f"{one}.png" for one in ids]
    assert "Segmentation mask 1.1" in done.output
    bare = CliRunner().invoke(main, ["next", settings.origin.run, "--set", "alpha=0.4", "--count", "3"])
    listed = settings.folder / "next/images.txt"
    assert f"wrote {listed}: 3 images\nto annotate them: conformalsam export " in bare.output
    assert len(listed.read_text().split()) == 3


def test_without_labels_nothing_is_proposed(make_settings, write_images, tmp_path):
    write_images(tmp_path / "data", [f"im{i:02}" for i in range(12)])
    settings = make_settings()
    run_stages(settings, "prepare", "annotate", "calibrate")
    with pytest.raises(StoreError, match=r"stage pseudolabel has not finished; run snakemake --cores 8 pseudolabel"):
        propose_images(settings, 3)
    assert not Run(settings).folder.next_images.exists()
