"""`conformalsam prompts`: IoU of each wording, counted by hand, and the lines that it recommends."""

import json
import sys
import types

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from stage_runs import run_stages
from tiny_run import write_run_file

from pipeline.__main__ import main
from pipeline.errors import AnnotatorError, ConfigError, StoreError
from pipeline.prompt_search.candidates import find_wordings
from pipeline.prompt_search.search import count_wordings
from pipeline.run import Run
from pipeline.run_file import load_settings

CLASSES = [
    "background",
    {"name": "cat", "prompts": ["grey 100"], "values": [7]},
    {"name": "dog", "prompts": ["grey 200", "grey 240"]},
]


class ByGrey:
    """The probability of a class is higher, the closer a pixel is to the grey value in one of its prompts."""

    name, fingerprint, space = "by grey", "1", "probability"

    def __init__(self, fails_on=None):
        self.fails_on, self.calls = fails_on, 0

    def prepare(self, class_prompts):
        self.greys = [[int([*prompt.split(), "0"][1]) for prompt in prompts] for prompts in class_prompts]

    def __call__(self, images):
        values = images[..., 0].astype(np.float32)
        if self.fails_on is not None and (values[:, 0, 0] == self.fails_on).any():
            raise RuntimeError("cannot read this image")
        maps = [np.max([1 - abs(values - grey) / 255 for grey in greys], axis=0) for greys in self.greys]
        return np.stack(maps, axis=1)


class WithLists(ByGrey):
    """The same, which takes several lists at once."""

    def prepare_lists(self, lists):
        self.lists = lists

    def __call__(self, images):
        maps = []
        for class_prompts in self.lists:
            self.prepare(class_prompts)
            maps.append(super().__call__(images))
        return np.concatenate(maps, axis=1)


class Deaf(ByGrey):
    """It ignores the prompts."""

    def prepare(self, class_prompts):
        super().prepare([["none 0"], ["cat 100"], ["dog 200"]])


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """Settings of a prepared run. Of each image, 24 x 32, the left half is background, a quarter cat and a quarter dog.

    The pixels have grey values 0, 60 and 240, and the masks of unlabeled images are no masks.
    """
    module = types.ModuleType("of_grey")
    module.ByGrey, module.WithLists, module.Deaf = ByGrey, WithLists, Deaf
    monkeypatch.setitem(sys.modules, "of_grey", module)
    classes = np.repeat(np.array([[0] * 16 + [7] * 8 + [2] * 8], np.uint8), 24, axis=0)
    greys = np.choose(classes % 5, [0, 0, 60, 0, 0]).astype(np.uint8)  # cat, 7, has 60
    greys[classes == 2] = 240
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for i in range(8):
        first = greys.copy()
        first[0, 0] = i
        Image.fromarray(first).convert("RGB").save(tmp_path / f"data/images/{i}.png")
        Image.fromarray(classes).save(tmp_path / f"data/masks/{i}.png")

    def make(kind="ByGrey", arguments=None, classes=CLASSES, **overrides):
        annotator = {
            "annotator": "python",
            "python": {"factory": f"of_grey:{kind}", "arguments": arguments or {}},
            "max_failed_fraction": 0.25,
        }
        data = {"root": str(tmp_path / "data"), "classes": classes, "background": "background", "grid": [24, 32]}
        data["splits"] = {"num_labeled": 4, "num_val": 1}
        settings = load_settings(write_run_file(tmp_path, annotate=annotator, data=data), overrides)
        run_stages(settings, "prepare")
        return settings

    return make


def output_of(settings, *options):
    result = CliRunner().invoke(main, ["prompts", str(settings.origin.run), *options])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("kind", ["ByGrey", "WithLists"])
def test_the_iou_of_each_wording_is_that_of_its_class_when_only_its_prompts_change(make_run, kind):
    settings = make_run(kind)
    wordings = find_wordings(settings, ["cat=grey 60,grey 130"])
    assert [(w.class_index, str(w)) for w in wordings] == [
        (1, "grey 60"),
        (1, "grey 130"),
        (2, "grey 200"),
        (2, "grey 240"),
    ]
    counts = count_wordings(settings, wordings)
    # of 768 pixels, 384 are background, 192 cat, 192 dog; grey 60 is nearer to 100 than to 0, but not to 130
    assert (counts.true == [384, 192, 192]).all()
    assert (counts.right[:, :, 1] == [192, 192, 0, 192, 192]).all()
    assert (counts.union[:, :, 1] == [192, 192, 192, 192, 192]).all()
    assert (counts.union[:, :, 0] == [384, 384, 576, 384, 384]).all()
    assert (counts.right[:, :, 2] == 192).all()
    assert counts.failed == {}


