"""annotate and doctor: an annotator whose classes are not those of the masks is refused before anything is stored."""

import shlex
import sys
import types

import numpy as np
import pytest
import yaml
from PIL import Image
from stage_runs import run_stages
from tiny_run import CLASSES, UNTRAINED, write_run_file

from pipeline.annotators.build import build_annotator
from pipeline.annotators.class_check import MOST_IMAGES, choose_labeled
from pipeline.datasets import Sample
from pipeline.doctor import examine
from pipeline.doctor.trial import try_annotator
from pipeline.errors import AnnotatorError
from pipeline.overrides import split_workflow_config
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.sources import find_samples
from pipeline.stages.annotate import annotate

GREY = 80  # between the grey values of two classes


class ByGrey:
    """Maps of the class that the grey value of a pixel stands for; `order[k]` is the class that map k shows."""

    name, space = "by grey", "probability"

    def __init__(self, order=(0, 1, 2), without_prompt=()):
        self.order, self.without_prompt = list(order), list(without_prompt)
        self.fingerprint = f"{order} {without_prompt}"

    def prepare(self, class_prompts):
        pass

    def __call__(self, images):
        values = np.round(images[..., 0] / GREY)
        maps = np.stack([0.2 + 0.4 * (values == k) for k in self.order], axis=1).astype(np.float32)
        maps[:, [k for k, name in enumerate(CLASSES) if name in self.without_prompt]] = 0
        return maps


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Settings of a prepared run: 16 labeled images, the upper half background and the rest cat and dog."""
    module = types.ModuleType("of_grey")
    module.build = ByGrey
    monkeypatch.setitem(sys.modules, "of_grey", module)
    mask = np.repeat(np.array([[0] * 32, [1] * 16 + [2] * 16], np.uint8), 12, axis=0)
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for i in range(21):
        noise = np.random.default_rng(i).integers(0, 9, mask.shape, dtype=np.uint8)
        Image.fromarray(mask * np.uint8(GREY) + noise).convert("RGB").save(tmp_path / f"data/images/{i}.png")
        Image.fromarray(mask).save(tmp_path / f"data/masks/{i}.png")

    def make(order=(0, 1, 2), without_prompt=(), **overrides):
        arguments = {"order": list(order), "without_prompt": list(without_prompt)}
        annotator = {"annotator": "python", "python": {"factory": "of_grey:build", "arguments": arguments}}
        settings = load_settings(write_run_file(tmp_path, annotate=annotator), {"splits.num_labeled": 16} | overrides)
        run_stages(settings, "prepare")
        return settings

    return make


def test_a_right_order_of_the_classes_passes_without_a_warning(run, caplog):
    facts = annotate(run())
    assert (facts["warnings"], facts["without_prompt"]) == ([], [])
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ((0, 2, 1), r"cat is found in none of the 16 labeled images that show it \(its pixels are .* dog 100 %\), dog"),
        ((1, 2, 0), r"background is found in none of the 16 .* labeled dog 100 %\), cat is .*, dog is .*, and 1 more"),
    ],
)  # fmt: skip
def test_a_wrong_order_is_refused_and_the_printed_command_goes_on_with_a_warning(run, order, text):
    own = run(order)
    with pytest.raises(
        AnnotatorError, match=rf"by grey contradict the masks, .*{text}.*; correct the order of"
    ) as error:
        annotate(own)
    assert not own.folder.joinpath("probs.zarr").exists()
    words = shlex.split(str(error.value).rpartition("run ")[2])
    assert words[:4] == ["snakemake", "--cores", "8", "annotate"]
    config = yaml.safe_load("\n".join(words[words.index("--config") + 1 :]).replace("=", ": "))
    weak = load_settings(*split_workflow_config(config))
    run_stages(weak, "annotate")
    warnings = Run(weak).receipt("annotate")["warnings"]
    assert any(warning.startswith("cat is found in none of the 16") for warning in warnings)
    with pytest.raises(AnnotatorError, match="contradict the masks"):  # maps that are stored are checked as well
        annotate(own)
    assert annotate(weak)["warnings"] == warnings


def test_doctor_refuses_a_wrong_order_and_allows_it_as_annotate_does(run):
    own = run((0, 2, 1))
    with pytest.raises(AnnotatorError, match=r"contradict the masks, .* cat is found in none of the 16"):
        try_annotator(own, find_samples(own.data)[0])
    allowed = run((0, 2, 1), class_check="warn", **UNTRAINED)
    findings = [f for f in examine(allowed, timed=True) if "cat is found in" in f.what]
    assert [finding.level for finding in findings] == ["warning"]


def test_a_class_without_a_prompt_is_said_and_does_not_count(run, caplog):
    facts = annotate(run(without_prompt=["dog"]))
    assert facts["without_prompt"] == ["dog"]
    (text,) = facts["warnings"]
    assert text == "no prompt or channel means dog, so its map is 0 and its pixels carry other labels"
    assert caplog.messages.count(f"annotate: {text}") == 1


def test_labeled_images_are_chosen_until_every_class_is_shown_often_enough(run):
    """16 at least, and 9 of each of three classes. All images show background, the last 10 of 40 a cat, one a dog."""
    own = run()
    samples = [Sample(str(i), "", "", "labeled") for i in range(40)]

    def mask_of(sample):
        mask = np.zeros((24, 32), np.uint8)
        mask[:, :8] = 1 if int(sample.id) >= 30 else 0
        mask[:, 8:12] = 2 if sample.id == "20" else 255
        return mask

    def ids(*names):
        annotator = build_annotator(run(without_prompt=names))
        return [int(one.sample.id) for one in choose_labeled(samples, mask_of, annotator, own.data)]

    assert ids() == [*range(16), 20, *range(30, 39)]
    assert ids("cat", "dog") == [*range(16)]
    many = [Sample(str(i), "", "", "labeled") for i in range(500)]
    annotator = build_annotator(own)
    rarely = choose_labeled(many, lambda one: np.full((24, 32), int(one.id) % 2, np.uint8), annotator, own.data)
    assert len(rarely) == 18 <= MOST_IMAGES
