"""Training sets: small readers that follow each program's documented layout give back images, masks and lists."""

import json
import re
import runpy
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from digests import with_digests
from PIL import Image
from stage_runs import run_stages
from tiny_run import CLASSES, write_run_file, write_sample_files

from pipeline.commands.export import export as command
from pipeline.datasets import Sample, SampleIndex, load_samples
from pipeline.errors import ConfigError, StoreError
from pipeline.exchange import TOOLS, export_training_set
from pipeline.exchange.images import ImageFiles
from pipeline.exchange.labels import open_exported
from pipeline.exchange.training_sets.contents import Entry, _refuse_same_names
from pipeline.exchange.training_sets.nnunet import coded, label_values
from pipeline.run_file import load_settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A finished run: 4 labeled images, 2 of val, 4 unlabeled ones, one of them with a space in its name."""
    folder = tmp_path_factory.mktemp("trained")
    write_sample_files(folder / "data", [*(f"im{i}" for i in range(9)), "im 9"])
    settings = load_settings(write_run_file(folder), {"num_labeled": 4})
    run_stages(settings)
    return settings


@pytest.fixture(scope="module")
def truth(settings):
    """By name: part, image and mask (class index, 255 = none) as the run has them."""
    exported = open_exported(settings.folder / "labels.zarr")
    index = load_samples(settings.folder / "samples.json")
    found = {}
    for sample in index.samples:
        part = {"labeled": "labeled", "unlabeled": "pseudo", "val": "val"}[sample.split]
        is_pseudo = part == "pseudo"
        mask = exported.label(exported.index_of[sample.id]) if is_pseudo else index.mask(sample, settings.data)
        found[sample.id.replace(" ", "_")] = part, index.image(sample), mask
    assert {part for part, _, _ in found.values()} == {"labeled", "pseudo", "val"}
    return found


def pixels(path):
    with Image.open(path) as picture:
        return np.array(picture)


def pairs(folder, name):
    """(image, mask) of each line of a list."""
    lines = (folder / name).read_text().splitlines()
    return [tuple(pixels(folder / word) for word in line.split(" ")) for line in lines], lines


def read_lists(folder, names, form):
    """(part, image, mask) by name, from lists of pairs of files."""
    found = {}
    for part, name in names.items():
        both, lines = pairs(folder, form.format(name))
        found |= {
            re.fullmatch(r"images/(.+)\.png masks/.+", line)[1]: (part, *pair)
            for line, pair in zip(lines, both, strict=True)
        }
    return found


def read_mmseg(folder):
    config = (folder / "config.py").read_text()
    assert f"num_classes={len(CLASSES)}, ignore_index=255" in config
    compile(config, "config.py", "exec")
    suffix = re.search(r'img_suffix="(.+)"', config)[1]
    found = {}
    for part, split in (("labeled", "train"), ("pseudo", "train"), ("val", "val")):
        for name in (folder / f"splits/{part}.txt").read_text().split():
            mask = pixels(folder / f"ann_dir/{split}/{name}.png")
            found[name] = part, pixels(folder / f"img_dir/{split}/{name}{suffix}"), mask
    return found


def read_nnunet(folder):
    description = json.loads((folder / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "cat": 1, "dog": 2, "ignore": 3}
    cases = sorted(path.name.removesuffix("_0000.png") for path in (folder / "imagesTr").iterdir())
    assert description["numTraining"] == len(cases)
    (fold,) = json.loads((folder / "splits_final.json").read_text())
    assert sorted(fold["train"] + fold["val"]) == cases
    found = {}
    for name in cases:
        mask = pixels(folder / f"labelsTr/{name}.png")
        part = "val" if name in fold["val"] else "train"
        found[name] = part, pixels(folder / f"imagesTr/{name}_0000.png"), np.where(mask == 3, 255, mask)
    return found


def read_ultralytics(folder):
    data = yaml.safe_load((folder / "semantic.yaml").read_text())
    assert data["names"] == dict(enumerate(CLASSES))
    assert yaml.safe_load((folder / "segment.yaml").read_text())["names"] == {0: "cat", 1: "dog"}
    found = {}
    for part, name in (("labeled", "labeled.txt"), ("pseudo", "pseudo.txt"), ("val", data["val"])):
        for line in (folder / name).read_text().splitlines():
            assert line.startswith("./images/")
            mask = line.replace("/images/", f"/{data['masks_dir']}/")
            assert (folder / line.replace("/images/", "/labels/").replace(".png", ".txt")).is_file()
            found[line.rpartition("/")[2].removesuffix(".png")] = part, pixels(folder / line), pixels(folder / mask)
    return found


READERS = {
    "mmseg": read_mmseg,
    "smp": lambda folder: read_lists(folder, {"labeled": "labeled", "pseudo": "pseudo", "val": "val"}, "{}.txt"),
    "unimatch": lambda folder: read_lists(
        folder, {"labeled": "labeled", "pseudo": "unlabeled", "val": "val"}, "splits/{}.txt"
    ),
    "nnunet": read_nnunet,
    "ultralytics": read_ultralytics,
}


@pytest.mark.parametrize("name", TOOLS)
def test_a_reader_gives_back_all_images_masks_and_lists(settings, truth, tmp_path, name):
    export = export_training_set(settings, name, tmp_path / "out")
    assert export.num_images == len(truth)
    found = READERS[name](export.folder)
    assert found.keys() == truth.keys()
    for image_id, (part, image, mask) in found.items():
        expected_part, expected_image, expected_mask = truth[image_id]
        assert part == expected_part or (part == "train" and expected_part != "val")
        assert np.array_equal(image, expected_image)
        assert np.array_equal(mask, expected_mask)
    assert all(path.is_symlink() for path in export.folder.rglob("im*.png") if path.parent.name.startswith("im"))
    text = (export.folder / "README.md").read_text()
    assert "4 images with human masks, 4 with calibrated pseudo-labels, 2 for validation" in text
    assert "variant pixel, alpha 0.2, rule paper" in text


def test_the_script_for_smp_reads_the_lists(settings, tmp_path, monkeypatch):
    folder = export_training_set(settings, "smp", tmp_path / "out", copies_images=True).folder
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", object())
    script = runpy.run_path(str(folder / "train.py"))
    image, mask = script["Masks"]("train.txt")[0]
    assert (image.shape, mask.shape, len(script["Masks"]("train.txt"))) == ((3, 512, 512), (512, 512), 8)
    assert set(mask.unique().tolist()) == {0, 1, 2, 255}


def test_the_pseudo_labels_can_be_chosen(settings, tmp_path):
    index = load_samples(settings.folder / "samples.json")
    (tmp_path / "ids.txt").write_text(f"{index.of('unlabeled')[1].id}\n")
    folder = export_training_set(settings, "smp", tmp_path / "out", ids=tmp_path / "ids.txt").folder
    assert [len((folder / f"{name}.txt").read_text().splitlines()) for name in ("pseudo", "train", "val")] == [1, 5, 2]


def test_two_images_with_one_name_are_refused(settings):
    sample = load_samples(settings.folder / "samples.json").samples[0]
    entries = [Entry("a_b", "pseudo", replace(sample, id=name)) for name in ("a b", "a_b")]
    with pytest.raises(StoreError, match=r"images 'a b' and 'a_b' would both be named 'a_b'.*; rename one of them"):
        _refuse_same_names(entries)


class Coding:
    """The part of a training set that nnU-Net's values depend on."""

    def __init__(self, class_names, background):
        self.class_names, self.background = class_names, background


