"""init reads annotations of other tools: their masks, their class names, and what it says about the rest."""

import json
import re
import shutil
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.cli import CommandGroup
from pipeline.commands.init import init
from pipeline.datasets import read_mask
from pipeline.run_file import load_settings
from pipeline.sources import find_samples

HEIGHT, WIDTH = 4, 6


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Six images of 4 x 6. One name has an accent in the form of a Mac, and one a space."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("a", "b 1", unicodedata.normalize("NFD", "é"), "u1", "u2", "u3"):
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(f"photos/{name}.png")
    return Path("photos")


def call(*arguments):
    group = CommandGroup("conformalsam", commands={"init": init})
    return CliRunner().invoke(group, ["init", "photos", *map(str, arguments)], catch_exceptions=False)


def started(*arguments):
    """Output of a successful init, and the settings of its run file."""
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout, load_settings("mine")


def refused(*arguments):
    result = call("--name", "mine", *arguments)
    assert result.exit_code == 1, result.output
    assert not Path("config/mine.yaml").exists()
    assert not Path("converted/mine").exists()
    return result.stderr.partition("error: ")[2]


def labels_of(settings):
    """Labels of the images with a mask, by id."""
    samples, problems = find_samples(settings.data)
    assert problems == []
    root = Path(settings.data.root)
    return {s.id: read_mask(root / s.mask, settings.data).tolist() for s in samples if s.mask is not None}


def rectangle(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


RUNS = {"size": [HEIGHT, WIDTH], "counts": [0, 2, 22]}  # the two upper pixels of the first column


def write_coco(path="_annotations.coco.json", **fields):
    """A JSON as Roboflow writes it: a category that groups the others, and images in which nothing is drawn."""
    names = ("a.png", "shots\\b 1.png", unicodedata.normalize("NFC", "é.png"), "u1.png", "u2.png", "gone.png")
    shapes = [
        (1, 0, 1, rectangle(0, 0, 3, 4), 0),
        (2, 0, 2, RUNS, 1),
        (3, 1, 2, rectangle(0, 0, 6, 1), 0),
        (4, 2, 1, rectangle(1, 1, 2, 2), 0),
        (5, 5, 1, rectangle(1, 1, 2, 2), 0),
    ]
    content = {
        "images": [{"id": i, "file_name": n, "height": HEIGHT, "width": WIDTH} for i, n in enumerate(names)],
        "categories": [
            {"id": 0, "name": "animals", "supercategory": "none"},
            {"id": 1, "name": "cat", "supercategory": "animals"},
            {"id": 2, "name": "guide dog", "supercategory": "animals"},
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "segmentation": shape, "iscrowd": crowd}
            for i, image, category, shape, crowd in shapes
        ],
    } | fields
    Path(path).write_text(json.dumps(content))
    return path


A = [[2, 1, 1, 0, 0, 0]] * 2 + [[1, 1, 1, 0, 0, 0]] * 2
B = [[2] * 6, *[[0] * 6] * 3]
E = [[0] * 6, [0, 1, 0, 0, 0, 0], *[[0] * 6] * 2]


def test_a_coco_json_becomes_a_run_with_its_class_names(photos):
    text, settings = started("--masks", write_coco(), "--name", "mine")
    assert settings.data.class_names == ["background", "cat", "guide dog"]
    assert settings.data.background == "background"
    assert labels_of(settings) == {"a": A, "b 1": B, "é": E}
    for line in (
        "3 masks, so 3 images are unlabeled",
        "the categories animals only group others, and are no classes",
        "1 crowds (iscrowd: 1) are drawn as objects of their categories",
        "nothing is drawn in 2 listed images, so they are unlabeled: u1.png, u2.png; if they show only background, add",
        "annotated images that are not in photos, not used: gone.png",
        "2 pixels (2.78 %) are in outlines of several labels: they belong to the smallest one",
        "73.6 % of the pixels are in no outline: background",  # 53 of 72: 12 + 6 + 1 are in one
    ):
        assert line in text
    again = call("--masks", "_annotations.coco.json", "--name", "mine").stderr
    assert "config/mine.yaml and converted/mine exist and are not overwritten; use another --name, or remove" in again
    assert again.endswith("them: rm -r config/mine.yaml converted/mine\n")


def test_images_in_which_nothing_is_drawn_are_background_on_request_only(photos):
    _, settings = started("--masks", write_coco(), "--name", "mine", "--unannotated", "background")
    assert {i: np.any(label) for i, label in labels_of(settings).items()} == {
        "a": True, "b 1": True, "é": True, "u1": False, "u2": False
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "names", "background", "of_a"),
    [
        (("--background", "none"), ["cat", "guide dog"], None, [[1, 0, 0, 255, 255, 255]] * 2),
        (("--background", "floor"), ["floor", "cat", "guide dog"], "floor", A[:2]),
        (("--background", "cat"), ["cat", "guide dog"], "cat", [[1, 0, 0, 0, 0, 0]] * 2),
    ],
)
def test_pixels_in_no_outline_are_what_the_user_says(photos, options, names, background, of_a):
    _, settings = started("--masks", write_coco(), "--name", "mine", *options)
    assert (settings.data.class_names, settings.data.background) == (names, background)
    assert labels_of(settings)["a"][:2] == of_a


