"""prepare: every file is checked once, every problem is listed, and then nothing is written."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import load_samples
from pipeline.doctor.prompts import prompt_findings
from pipeline.errors import DatasetError
from pipeline.stages.prepare import prepare

IDS = [f"im{i:02d}" for i in range(12)]


@pytest.fixture
def data(tmp_path, write_images):
    write_images(tmp_path / "data", IDS)
    return tmp_path / "data"


def test_writes_every_sample_with_its_size_and_digest(data, make_settings):
    settings = make_settings()
    facts = prepare(settings)
    index = load_samples(settings.folder / "samples.json")
    assert facts["num_samples"] == {"labeled": 6, "unlabeled": 4, "val": 2}
    assert sorted(sample.id for sample in index.samples) == IDS
    assert {(sample.height, sample.width) for sample in index.samples} == {(24, 32)}
    assert len({sample.image_digest for sample in index.samples}) == 12
    assert set(index.mask(index.of("val")[0], settings.data).ravel()) <= {0, 1, 2, 255}


def test_counts_labeled_images_and_pixels_of_each_class(data, make_settings):
    settings = make_settings()
    facts = prepare(settings)
    index = load_samples(settings.folder / "samples.json")
    masks = [index.mask(sample, settings.data) for sample in index.of("labeled")]
    assert facts["labeled_images_per_class"] == {"background": 6, "cat": 6, "dog": 6}
    assert facts["labeled_pixels_per_class"]["dog"] == sum(int((mask == 2).sum()) for mask in masks)


def test_a_second_run_writes_the_same_bytes(data, make_settings):
    settings = make_settings()
    prepare(settings)
    first = (settings.folder / "samples.json").read_bytes()
    prepare(settings)
    assert (settings.folder / "samples.json").read_bytes() == first


def test_the_masks_of_unlabeled_images_are_never_opened(data, make_settings):
    settings = make_settings()
    prepare(settings)
    first = (settings.folder / "samples.json").read_bytes()
    for sample in load_samples(settings.folder / "samples.json").of("unlabeled"):
        (data / f"masks/{sample.id}.png").write_bytes(b"not an image")
    prepare(settings)
    assert (settings.folder / "samples.json").read_bytes() == first


def test_lists_all_problems_together_and_writes_nothing(data, make_settings):
    settings = make_settings()
    prepare(settings)
    index = load_samples(settings.folder / "samples.json")
    broken, truncated, small, strange, coloured = (sample.id for sample in index.of("labeled")[:5])
    shutil.rmtree(settings.folder)
    (data / f"images/{broken}.png").write_bytes(b"hello")
    content = (data / f"images/{truncated}.png").read_bytes()
    (data / f"images/{truncated}.png").write_bytes(content[: len(content) // 2])
    Image.new("L", (5, 4)).save(data / f"masks/{small}.png")
    Image.fromarray(np.full((24, 32), 77, np.uint8)).save(data / f"masks/{strange}.png")
    Image.new("RGB", (32, 24), "red").save(data / f"masks/{coloured}.png")
    with pytest.raises(DatasetError) as error:
        prepare(settings)
    first, *problems = str(error.value).splitlines()
    assert first == f"5 problems with the data set in {data}:"
    for sample_id, found, fix in (
        (broken, "is no image of a known format", "replace or remove it"),
        (truncated, "cannot be read", "replace or remove it"),
        (small, "is 4 x 5 (height x width), its image is 24 x 32", "resize the mask"),
        (strange, "values that no class names: 77", "data.unknown_values: ignore"),
        (coloured, "colours (mode RGB)", "convert its colours"),
    ):
        assert any(sample_id in line and found in line and fix in line for line in problems), (sample_id, problems)
    assert not settings.folder.exists()


def test_unknown_mask_values_can_be_ignored(data, make_settings):
    settings = make_settings()
    prepare(settings)
    labeled = load_samples(settings.folder / "samples.json").of("labeled")[0]
    Image.fromarray(np.full((24, 32), 77, np.uint8)).save(data / f"masks/{labeled.id}.png")
    relaxed = make_settings(unknown_values="ignore")
    prepare(relaxed)
    index = load_samples(relaxed.folder / "samples.json")
    assert (index.mask(index.of("labeled")[0], relaxed.data) == 255).all()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["background", "class 1", "class 2"], "2 prompts are placeholders that do not describe an object: class 1, "),
        (["background", {"name": "cat", "prompts": ["pet"]}, {"name": "dog", "prompts": ["pet"]}], "pet"),
    ],
)
def test_prompts_that_doctor_calls_an_error_are_refused_for_an_annotator_that_reads_them(
    data, make_settings, classes, message
):
    seem = {"annotator": "seem", "annotate.seem": {"checkpoint": "seem-nano"}, "data.classes": classes}
    settings = make_settings(**seem)
    (finding,) = [one for one in prompt_findings(settings, None) if one.level == "error"]
    with pytest.raises(DatasetError, match=message) as refused:
        prepare(settings)
    assert finding.what in str(refused.value)
    assert str(refused.value).endswith(finding.fix)
    prepare(make_settings(**{"data.classes": classes}))  # the factory may ignore prompts
    prepare(make_settings(**seem, **{"stage1.labels": "none"}))  # nothing is annotated


def test_samples_json_is_plain_json(data, make_settings):
    settings = make_settings()
    prepare(settings)
    content = json.loads((settings.folder / "samples.json").read_text())
    assert content["samples"][0].keys() >= {"id", "image", "mask", "split", "height", "width"}