def test_nnunets_background_is_the_first_value_wherever_it_is_in_the_run():
    label = np.array([[0, 1, 2, 255]], np.uint8)
    assert coded(label, Coding(["cat", "void", "dog"], 1)).tolist() == [[1, 0, 2, 3]]
    assert coded(label, Coding(["cat", "cow", "dog"], None)).tolist() == [[1, 2, 3, 4]]
    with pytest.raises(StoreError, match=r"the class 'ignore' cannot be exported to nnU-Net.*; rename it in data"):
        label_values(Coding(["background", "ignore"], 0))


def write_as(path, mode, **options):
    Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10).convert(mode).save(path, **options)


def test_images_that_programs_read_differently_are_written_as_upright_png(settings, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    write_as(tmp_path / "plain.jpg", "RGB")
    write_as(tmp_path / "turned.jpg", "RGB", exif=turned)
    write_as(tmp_path / "alpha.png", "RGBA")
    write_as(tmp_path / "grey.png", "L")
    sizes = {"plain.jpg": (2, 3), "turned.jpg": (3, 2), "alpha.png": (2, 3), "grey.png": (2, 3)}
    samples = [Sample(name.partition(".")[0], name, None, "unlabeled", *size) for name, size in sizes.items()]
    index = with_digests(SampleIndex(tmp_path, tuple(samples)))
    files, of_nnunet = ImageFiles(index), ImageFiles(index, True, TOOLS["nnunet"].formats, TOOLS["nnunet"].modes)
    assert [files.suffix(sample) for sample in samples] == [".jpg", ".png", ".png", ".png"]
    assert (files.common_suffix(index.samples), files.common_suffix(index.samples[:1])) == (".png", ".jpg")
    for sample in index.samples:
        for name, chosen in (("linked", files), ("copied", of_nnunet)):
            path = tmp_path / f"{name}_{sample.id}.png"
            chosen.put(sample, path)
            assert path.is_symlink() == (name == "linked" and sample.id == "grey")
            with Image.open(path) as picture:
                assert (picture.format, picture.mode) == ("PNG", "L" if path.is_symlink() else "RGB")
                assert np.array_equal(np.array(picture.convert("RGB")), index.image(sample))


def test_the_command_says_what_it_needs(settings, tmp_path):
    with pytest.raises(ConfigError, match="give a format or a program: --to png, or --for mmseg"):
        CliRunner().invoke(command, ["x.zarr"], catch_exceptions=False)
    with pytest.raises(ConfigError, match=r"x.zarr has no human masks; name its run instead"):
        CliRunner().invoke(command, ["x.zarr", "--for", "smp"], catch_exceptions=False)
    with pytest.raises(ConfigError, match=r"no tool nnunett; did you mean nnunet\?; use one of mmseg, smp,"):
        export_training_set(settings, "nnunett")
    run_file = str(settings.folder.parents[1] / "tiny.yaml")
    words = [run_file, "--set", "num_labeled=4", "--for", "unimatch", "--out", str(tmp_path / "out")]
    run = CliRunner().invoke(command, words)
    assert run.exit_code == 0, run.output
    lines = run.output.splitlines()
    assert lines[-3] == f"wrote {tmp_path}/out: 10 images"
    facts = json.loads((tmp_path / "out/provenance.json").read_text())
    of_pixels = f"{facts['unlabeled_pixels']:,} of {facts['pixels']:,} pixels of the labels"
    assert lines[-2].startswith(of_pixels)
    assert lines[-2].endswith(" %) have no class: the value 255")
    assert lines[-1] == f"the commands are in {tmp_path}/out/README.md"
