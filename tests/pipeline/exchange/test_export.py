"""The export: its images, their order, their provenance, and that a folder appears only when it is complete."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from label_store import NAN, write_label_store
from PIL import Image
from stage_runs import run_stages

import calib
from pipeline.commands.export import export as command
from pipeline.commands.import_masks import import_masks
from pipeline.datasets import load_samples, save_samples
from pipeline.errors import ConfigError, DatasetError, StoreError
from pipeline.exchange import FORMATS, export_labels
from pipeline.exchange.exported import exported_digests, label_digest
from pipeline.exchange.import_masks import import_masks as take
from pipeline.exchange.incoming import READABLE
from pipeline.exchange.labels import kept_probability
from pipeline.receipt import read_receipt
from pipeline.store.metadata import store_state, write_metadata

NAMES = ["background", "cat", "dog"]


def kept(*counts, width=10):
    """float32 [N, 1, width]: an image keeps its first pixels, as cat."""
    return np.array([[[1.0] * count + [NAN] * (width - count)] for count in counts], np.float32)


@pytest.fixture
def store(tmp_path):
    """Four images: at alpha 0.1 they keep 8, 2, 6 and 4 pixels of 10; at alpha 0.3 they keep 1, 2, 3, 4."""
    labels = np.stack([kept(8, 2, 6, 4), kept(1, 2, 3, 4)])
    return write_label_store(tmp_path, labels, [(1, 10)] * 4, names=NAMES, alphas=(0.1, 0.3))


def listed(folder):
    """Ids in the order of the export, from CVAT's list of images."""
    return [line.rpartition("/")[2].removesuffix(".png") for line in (folder / "images.txt").read_text().split()]


def test_the_most_uncertain_images_come_first(store):
    assert listed(export_labels(store, "cvat", most_uncertain=3).folder) == ["im_1", "im_3", "im_2"]
    chosen = export_labels(store, "cvat", most_uncertain=3, alpha=0.3)
    assert (listed(chosen.folder), chosen.num_images) == (["im_0", "im_1", "im_2"], 3)


def test_a_list_names_the_images_and_their_order(store, tmp_path):
    (tmp_path / "ids.txt").write_text("im_2\n\nimages/im_0.png\nim_2\n")
    assert listed(export_labels(store, "cvat", ids=tmp_path / "ids.txt").folder) == ["im_2", "im_0"]
    both = export_labels(store, "cvat", ids=tmp_path / "ids.txt", most_uncertain=1)
    assert listed(both.folder) == ["im_2"]


def test_ids_that_the_store_does_not_have_are_named(store, tmp_path):
    (tmp_path / "ids.txt").write_text("im_2\nin_1\nelse\n")
    with pytest.raises(StoreError, match=r"ids.txt names in_1 and 1 more, not in .*did you mean im_1\?.* e.g. im_0"):
        export_labels(store, "png", ids=tmp_path / "ids.txt")
    with pytest.raises(DatasetError, match=r"none.txt cannot be read .*; correct its path"):
        export_labels(store, "png", ids=tmp_path / "none.txt")


@pytest.mark.parametrize(("alpha", "expected"), [(None, 8), (0.1, 8), (0.3, 1)])
def test_labels_are_those_of_the_chosen_or_the_named_alpha(store, alpha, expected):
    folder = export_labels(store, "png", alpha=alpha).folder
    with Image.open(folder / "im_0.png") as picture:
        assert (np.array(picture) == 1).sum() == expected
    assert json.loads((folder / "provenance.json").read_text())["alpha"] == (alpha or 0.1)


def test_an_alpha_that_is_not_stored_is_refused_with_those_that_are(store):
    with pytest.raises(StoreError, match=r"has labels of alpha 0.1, 0.3, not of 0.2; choose one .* alpha=0.2"):
        export_labels(store, "png", alpha=0.2)