def test_where_background_is_drawn_other_pixels_are_void(photos):
    categories = [{"id": i, "name": name} for i, name in enumerate(("pets", "cat", "Background"))]
    text, settings = started("--masks", write_coco(categories=categories), "--name", "mine")
    assert settings.data.class_names == ["pets", "cat", "Background"]
    assert settings.data.background == "Background"
    assert labels_of(settings)["a"][0] == [2, 1, 1, 255, 255, 255]
    assert "in no mask: pets" in text
    with zipfile.ZipFile("export.zip", "w") as archive:
        archive.write("_annotations.coco.json", "train/_annotations.coco.json")
    result = call("--masks", "export.zip", "--name", "zipped")
    assert "export.zip/_annotations.coco.json: 1 crowds (iscrowd: 1) are drawn" in result.stdout


def test_a_class_list_gives_prompts_and_merges_labels(photos):
    Path("classes.txt").write_text("floor = the ground\npet: cat, guide dog\n")
    _, settings = started(
        "--masks", write_coco(), "--name", "mine", "--classes", "classes.txt", "--background", "floor"
    )
    assert labels_of(settings)["a"][0] == [1, 1, 1, 0, 0, 0]
    assert [list(prompts) for prompts in settings.data.class_prompts] == [["the ground"], ["pet"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\n", r"labels that --classes classes.txt does not name: guide dog; add one line for each: guide dog for"),
        (
            "cat\ndog\n",
            r"has 'dog', which is no label of the annotations; use NAME or NAME: LABEL with one of cat, guide",
        ),
        ("cat\nguide dog\npet: cat", r"has the label 'cat' in two lines; remove one"),
        ("cat\nguide dog:\n", r"'guide dog:' is not a class; write NAME, NAME: LABEL or"),
    ],
)
def test_a_class_list_that_does_not_fit_the_labels_is_refused(photos, text, message):
    Path("classes.txt").write_text(text)
    assert re.search(message, refused("--masks", write_coco(), "--classes", "classes.txt"))


def test_annotations_that_cannot_be_used_leave_no_file(photos):
    turned = [{"id": i, "file_name": f"{n}.png", "height": WIDTH, "width": HEIGHT} for i, n in enumerate("abcdef")]
    message = refused("--masks", write_coco(images=turned))
    assert "a.png is 4 x 6, but its image is 6 x 4; draw it on the upright image, as viewers show it" in message
    message = refused("--masks", write_coco(images=[{**image, "file_name": f"x{image['id']}.png"} for image in turned]))
    assert "annotates 4 images, e.g. x0.png, but photos has none of them (.jpg" in message
    message = refused("--masks", write_coco(annotations=[]))
    assert "lists 6 images, but has no outline in any of them; draw outlines (boxes are not enough)" in message
    message = refused(
        "--masks",
        write_coco(
            images=[{"id": i, "file_name": f"{n}.png", "height": 4, "width": 6} for i, n in enumerate("axyuvw")]
        ),
    )
    assert "has outlines in 1 image of photos, but a run needs at least 2 masks, one to train on and one to" in message
    assert "\n  annotated images that are not in photos, not used: x.png, y.png, w.png\n" in message
    Path("notes.json").write_text("{}")
    assert "notes.json has no list of images and no list of annotations" in refused("--masks", "notes.json")
    Path("notes.csv").write_text("a,b")
    assert "has no annotations of a format that is read (cvat, yolo, labelme, label-studio, coco)" in refused(
        "--masks", "notes.csv"
    )


def test_an_export_in_which_pixels_lost_that_they_have_no_label_is_refused_unless_all_of_them_are_void(photos):
    Path("yolo/labels").mkdir(parents=True)
    Path("yolo/data.yaml").write_text("names: [cat, dog]")
    Path("yolo/provenance.json").write_text('{"unlabeled_pixels": 1234}')
    for name, number in (("a", 0), ("u1", 1)):
        Path(f"yolo/labels/{name}.txt").write_text(f"{number} 0 0 0.5 0 0.5 1 0 1\n")
    message = refused("--masks", "yolo")
    assert message.startswith("yolo is an export of pseudo-labels, in which 1,234 pixels without a label are outside")
    assert "conformalsam export RUN --to png (or cvat, labelme, label-studio); or add --background none" in message
    _, settings = started("--masks", "yolo", "--name", "mine", "--background", "none")
    assert labels_of(settings)["u1"] == [[1, 1, 1, 255, 255, 255]] * 4


RED, BLUE, BLACK = (200, 10, 10), (0, 0, 255), (0, 0, 0)
PATCHES = [[RED] * 3 + [BLACK] * 3, [RED] * 3 + [BLUE] * 3, *[[BLACK] * 6] * 2]


