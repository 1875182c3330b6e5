"""Corrected masks become labeled images, calibration uses them, and nothing is annotated again."""

import json
import shutil
import zipfile

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from stage_runs import digest_of, run_stages
from tiny_run import CLASSES, write_run_file, write_sample_files

from pipeline.cli import CommandGroup
from pipeline.commands.import_masks import import_masks as command
from pipeline.datasets import Sample, SampleIndex, load_samples, read_mask
from pipeline.errors import ConfigError, DatasetError
from pipeline.exchange import export_labels
from pipeline.exchange.corrected_masks import list_lines
from pipeline.exchange.import_masks import import_masks, mask_values, summary
from pipeline.lock import FOLDER as LOCKS
from pipeline.receipt import read_receipt
from pipeline.run_file import load_settings
from pipeline.settings import DataSettings
from pipeline.sources.lists import read_list
from pipeline.store import ABSENT, open_labels, open_probabilities
from pipeline.store.metadata import write_metadata

IDS = [f"im{i:02d}" for i in range(14)]
SIZE = (24, 32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run up to its labels (6 labeled, 6 unlabeled, 2 val), where class k has the value 10 k + 3; and a copy."""
    folder, kept = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("kept") / "run"
    write_sample_files(folder / "data", IDS, size=SIZE)
    for path in (folder / "data/masks").iterdir():
        with Image.open(path) as mask:
            values = np.array(mask)
        Image.fromarray(np.where(values == 255, 255, 10 * values + 3).astype(np.uint8)).save(path)
    run_file = write_run_file(folder, calibrate={"alpha": 0.4})
    tree = yaml.safe_load(run_file.read_text())
    tree["data"]["classes"] = [{"name": name, "values": [10 * k + 3]} for k, name in enumerate(CLASSES)]
    run_file.write_text(yaml.safe_dump(tree))
    run_stages(load_settings(run_file))
    shutil.copytree(folder, kept, symlinks=True)
    return folder, kept


@pytest.fixture
def tmp_path(finished):
    """The folder of the run as it was before any test, where it was made: its files contain absolute paths."""
    folder, kept = finished
    shutil.rmtree(folder)
    shutil.copytree(kept, folder, symlinks=True)
    return folder


@pytest.fixture
def run(tmp_path):
    return load_settings(tmp_path / "tiny.yaml")


@pytest.fixture
def take(tmp_path):
    """`import_masks` into the run, or into the run file that an import wrote."""

    def take(source, format_name=None, name="tiny", **options):
        return import_masks(str(tmp_path / f"{name}.yaml"), [], source, format_name, **options)

    return take


def splits_of(settings):
    samples = load_samples(settings.folder / "samples.json").samples
    return {split: [s.id for s in samples if s.split == split] for split in ("labeled", "unlabeled", "val")}


def correct(folder, sample_id, seed=0):
    """Paint an exported PNG again; returns the label."""
    label = np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), SIZE)
    with Image.open(folder / f"{sample_id}.png") as picture:
        palette = picture.getpalette()
    picture = Image.fromarray(label)
    picture.putpalette(palette)
    picture.save(folder / f"{sample_id}.png")
    return label


def fingerprint(folder):
    """Fingerprint of all files but those of an import, with their times, which shows every change."""
    left_out = ("corrected", LOCKS)
    files = [path for path in folder.rglob("*") if path.is_file() and not any(name in str(path) for name in left_out)]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_corrected_masks_are_used_in_calibration_and_nothing_is_annotated_again(run, take, tmp_path, caplog):
    before = splits_of(run)
    folder = export_labels(run.folder / "labels.zarr", "png").folder
    edited = before["unlabeled"][1:4]
    labels = {sample_id: correct(folder, sample_id, seed) for seed, sample_id in enumerate(edited)}
    users, maps = fingerprint(tmp_path / "data"), digest_of(run.folder / "probs.zarr")
    chunks = fingerprint(run.folder / "probs.zarr")

    imported = take(folder)

    left = [sample_id for sample_id in before["unlabeled"] if sample_id not in edited]
    assert imported.ids == {"imported": edited, "equal": [], "unchanged": left, "empty": [], "unannotated": []}
    assert fingerprint(tmp_path / "data") == users, "no file of the user's changed"
    assert not (run.folder / "prepare.json").exists(), "prepare is to be run again"
    corrected = load_settings(imported.run)
    assert (corrected.folder, imported.run) == (run.folder, str(tmp_path / "tiny_corrected.yaml"))

    samples = (run.folder / "samples.json").read_text()
    caplog.set_level("INFO")
    run_stages(corrected)
    assert (run.folder / "samples.json").read_text() == samples, "any stage after prepare sees the new splits at once"

    assert splits_of(corrected) == {
        "labeled": before["labeled"] + edited,
        "unlabeled": left,
        "val": before["val"],
    }
    for sample_id, label in labels.items():
        assert np.array_equal(read_mask(imported.folder / f"{sample_id}.png", corrected.data), label)
    assert "all maps are in" in caplog.text
    assert digest_of(run.folder / "probs.zarr") == maps
    assert fingerprint(run.folder / "probs.zarr") == chunks
    assert read_receipt(run.folder / "calibrate.json", "calibrate")["num_labeled"] == 9
    assert open_labels(run.folder / "labels.zarr").sample_ids == left


def test_an_incomplete_store_is_completed_in_its_own_order(run, take):
    """A mask moves its image among the samples. Its maps stay where they are, and new maps get the right index."""
    folder = export_labels(run.folder / "labels.zarr", "png").folder
    maps = digest_of(run.folder / "probs.zarr/logits")
    store = open_probabilities(run.folder / "probs.zarr", writable=True)
    for place in (1, 7, 9, 11):
        (store.path / f"logits/c/{place}/0/0/0").unlink()
        store.mark(place, ABSENT)
    write_metadata(store.path, {**store.state, "complete": False})
    correct(folder, splits_of(run)["unlabeled"][2])
    run_stages(load_settings(take(folder).run), "prepare", "annotate")
    assert digest_of(run.folder / "probs.zarr/logits") == maps


def test_a_second_import_adds_to_the_first_even_into_the_first_run(run, take, tmp_path):
    folder = export_labels(run.folder / "labels.zarr", "png").folder
    first, second, third, *rest = splits_of(run)["unlabeled"]
    correct(folder, first)
    run_stages(load_settings(take(folder).run))
    correct(folder, second)
    again = take(folder, name="tiny_corrected")
    assert again.ids == {
        "imported": [second],
        "equal": [first],
        "unchanged": [third, *rest],
        "empty": [],
        "unannotated": [],
    }
    assert again.run == str(tmp_path / "tiny_corrected.yaml")
    correct(folder, third)
    assert take(folder).ids["imported"] == [third]
    run_stages(load_settings(again.run))
    assert splits_of(run)["labeled"][-3:] == [first, second, third]


def test_unchanged_masks_are_imported_on_request_only(run, take):
    folder = export_labels(run.folder / "labels.zarr", "png").folder
    with pytest.raises(DatasetError, match="no unlabeled image would be left"):
        take(folder, unchanged=True)
    before = fingerprint(run.folder)
    assert take(folder).run is None
    assert (fingerprint(run.folder), (run.folder.parents[1] / "tiny_corrected.yaml").exists()) == (before, False)
    first, *rest = splits_of(run)["unlabeled"]
    (folder / f"{first}.png").unlink()
    run_stages(run, "prepare", "annotate", "calibrate")
    assert take(folder).ids["unchanged"] == rest, "whatever has become of the labels since"
    assert take(folder, unchanged=True).ids["imported"] == rest


@pytest.mark.parametrize("name", ["coco", "cvat"])
@pytest.mark.parametrize("is_named", [True, False])
def test_other_formats_are_imported_too(run, take, tmp_path, name, is_named):
    unlabeled = splits_of(run)["unlabeled"]
    labels = open_labels(run.folder / "labels.zarr")
    folder = export_labels(run.folder / "labels.zarr", name).folder
    file = folder / ("annotations.zip" if name == "cvat" else "annotations.json")
    assert take(file, name if is_named else None).ids["unchanged"] == unlabeled
    (run.folder / "exported.json").unlink()
    (tmp_path / "keep.txt").write_text("\n".join(unlabeled[:2]))
    folder = export_labels(run.folder / "labels.zarr", name, ids=tmp_path / "keep.txt").folder
    imported = take(folder / file.name, name if is_named else None, unchanged=True)
    assert imported.ids["imported"] == unlabeled[:2]
    for place, sample_id in enumerate(unlabeled[:2]):
        mask = read_mask(imported.folder / f"{sample_id}.png", run.data)
        label = labels.label(place)
        assert mask.shape == SIZE
        assert np.array_equal(mask[::6, ::8], np.where(np.isnan(label), 255, label)[::4, ::6])


def test_a_zip_of_a_folder_of_pngs_is_read(run, take, tmp_path):
    folder = export_labels(run.folder / "labels.zarr", "png").folder
    sample_id = splits_of(run)["unlabeled"][0]
    correct(folder, sample_id)
    with zipfile.ZipFile(tmp_path / "back.zip", "w") as archive:
        archive.write(folder / f"{sample_id}.png", f"done/by me/{sample_id}.png")
    assert take(tmp_path / "back.zip").ids["imported"] == [sample_id]


def test_every_mask_that_does_not_fit_is_named_and_none_is_imported(run, take, tmp_path):
    splits = splits_of(run)
    first, second, third, *_ = splits["unlabeled"]
    back = tmp_path / "back"
    back.mkdir()
    good = np.ones(SIZE, np.uint8)
    Image.fromarray(good).save(back / f"{first}.png")
    Image.fromarray(good[1:]).save(back / f"{second}.png")
    Image.fromarray(good + 8).save(back / f"{third}.png")
    Image.fromarray(good).save(back / f"{splits['labeled'][0]}.png")
    with pytest.raises(DatasetError) as error:
        take(back)
    text = str(error.value)
    assert text.startswith("3 problems with the corrected masks; none was imported:")
    assert f"{second}.png is 32 x 23, but its image is 32 x 24; resize the mask" in text
    assert f"{third}.png has value 9, which stands for no label" in text
    assert f"{splits['labeled'][0]} already has the mask {tmp_path}/data/masks/{splits['labeled'][0]}.png;" in text
    assert not list((tmp_path / "data/corrected").rglob("*.*"))
    assert (run.folder / "prepare.json").exists()
    assert not (tmp_path / "tiny_corrected.yaml").exists()


def test_masks_of_validation_images_unknown_images_and_second_masks_are_refused(run, take, tmp_path):
    val, first = splits_of(run)["val"][0], splits_of(run)["unlabeled"][0]
    back = tmp_path / "back"
    back.mkdir()
    for name in (f"{val}.png", "im99.png", f"{first}.png", f"{first}.bmp"):
        Image.fromarray(np.ones(SIZE, np.uint8)).save(back / name)
    with pytest.raises(DatasetError) as error:
        take(back)
    assert f"{val} is a validation image and must not be used for training; remove the mask" in str(error.value)
    assert "im99.png: the run has no image im99; did you mean im09?" in str(error.value)
    assert f"{first}.png and {back}/{first}.bmp are masks of the same image {first}; remove" in str(error.value)


def test_the_mask_of_a_labeled_image_is_kept_when_a_new_one_replaces_it(run, take, tmp_path):
    labeled = splits_of(run)["labeled"]
    back = tmp_path / "back"
    back.mkdir()
    Image.fromarray(np.ones(SIZE, np.uint8)).save(back / f"{labeled[2]}.png")
    original = (tmp_path / f"data/masks/{labeled[2]}.png").read_bytes()
    imported = take(back, overwrite=True)
    corrected = load_settings(imported.run)
    run_stages(corrected, "prepare")
    assert splits_of(corrected)["labeled"] == labeled
    sample = load_samples(run.folder / "samples.json").of("labeled")[2]
    assert sample.mask == f"corrected/tiny/masks/{labeled[2]}.png"
    assert (tmp_path / f"data/masks/{labeled[2]}.png").read_bytes() == original


def test_a_mask_without_any_class_is_not_imported(run, take, tmp_path):
    first = splits_of(run)["unlabeled"][0]
    (tmp_path / "back").mkdir()
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(tmp_path / f"back/{first}.png")
    imported = take(tmp_path / "back")
    assert imported.ids["empty"] == [first]
    assert summary(imported).splitlines()[1:] == ["not imported, no pixel has a class: 1"]


def test_another_run_file_of_the_same_name_is_kept(run, take, tmp_path):
    folder = export_labels(run.folder / "labels.zarr", "png").folder
    correct(folder, splits_of(run)["unlabeled"][0])
    (tmp_path / "tiny_corrected.yaml").write_text("mine: true\n")
    with pytest.raises(ConfigError, match=r"tiny_corrected.yaml exists and is another run file"):
        take(folder)
    assert (tmp_path / "tiny_corrected.yaml").read_text() == "mine: true\n"
    assert not (tmp_path / "data/corrected").exists()


@pytest.mark.parametrize("name", ["a b", "#1, (é) #2"])
def test_the_lists_that_an_import_writes_are_read_again_with_any_names(tmp_path, name):
    (tmp_path / "masks").mkdir()
    samples = (
        Sample(name, f"{name}.png", f"masks/{name}.png", "labeled"),
        Sample("u", f"{name}.jpg", None, "unlabeled"),
    )
    lines = list_lines(SampleIndex(tmp_path, samples))
    for sample in samples:
        for path in filter(None, (sample.image, sample.mask)):
            (tmp_path / path).touch()
        (tmp_path / "list.txt").write_text(lines[sample.split][0])
        (entry,) = read_list(tmp_path / "list.txt", tmp_path)
        mask = None if sample.mask is None else tmp_path / sample.mask
        assert (entry.image, entry.mask, entry.names_mask) == (tmp_path / sample.image, mask, True)


def test_names_that_a_list_cannot_contain_are_refused(tmp_path):
    samples = (Sample("a\tb", "images/a\tb.png", None, "unlabeled"),)
    with pytest.raises(DatasetError, match=r"'images/a\\tb.png' contains a tab.*; rename the file"):
        list_lines(SampleIndex(tmp_path, samples))


def test_an_import_that_was_killed_before_its_end_is_completed_by_the_next(run, take, monkeypatch):
    folder = export_labels(run.folder / "labels.zarr", "png").folder
    first = splits_of(run)["unlabeled"][0]
    correct(folder, first)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.exchange.import_masks.save_samples", stop)
        with pytest.raises(KeyboardInterrupt):
            take(folder)
    assert first in splits_of(run)["unlabeled"]
    assert take(folder).ids["equal"] == [first]
    assert first in splits_of(run)["labeled"]


def test_a_folder_that_cannot_be_written_is_named(run, take, tmp_path):
    folder = export_labels(run.folder / "labels.zarr", "png").folder
    correct(folder, splits_of(run)["unlabeled"][0])
    (tmp_path / "data/corrected").write_text("in the way")
    with pytest.raises(DatasetError, match=r"the import into .*data/corrected/tiny stopped: .*remove the cause"):
        take(folder)


def test_a_class_that_is_called_abstain_is_refused(run, tmp_path):
    classes = "data.classes=[background, abstain, dog]"
    with pytest.raises(ConfigError, match=r"data.classes has a class 'abstain', which means no class in imported"):
        import_masks(str(tmp_path / "tiny.yaml"), [classes], tmp_path)


def test_samples_of_another_root_are_refused(run, tmp_path):
    with pytest.raises(DatasetError, match=r"samples.json lists images in .*data, but data.root is other"):
        import_masks(str(tmp_path / "tiny.yaml"), ["data.root=other"], tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none", None, "no .*none; give a folder, a zip or a file with annotations"),
        ("broken.zip", b"PK", "broken.zip is not a complete zip .*export it again"),
        ("empty.json", b"{}", r"/empty.json has no list of images and no list of annotations"),
        (
            "empty.zip",
            b"PK\5\6" + bytes(18),
            r"empty.zip contains no masks \(png, masks, cvat, yolo, labelme, label-studio, coco\); .*with --from",
        ),
    ],
)
def test_files_without_masks_are_refused(run, take, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        take(tmp_path / name)


def write_coco(path, names, annotated, size=SIZE):
    """A COCO JSON that lists images, of which some have a rectangle of class cat."""
    height, width = size
    shape = [[0, 0, width, 0, width, 5, 0, 5]]
    content = {
        "images": [{"id": i, "file_name": f"{n}.jpg", "height": height, "width": width} for i, n in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": str(names.index(name)), "category_id": 1, "segmentation": shape}
            for i, name in enumerate(annotated)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path.write_text(json.dumps(content))


def test_listed_images_without_annotations_are_left_out_unless_they_are_background(run, take, tmp_path):
    first, second, third, *_ = splits_of(run)["unlabeled"]
    val = splits_of(run)["val"][0]
    write_coco(tmp_path / "export.json", [first, second, third, val, "elsewhere"], [second])
    imported = take(tmp_path / "export.json")
    assert imported.ids == {
        "imported": [second],
        "equal": [],
        "unchanged": [],
        "empty": [],
        "unannotated": [first, third, val, "elsewhere"],
    }
    line = f"listed without any outline: 4, e.g. {first}; if these images show only background, add --unannotated back"
    assert line in summary(imported)
    write_coco(tmp_path / "export.json", [first, second], [second])
    assert take(tmp_path / "export.json", name="tiny_corrected", unannotated=True).ids["imported"] == [first]
    assert not read_mask(imported.folder / f"{first}.png", run.data).any()


def test_images_that_roboflow_renamed_are_found(run, take, tmp_path):
    first, second, *_ = splits_of(run)["unlabeled"]
    renamed = f"{first}_jpg.rf.0123456789abcdef"
    write_coco(tmp_path / "export.json", [renamed], [renamed])
    assert take(tmp_path / "export.json").ids["imported"] == [first]
    (tmp_path / "back").mkdir()
    Image.fromarray(np.ones(SIZE, np.uint8)).save(tmp_path / f"back/{second}_png.rf.0123abcd_mask.png")
    assert take(tmp_path / "back", name="tiny_corrected").ids["imported"] == [second]
    write_coco(tmp_path / "export.json", ["other_jpg.rf.0123"], ["other_jpg.rf.0123"])
    with pytest.raises(DatasetError, match=r"the run has no image other_jpg.rf.0123"):
        take(tmp_path / "export.json")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"classes": ["a", "b"]}, [0, 1, 255]),
        ({"classes": [{"name": "a", "values": [7, 8]}, "b"], "ignore_values": [9, 3]}, [7, 1, 9]),
        ({"classes": ["a", {"name": "b", "values": [300]}], "ignore_values": [0xFFFF]} | {}, [0, 300, 0xFFFF]),
        (
            {"classes": ["a", {"name": "b", "values": [255]}], "ignore_values": [], "unknown_values": "ignore"},
            [0, 255, 254],
        ),
    ],
)
def test_masks_have_the_values_that_the_run_reads(data, expected):
    lookup = mask_values(DataSettings(**data))
    assert [int(lookup[k]) for k in (0, 1, 255)] == expected


def test_a_run_without_a_void_value_cannot_import_masks():
    with pytest.raises(ConfigError, match=r"data.ignore_values is empty, .*set data.ignore_values: \[255\]"):
        mask_values(DataSettings(classes=["a", "b"], ignore_values=[]))
    with pytest.raises(ConfigError, match=r"set data.ignore_values: \[254\]"):
        mask_values(DataSettings(classes=["a", {"name": "b", "values": [255]}], ignore_values=[]))


def test_the_command_prints_the_result_and_the_command_to_run(run, tmp_path):
    folder = export_labels(run.folder / "labels.zarr", "png").folder
    correct(folder, splits_of(run)["unlabeled"][0])
    group = CommandGroup(commands={"import-masks": command})
    done = CliRunner().invoke(group, ["import-masks", str(tmp_path / "tiny.yaml"), str(folder), "--set", "alpha=0.3"])
    assert done.exit_code == 0, done.output
    assert f"corrected masks imported into {tmp_path}/data/corrected/tiny/masks: 1\n" in done.output
    assert "not imported, unchanged since the export: 5, e.g. " in done.output
    assert f"next: snakemake --cores 8 all --config run={tmp_path}/tiny_corrected.yaml" in done.output
    assert load_settings(tmp_path / "tiny_corrected.yaml").calibrate.alpha == 0.3, "what --set changed goes along"
    refused = CliRunner().invoke(group, ["import-masks", str(tmp_path / "tiny_corrected.yaml"), "nothing"])
    assert (refused.exit_code, refused.stderr[:18]) == (1, "error: no nothing;")