def test_failed_images_are_named_and_left_out(tmp_path, caplog):
    path = write_label_store(tmp_path, kept(1, 2, 3)[None], [(1, 10)] * 3, names=NAMES, failed=[1])
    export = export_labels(path, "png")
    assert (export.num_images, export.left_out) == (2, ["im_1"])
    assert "export: im_1 failed and has no label; it is left out" in caplog.text
    assert not (export.folder / "im_1.png").exists()
    assert json.loads((export.folder / "provenance.json").read_text())["left_out"] == {"im_1": None}
    (tmp_path / "ids.txt").write_text("im_1\n")
    with pytest.raises(StoreError, match=r"has no labels of the chosen images, because the annotator failed on all 1;"):
        export_labels(path, "png", ids=tmp_path / "ids.txt")


def test_an_interrupted_export_keeps_the_older_one_and_the_next_one_is_complete(store, monkeypatch, tmp_path):
    folder = export_labels(store, "png", most_uncertain=1).folder
    before = sorted(path.name for path in folder.iterdir())

    def stop(part, *_):
        shutil.copytree(part, tmp_path / "killed")
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, "png", FORMATS["png"]._replace(write_rest=stop))
    with pytest.raises(KeyboardInterrupt):
        export_labels(store, "png")
    assert sorted(path.name for path in folder.iterdir()) == before
    assert not folder.with_name("png.part").exists()
    monkeypatch.undo()
    assert not (tmp_path / "killed/provenance.json").exists()
    (tmp_path / "killed").rename(folder.with_name("png.part"))  # as a killed export leaves it
    assert len(list(export_labels(store, "png").folder.glob("*.png"))) == 4
    assert not folder.with_name("png.part").exists()


@pytest.mark.parametrize("name", ["mine", "mine.part"])
def test_a_folder_that_is_not_an_export_is_not_changed(store, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "photo.png").write_text("precious")
    with pytest.raises(StoreError, match=rf"{name} exists and is not an export .*use another folder: --out"):
        export_labels(store, "png", tmp_path / "mine")
    assert (tmp_path / name / "photo.png").read_text() == "precious"


def test_an_empty_folder_is_replaced(store, tmp_path):
    (tmp_path / "mine").mkdir()
    assert export_labels(store, "png", tmp_path / "mine").num_images == 4


@pytest.mark.parametrize(("alpha", "chunk"), [(None, "label/c/2/0/0"), (0.3, "label_by_alpha/c/1/2/0/0")])
@pytest.mark.parametrize("is_lost", [True, False])
def test_damaged_labels_stop_the_export_with_the_fix(store, alpha, chunk, is_lost):
    path = store / chunk
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.unlink() if is_lost else path.write_bytes(content)
    with pytest.raises(StoreError, match=r"label.* im_2,? is (not on disk|damaged).*; run "):
        export_labels(store, "png", alpha=alpha)
    assert not store.with_name("export").joinpath("png").exists()


@pytest.mark.parametrize("name", ["huggingface", "ome-zarr"])
def test_a_missing_image_is_named(store, tmp_path, name):
    (tmp_path / "images/im_3.png").unlink()
    expected = r"im_3.png cannot be read .*, start this command in the folder in which prepare was run, or"
    with pytest.raises(DatasetError, match=expected):
        export_labels(store, name)


def test_samples_of_another_data_set_are_refused(store, tmp_path):
    index = load_samples(tmp_path / "samples.json")
    others = [replace(sample, id=sample.id.replace("im_1", "other")) for sample in index.samples]
    save_samples(tmp_path / "samples.json", replace(index, samples=tuple(others)))
    with pytest.raises(StoreError, match=r"samples.json does not list im_1 of .*labels.zarr; run snakemake"):
        export_labels(store, "png")