def test_a_better_wording_is_recommended_with_the_line_for_the_run_file(make_run):
    settings = make_run(classes=[CLASSES[0], CLASSES[1] | {"prompts": ["grey 130"]}, CLASSES[2]])
    text = output_of(settings, "--try", "cat=grey 60,grey 130+grey 60")
    rows = [line.split() for line in text.splitlines() if "grey" in line and "[" in line]
    assert rows[0] == ["grey", "130", "(now)", "0.0", "[0.0,", "0.0]", "55.6"]  # background: 384 of 576
    assert rows[1] == ["grey", "60", "100.0", "[100.0,", "100.0]", "+100.0", "[+100.0,", "+100.0]", "100.0"]
    (line,) = [line for line in text.splitlines() if line.startswith("  - ")]
    assert yaml.safe_load(line) == [{"name": "cat", "prompts": ["grey 60"], "values": [7]}]


def test_without_a_difference_the_prompts_are_kept(make_run):
    text = output_of(make_run(), "--try", "cat=grey 61,grey 130")
    assert text.splitlines()[-1] == "No wording is better beyond noise: keep the prompts."


def test_an_image_that_fails_is_left_out_of_all_wordings(make_run):
    labeled = Run(make_run()).samples().of("labeled")
    settings = make_run(arguments={"fails_on": int(labeled[1].id)})
    counts = count_wordings(settings, find_wordings(settings, ["cat=grey 60"]))
    assert list(counts.failed) == [labeled[1].id]
    assert "cannot read this image" in counts.failed[labeled[1].id]
    assert len(counts.true) == len(counts.right) == len(labeled) - 1


def test_too_many_failed_images_end_the_search(make_run):
    first = Run(make_run()).samples().of("labeled")[0].id
    settings = make_run(arguments={"fails_on": int(first)}, **{"annotate.max_failed_fraction": 0.0})
    with pytest.raises(AnnotatorError, match=rf"1 of 4 labeled images failed.* {first}: RuntimeError: cannot read"):
        count_wordings(settings, find_wordings(settings, ["cat=grey 60"]))


def test_masks_of_unlabeled_images_are_not_read(make_run, tmp_path):
    settings = make_run()
    before = output_of(settings)
    for sample in Run(settings).samples().of("unlabeled", "val"):
        (tmp_path / f"data/masks/{sample.id}.png").write_bytes(b"no mask")
    assert output_of(settings) == before


def test_an_annotator_that_ignores_prompts_shows(make_run):
    line = "Every wording gives the same numbers of pixels, as with an annotator that ignores the prompts."
    assert output_of(make_run("Deaf"), "--try", "cat=grey 60").splitlines()[-2:] == [
        line,
        "No wording is better beyond noise: keep the prompts.",
    ]
    assert line not in output_of(make_run(), "--try", "cat=grey 130")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat", r"has no =; write a class and its wordings, e\.g\. --try"),
        ("cut=pole", "names 'cut', which is not in data.classes; did you mean cat"),
        ("cat=pole,", "has an empty prompt"),
        ("cat=a+A", "has a prompt twice"),
        ("cat=to\u200bm", r"--try: 'to\\u200bm' has the invisible character U\+200B; remove it"),
        ("cat=Grey 240", "the prompt 'Grey 240', which dog has"),
    ],
)
def test_a_wording_that_cannot_be_tried_is_refused(make_settings, text, message):
    with pytest.raises(ConfigError, match=message):
        find_wordings(make_settings(**{"data.classes": CLASSES}), [text])


def test_without_a_second_prompt_there_is_nothing_to_try(make_settings):
    with pytest.raises(ConfigError, match=r"no class in data\.classes has several prompts; give some: --try"):
        find_wordings(make_settings(), [])


def test_an_annotator_without_prompts_is_refused(make_settings):
    settings = make_settings(**{"annotate.annotator": "maps", "annotate.maps": {"folder": "maps"}})
    with pytest.raises(AnnotatorError, match="annotator maps reads no prompts"):
        find_wordings(settings, ["cat=kitten"])


def test_a_network_with_labels_of_its_own_is_refused_with_the_way_to_choose_among_them(make_settings, tmp_path):
    folder = tmp_path / "data/net"
    folder.mkdir(parents=True)
    names = {0: "background", 1: "tabby", 2: "dog", 3: "cow", 4: "horse"}
    content = {"architectures": ["SegformerForSemanticSegmentation"], "model_type": "segformer", "id2label": names}
    (folder / "config.json").write_text(json.dumps(content))
    settings = make_settings(**{"annotate.annotator": "transformers", "annotate.transformers": {"model": "net"}})
    message = (
        r"the network net reads no prompts: it has 5 labels of its own \(background, tabby, dog and 2 more\), and .*; "
        r"run conformalsam doctor .*, which lists the labels of each class, and choose .*transformers.class_map; or com"
    )
    with pytest.raises(AnnotatorError, match=message):
        find_wordings(settings, ["cat=kitten"])


def test_the_background_has_no_wordings_if_its_prompts_are_not_used(make_settings):
    seem = {"checkpoint": "seem-nano", "background": "complement"}
    settings = make_settings(**{"annotate.annotator": "seem", "annotate.seem": seem})
    with pytest.raises(ConfigError, match="has prompts for background, the background, whose prompts are not used"):
        find_wordings(settings, ["background=wall"])


def test_the_run_must_be_prepared(make_settings):
    settings = make_settings()
    with pytest.raises(StoreError, match="prepare"):
        count_wordings(settings, find_wordings(settings, ["cat=kitten"]))