def write_colours(name="masks/{}_colour.png", scale=1, **options):
    """Masks of three images in colours, every pixel `scale` times as large. The images are made to fit."""
    pixels = np.array(PATCHES, np.uint8).repeat(scale, 0).repeat(scale, 1)
    Path("masks").mkdir(exist_ok=True)
    for path in Path("photos").iterdir():
        Image.new("RGB", (WIDTH * scale, HEIGHT * scale)).save(path)
    for image in ("a", "b 1", "é"):
        Image.fromarray(pixels).save(name.format(image), **options)


@pytest.mark.parametrize("ending", ["colour.png", "colour.jpg"])
@pytest.mark.parametrize(
    "table",
    [
        "cat,200,10,10\nguide dog;0;0;255\nbackground 0 0 0\n",
        "NAME,CODE\ncat,#c80a0a\r\n#0000ff\tguide dog\r\n000000 background",
    ],
)
def test_masks_in_colours_are_read_by_a_table(photos, ending, table):
    write_colours(f"masks/{{}}_{ending}", scale=32, **({"quality": 80} if ending.endswith("jpg") else {}))
    Path("colours.csv").write_bytes(b"\xef\xbb\xbf" + table.encode())
    text, settings = started("--masks", "masks", "--colours", "colours.csv", "--name", "mine")
    assert settings.data.class_names == ["cat", "guide dog", "background"]
    label = np.array(labels_of(settings)["é"])
    expected = np.array([[0, 0, 0, 2, 2, 2], [0, 0, 0, 1, 1, 1], *[[2] * 6] * 2]).repeat(32, 0).repeat(32, 1)
    is_void = label == 255
    assert np.array_equal(label[~is_void], expected[~is_void])
    assert is_void.mean() < 0.05
    assert (
        ("% of the pixels are void: between two colours of a JPEG" in text) == is_void.any() == ending.endswith("jpg")
    )


def test_without_a_table_the_colours_that_were_found_are_proposed(photos):
    write_colours("masks/{}.png")
    text, settings = started("--masks", "masks", "--name", "mine")
    assert settings.data.class_names == ["background", "class #0000ff", "class #c80a0a"]
    assert labels_of(settings)["a"][:2] == [[2, 2, 2, 0, 0, 0], [2, 2, 2, 1, 1, 1]]
    for line in ("background,0,0,0", "class #0000ff,0,0,255", "class #c80a0a,200,10,10"):
        assert f"            {line}\n" in text
    Path("colours.csv").write_text("cat,200,10,10\ndog,0,0,255\n")
    message = refused_again("--masks", "masks", "--colours", "colours.csv")
    assert "a.png has colour #000000, which stands for no label of colours.csv" in message


def test_photographs_beside_annotations_are_no_masks_in_colours(photos):
    Path("export").mkdir()
    write_coco("export/_annotations.coco.json")
    for suffix in ("png", "jpg"):
        Image.new("RGB", (WIDTH, HEIGHT), RED).save(f"export/a.{suffix}")
        _, settings = started("--masks", "export", "--name", "mine")
        assert labels_of(settings) == {"a": A, "b 1": B, "é": E}
        shutil.rmtree("converted")
        shutil.rmtree("config")
        Path(f"export/a.{suffix}").unlink()


def refused_again(*arguments):
    result = call("--name", "again", *arguments)
    assert result.exit_code == 1, result.output
    return result.stderr


def test_jpegs_are_read_where_they_are_black_and_white_and_refused_where_their_colours_are_lost(photos):
    write_colours("masks/{}.jpg", scale=16)
    assert "a.jpg is a JPEG in colours, whose exact colours are lost; list the colours of all" in refused(
        "--masks", "masks"
    )
    Path("colours.csv").write_text("cat,200,10,10\nbackground,0,0,0\n")
    message = refused("--masks", "masks", "--colours", "colours.csv")
    assert "14 % of its pixels are near no colour of a class, e.g. " in message
    values = np.array([[0, 1], [2, 255]], np.uint8).repeat(32, 0).repeat(48, 1)
    for image in ("a", "b 1", "é"):
        Image.fromarray(values).save(f"masks/{image}.jpg")
    assert (
        "a.jpg is a JPEG with areas of the greys 0, 1, 2, 255, expected black and white; if these are class"
        in refused("--masks", "masks")
    )
    for image in ("a", "b 1", "é"):
        Image.fromarray(np.where(values < 255, 0, 255).astype(np.uint8)).save(f"masks/{image}.jpg")
    _, settings = started("--masks", "masks", "--name", "mine")
    assert settings.data.class_names == ["background", "class #ffffff"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("cat,200,10\n", "colours.csv line 1 is 'cat,200,10', expected NAME,RED,GREEN,BLUE or NAME,#RRGGBB"),
        ("cat,200,10,256\n", "colours.csv line 1 has the colour 200, 10, 256, expected numbers from 0 to 255"),
        ("cat,1,2,3\ndog,1,2,3", "colours.csv line 2 gives 'dog' the colour of 'cat'; change one of them"),
        ("name,colour\n", "colours.csv has no colour; write a line for each, e.g. cat,255,0,0"),
    ],
)
def test_a_table_that_is_none_is_refused(photos, table, message):
    write_colours("masks/{}.png")
    Path("colours.csv").write_text(table)
    assert message in refused("--masks", "masks", "--colours", "colours.csv")