def test_provenance_has_the_facts_of_the_receipts(tmp_path, write_images, make_settings):
    write_images(tmp_path / "data", [f"im{i}" for i in range(12)])
    settings = make_settings(alpha=0.4)
    run_stages(settings)
    store = settings.folder / "labels.zarr"
    facts = json.loads((export_labels(store, "png").folder / "provenance.json").read_text())
    receipts = {name: read_receipt(settings.folder / f"{name}.json", name) for name in ("annotate", "calibrate")}
    (row,) = (r for r in receipts["calibrate"]["held_out"]["rows"] if (r["alpha"], r["rule"]) == (0.4, "paper"))
    assert facts["fingerprint"] == read_receipt(settings.folder / "pseudolabel.json", "pseudolabel")["fingerprint"]
    assert (facts["annotator"], facts["maps"]) == ("noisy", receipts["annotate"]["fingerprint"])
    assert (facts["alpha"], facts["rule"], facts["variant"], facts["num_labeled"]) == (0.4, "paper", "pixel", 6)
    assert facts["held_out"] == {name: row[name] for name in ("coverage", "precision", "keep_rate", "miou")}
    assert {"conformalsam", "numpy"} <= facts["versions"].keys()
    (settings.folder / "pseudolabel.json").unlink()
    facts = json.loads((export_labels(store, "png").folder / "provenance.json").read_text())
    assert (facts["annotator"], facts["held_out"]) == (None, None), "receipts may be about other labels"


def test_exports_in_readable_formats_are_recorded_and_others_are_not(store, tmp_path):
    export_labels(store, "huggingface")
    assert exported_digests(tmp_path) == {}
    export_labels(store, "png", most_uncertain=1)
    export_labels(store, "png", most_uncertain=1)
    label = np.array([[1, 1, *[255] * 8]], np.uint8)
    assert exported_digests(tmp_path) == {"im_1": [label_digest(label)]}
    export_labels(store, "coco", alpha=0.3)
    assert {name: len(digests) for name, digests in exported_digests(tmp_path).items()} == {
        "im_0": 1, "im_1": 1, "im_2": 1, "im_3": 1,
    }  # fmt: skip
    assert label_digest(label) != label_digest(label.T)


def test_results_that_cannot_be_written_do_not_stop_an_export(store, tmp_path, caplog):
    (tmp_path / "exported.json").mkdir()
    assert export_labels(store, "png", tmp_path / "out").num_images == 4
    assert "exported.json" in caplog.text
    assert "import-masks cannot detect masks that come back unchanged" in caplog.text


def test_the_probability_of_a_label_is_known_where_the_planes_have_it():
    half, third = np.full((1, 4), 0.5, np.float32), np.full((1, 4), 0.25, np.float32)
    planes = calib.Planes(np.array([[1, 1, 2, 2]], np.uint8), half, half, third)
    label = np.array([[1, 0, 1, NAN]], np.float32)
    assert np.array_equal(kept_probability(label, planes, 0), [[0.5, 0.25, NAN, NAN]], equal_nan=True)


def test_the_command_prints_what_it_wrote_and_what_to_do_next(store, tmp_path):
    run = CliRunner().invoke(command, [str(store), "--to", "coco", "--out", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert f"wrote {tmp_path}/out: 4 images\n" in run.output
    assert f"COCO('{tmp_path}/out/annotations.json')" in run.output


def test_the_commands_describe_the_formats_of_the_table():
    shown = CliRunner().invoke(command, ["--help"]).output
    assert all(f"  {name} " in shown for name in FORMATS)
    *first, last = READABLE
    shown = CliRunner().invoke(import_masks, ["--help"]).output
    without_remarks = re.sub(r" \([^)]*\)", "", " ".join(shown.split()))
    assert f"{', '.join(first)} or {last}" in without_remarks


def test_an_unknown_format_is_named_with_those_that_exist(store):
    with pytest.raises(ConfigError, match=r"no format ome_zarr; did you mean ome-zarr\?; use one of png, coco,"):
        export_labels(store, "ome_zarr")
    with pytest.raises(ConfigError, match=r"no format huggingface; use one of png, masks, cvat, yolo"):
        take("demo", (), store, "huggingface")


def test_an_unfinished_store_is_refused(store):
    shutil.rmtree(store / "status")
    write_metadata(store, {**store_state(store), "complete": False})
    with pytest.raises(StoreError, match=r"labels.zarr is incomplete; to finish it, run snakemake"):
        export_labels(store, "png")
