"""init: a run file for folders of any kind, which loads, and runs without editing."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from snakemake.cli import parse_config

import calib
from pipeline.cli import CommandGroup
from pipeline.commands.doctor import doctor
from pipeline.commands.init import init
from pipeline.demo.scenes import CLASS_NAMES, numbered_scene
from pipeline.errors import DatasetError
from pipeline.init.classes import ListedClass, plan_classes, read_class_list
from pipeline.init.folders import data_paths, run_name
from pipeline.init.recipe import recipe
from pipeline.init.settings import starting_alpha
from pipeline.overrides import split_workflow_config
from pipeline.run_file import load_settings
from pipeline.run_file_text import flow, render
from pipeline.sources import find_samples
from pipeline.workflow import SNAKEFILE

ROOT = Path(__file__).parents[2]
NUM_IMAGES, NUM_MASKS = 40, 8


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("Snakefile").symlink_to(SNAKEFILE)
    return tmp_path


@pytest.fixture
def mydata(here, write_images):
    """mydata/images with ten images, mydata/masks with masks of five (values 0, 1, 2 and 255)."""
    ids = [f"im{i}" for i in range(10)]
    write_images(here / "mydata", ids, masked=ids[:5])
    return here / "mydata"


def call(command, *arguments):
    """Run `init` or `doctor`; returns the finished call with its text."""
    group = CommandGroup("conformalsam", commands={"init": init, "doctor": doctor})
    return CliRunner().invoke(group, [command, *map(str, arguments)], catch_exceptions=False)


def started(*arguments):
    """Output of a successful init, and the settings of its run file."""
    result = call("init", *arguments)
    assert result.exit_code == 0, result.output
    path = next(line.removeprefix("wrote").strip() for line in result.stdout.splitlines() if line.startswith("wrote"))
    return result.stdout, load_settings(path)


def refused(*arguments):
    """Message of a failed init, which leaves no run file behind."""
    before = sorted(Path("config").glob("*")) if Path("config").is_dir() else []
    result = call("init", *arguments)
    assert result.exit_code == 1, result.output
    assert (sorted(Path("config").glob("*")) if Path("config").is_dir() else []) == before
    return result.stderr.partition("error: ")[2]


# --- the whole way ---------------------------------------------------------------------------------------------------


@pytest.fixture
def photographs(here):
    """Forty demo images in one folder; masks of eight of them in another folder."""
    for folder in ("photos", "elsewhere/few"):
        (here / folder).mkdir(parents=True)
    for i in range(NUM_IMAGES):
        scene = numbered_scene(1, "target", "mine", i, (96, 112))
        Image.fromarray(scene.image).save(here / f"photos/dive_{i:02d}.jpg", quality=95)
        if i % (NUM_IMAGES // NUM_MASKS) == 0:
            Image.fromarray(scene.mask).save(here / f"elsewhere/few/dive_{i:02d}.png")
    (here / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n")
    return here


@pytest.mark.slow
def test_forty_images_of_which_eight_have_masks_become_a_report_without_an_editor(photographs):
    small = ["student=tiny", "weights=random", "train.workers=0", "validate_every=1", "crop=64"]
    few_steps = ["stage1.epochs=1", "stage1.batch_size=8", "stage1.strong=false", "stage2.epochs=1",
                 "stage2.batch_unlabeled=8", "stage2.batch_labeled=2"]  # fmt: skip
    settings = [word for setting in [*small, *few_steps] for word in ("--set", setting)]
    folders = ["photos", "--masks", "elsewhere/few", "--classes", "classes.txt", "--name", "dive"]
    text, run = started(*folders, "--checkpoint", "seem-nano", *settings)
    assert "40 images, height x width 96 x 112 (40)" in text
    assert "8 masks, so 32 images are unlabeled" in text
    assert "split     6 labeled, 32 unlabeled, 2 val" in text
    assert text.splitlines()[-1].split(maxsplit=1)[1] == "snakemake --cores 8 all --config run=dive"

    examined = call("doctor", "dive")
    assert examined.exit_code == 0, examined.output
    assert "no errors" in examined.stdout

    options = ["--snakefile", ROOT / "Snakefile", "--cores", "2", "--workflow-profile", ROOT / "profiles/default"]
    command = [sys.executable, "-m", "snakemake", *options, "all", "--config", "run=dive"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        list(map(str, command)), cwd=photographs, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert (run.folder / "report.html").read_text().startswith("<!doctype html>")


# --- folders ---------------------------------------------------------------------------------------------------------


def test_the_run_is_named_after_the_image_folder_or_its_parent(here, mydata):
    assert started(mydata / "images", "--masks", mydata / "masks")[1].name == "mydata"
    assert run_name(Path("/data/My holiday!/JPEGImages")) == "My_holiday"
    assert run_name(Path("/data/reef.v2")) == "reef.v2"


def test_a_run_file_that_exists_is_kept(mydata):
    started(mydata / "images", "--masks", mydata / "masks", "--name", "mine")
    before = Path("config/mine.yaml").read_bytes()
    message = refused(mydata / "images", "--masks", mydata / "masks", "--name", "mine")
    assert (
        message.strip()
        == "config/mine.yaml exists and is not overwritten; use another --name, or remove it: rm config/mine.yaml"
    )
    assert Path("config/mine.yaml").read_bytes() == before


@pytest.mark.parametrize("name", ["../../x", "x{y}", ""])
def test_a_name_that_is_no_folder_name_is_refused_with_one_that_is(mydata, name):
    message = refused(mydata / "images", "--masks", mydata / "masks", "--name", name)
    assert f"{name!r} is not a name of a run" in message
    started(mydata / "images", "--masks", mydata / "masks", "--name", message.strip().rpartition("use --name ")[2])


def test_a_name_with_spaces_is_quoted_in_the_commands_that_follow(mydata):
    text, settings = started(mydata / "images", "--masks", mydata / "masks", "--name", "my dive")
    assert settings.name == "my dive"
    commands = [shlex.split(line) for line in re.findall(r"^(?:next|then)\s+(.*)$", text, re.MULTILINE)]
    assert commands[0] == ["conformalsam", "doctor", "my dive"]
    assert split_workflow_config(parse_config(commands[1][-1:]), commands[1]) == ("my dive", {})


@pytest.mark.parametrize("as_given", ["relative", "absolute"])
@pytest.mark.parametrize("masks", ["mydata/masks", "other/place/few", "mydata/images/few"])
def test_folders_may_be_anywhere(here, mydata, masks, as_given):
    if masks != "mydata/masks":
        (here / masks).parent.mkdir(parents=True, exist_ok=True)
        (mydata / "masks").rename(here / masks)
    images, masks = Path("mydata/images"), Path(masks)
    if as_given == "absolute":
        images, masks = images.absolute(), masks.absolute()
    _, settings = started(images, "--masks", masks)
    samples, problems = find_samples(settings.data)
    assert problems == []
    assert [len([s for s in samples if s.split == split]) for split in ("labeled", "unlabeled", "val")] == [4, 5, 1]


def test_a_folder_outside_the_working_folder_has_an_absolute_path(mydata, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    _, settings = started(mydata / "images", "--masks", mydata / "masks")
    assert settings.data.root == str(mydata)


def test_folders_with_only_the_root_in_common_keep_their_paths():
    paths = data_paths(Path("/disk_a/images"), Path("/disk_b/few"))
    assert paths == {"root": "/disk_a", "images": "images", "masks": "/disk_b/few"}


def test_masks_named_as_their_images_with_an_ending_are_found(mydata):
    for path in (mydata / "masks").glob("*.png"):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    text, settings = started(mydata / "images", "--masks", mydata / "masks")
    assert "name of a mask: stem of its image, then _mask.png" in text
    assert sum(sample.mask is not None for sample in find_samples(settings.data)[0]) == 5


def test_masks_without_an_image_are_named(mydata):
    (mydata / "masks/im3.png").rename(mydata / "masks/gone.png")
    text, _ = started(mydata / "images", "--masks", mydata / "masks")
    assert "masks without an image, not used: gone.png" in text
    assert "4 masks, so 6 images are unlabeled" in text


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        ("gone", "mydata/masks", "IMAGES is gone, which does not exist; correct IMAGES"),
        ("mydata/images/im0.png", "mydata/masks", "im0.png, which is not a folder; correct IMAGES"),
        ("mydata/images", "gone", "--masks is gone, which does not exist; correct --masks"),
        ("empty", "mydata/masks", "empty itself contains no image (.jpg, .jpeg, .png, "),
        ("mydata/images", "mydata/images", "move the masks into a folder of their own"),
        ("mydata/images", "empty", "empty itself contains no mask (.png, .bmp, .tif, .tiff, .gif); use a folder with"),
        (
            "mydata/images",
            "strangers",
            "has the name of an image in mydata/images: the first mask is x1.png",
        ),
    ],
)
def test_folders_that_cannot_be_used_are_refused(here, mydata, images, masks, message):
    (here / "empty").mkdir()
    (here / "strangers").mkdir()
    Image.new("L", (32, 24)).save(here / "strangers/x1.png")
    assert message in refused(images, "--masks", masks)


def test_one_mask_is_too_few_and_masks_for_all_images_are_refused(mydata, write_images):
    for i in range(1, 5):
        (mydata / f"masks/im{i}.png").unlink()
    assert "im0.png is the only mask" in refused(mydata / "images", "--masks", mydata / "masks")
    write_images(mydata, [f"im{i}" for i in range(10)])
    assert "all 10 images have a mask" in refused(mydata / "images", "--masks", mydata / "masks")
    text, _ = started(mydata / "images", "--masks", mydata / "masks", "--set", "num_labeled=3")
    assert "split     3 labeled, 5 unlabeled, 2 val" in text


def test_images_in_sub_folders_are_read_unless_the_user_says_no(mydata):
    (mydata / "images/batch2").mkdir()
    moved = sorted((mydata / "images").glob("*.png"))[-2:]
    for path in moved:
        path.rename(mydata / "images/batch2" / path.name)
    some = ["--name", "some", "--set", "data.subfolders=false"]
    text, _ = started(mydata / "images", "--masks", mydata / "masks", *some)
    assert "check     2 images in sub-folders of mydata/images are not read: batch2 (2); to read them, set" in text
    text, settings = started(mydata / "images", "--masks", mydata / "masks")
    assert "found     10 images" in text
    assert settings.data.subfolders
    text, settings = started(mydata, "--masks", mydata / "masks", "--name", "parent")
    assert "found     10 images" in text, "the masks below the images are no images"
    (mydata / "images/batch2" / moved[0].name).rename(mydata / "images/batch2/im0.png")
    text, settings = started(mydata / "images", "--masks", mydata / "masks", "--name", "twice")
    assert "5 masks, so 5 images are unlabeled" in text
    samples, _ = find_samples(settings.data)
    assert {"im0", "batch2__im0"} < {sample.id for sample in samples}
    assert [sample.mask for sample in samples if sample.id == "batch2__im0"] == [None]


def test_masks_may_be_beside_the_images(mydata):
    for path in sorted((mydata / "masks").iterdir()):
        path.rename(mydata / "images" / f"{path.stem}_label.png")
    text, settings = started(mydata / "images", "--masks", mydata / "images")
    assert "5 masks, so 5 images are unlabeled" in text
    assert settings.data.mask_ending == "_label.png"
    for path in sorted((mydata / "images").glob("*_label.png")):
        path.rename(path.with_name(path.name.replace("_label", "-x")))
    folders = [mydata / "images", "--masks", mydata / "images", "--name", "other"]
    assert "images; add what follows the stem of an image" in refused(*folders)
    assert started(*folders, "--set", "data.mask_ending=-x.png")[1].data.mask_ending == "-x.png"


def test_masks_that_are_no_index_masks_are_all_named(mydata):
    Image.new("RGB", (32, 24), "red").save(mydata / "masks/im0.png")
    (mydata / "masks/im1.png").write_bytes(b"no image")
    message = refused(mydata / "images", "--masks", mydata / "masks")
    assert "2 of 5 masks cannot be used" in message
    assert "im0.png has colours (mode RGB)" in message
    assert "im1.png is no image of a known format" in message


# --- settings --------------------------------------------------------------------------------------------------------


def test_every_line_that_users_often_change_has_a_comment(mydata):
    started(mydata / "images", "--masks", mydata / "masks", "--name", "mine")
    lines = Path("config/mine.yaml").read_text().splitlines()
    obvious = ("data:", "annotate:", "calibrate:", "train:", "evaluate:", "splits:", "seem:", "images:", "annotator:")
    bare = [line for line in lines if " # " not in line and not line.startswith("#")]
    assert [line for line in bare if not line.strip().startswith(obvious)] == []


def test_the_default_student_may_be_used_commercially_and_fits_the_machine(mydata):
    text, settings = started(mydata / "images", "--masks", mydata / "masks", "--name", "mine")
    train = settings.train
    assert (train.student, train.weights) == ("efficientnet-lite0", "imagenet")
    assert settings.pseudolabel.rule == "auto"
    assert train.licence_note is None
    assert "licence" not in text
    num_trained = 9  # of ten, one is a val image
    assert train.total_epochs == round(520 * 8 / num_trained)
    on_gpu = recipe(np.array([[360, 480]]), [352, 480], 9, {}, is_on_gpu=True)["train"]
    assert (on_gpu["student"], on_gpu["weights"]) == ("dinov2-s", "facebook/dinov2-small")


@pytest.mark.parametrize("overrides", [{"train.student": "tiny"}, {"preset": "plus"}])
def test_a_student_or_a_preset_of_the_user_replaces_the_recipe(overrides):
    sections = recipe(np.array([[360, 480]]), [352, 480], 9, overrides, is_on_gpu=False)
    assert sections.keys() == {"train"}
    assert not sections["train"].keys() - {"student", "weights", "crop"}


def test_images_of_any_size_are_resized_to_fit_the_crop():
    sizes = np.array([[3000, 4000], [2000, 4000], [375, 500]])
    section = recipe(sizes, [384, 384], 9, {}, is_on_gpu=False)
    assert section["train"]["scale"] == [0.05, 0.13]  # 4000 pixels become 217 to 506
    assert section["evaluate"]["scales"] == [0.11]
    assert "evaluate" not in recipe(np.array([[96, 112]]), [96, 128], 9, {}, is_on_gpu=False)


def test_choosing_weights_for_research_only_prints_their_licence(mydata):
    few = ["--set", "student=b0", "--set", "weights=nvidia/mit-b0"]
    text, settings = started(mydata / "images", "--masks", mydata / "masks", *few)
    assert f"licence   {settings.train.licence_note}" in text.splitlines()
    assert "nvidia/mit-b0 are under NVIDIA's source code licence: research and evaluation only" in text


def test_settings_of_the_user_are_written_and_replace_the_chosen_ones(mydata):
    few = ["--set", "alpha=0.4", "--set", "stage1={epochs: 3}", "--set", "preset=plus", "--set", "data.grid=[32, 48]"]
    _, settings = started(mydata / "images", "--masks", mydata / "masks", *few)
    assert settings.calibrate.alpha == 0.4
    assert settings.stage1.epochs == 3
    assert settings.preset == "plus"
    assert settings.data.grid == [32, 48]


def test_id_lists_replace_a_draw(mydata):
    (mydata / "val.txt").write_text("im1\nim2\n")
    _, settings = started(mydata / "images", "--masks", mydata / "masks", "--set", "data.splits.val=val.txt")
    val = [sample.id for sample in find_samples(settings.data)[0] if sample.split == "val"]
    assert val == ["im1", "im2"]
    assert settings.data.splits.num_val is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("alhpa=0.1", "alhpa is not a setting; did you mean calibrate.alpha?"),
        ("alpha=2", "calibrate.alpha must be less than 1, got 2"),
        ("data.splits.val=gone.txt", "no id list mydata/gone.txt; correct data.splits.val"),
    ],
)
def test_a_setting_that_does_not_fit_leaves_no_run_file(mydata, setting, message):
    assert message in refused("mydata/images", "--masks", "mydata/masks", "--set", setting)


@pytest.mark.parametrize("kind", ["onnx", "transformers", "maps", "python"])
def test_other_annotators_need_a_checkpoint(mydata, kind):
    given = ["mydata/images", "--masks", "mydata/masks", "--annotator", kind]
    assert f"--annotator {kind} needs" in refused(*given)
    checkpoint = {"onnx": "net.onnx", "transformers": "nvidia/segformer-b0"}.get(kind, "noisy_annotator:build")
    text, settings = started(*given, "--checkpoint", checkpoint)
    assert settings.annotate.annotator == kind
    if kind == "transformers":
        assert settings.annotate.transformers.model == "nvidia/segformer-b0"
        assert f"licence   {settings.annotate.transformers.licence_note}" in text.splitlines()
    if kind == "maps":
        assert Path(settings.data.root, settings.annotate.maps.folder) == Path("noisy_annotator:build").absolute()
    if kind == "onnx":
        assert Path(settings.data.root, settings.annotate.onnx.model) == Path("net.onnx").absolute()
        assert "class_map" in text


@given(st.integers(1, 300))
def test_the_alpha_to_start_with_is_the_smallest_possible_multiple(number):
    alpha = starting_alpha(number)
    assert calib.conformal_rank(number, alpha) <= number
    assert alpha == 0.05 or calib.conformal_rank(number, round(alpha - 0.05, 2)) > number


# --- classes ---------------------------------------------------------------------------------------------------------


def written(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    return path


def planned(found, text=None, background=None, tmp_path=None):
    """(name, values) of each class, the background, the ignored values."""
    listed = None if text is None else read_class_list(written(tmp_path, text))
    plan = plan_classes([frozenset(found)], listed, background)
    return [(c["name"], c["values"]) for c in plan.classes], plan.background, plan.ignore_values


def test_values_without_a_list_get_placeholders_to_be_named(mydata):
    text, settings = started("mydata/images", "--masks", "mydata/masks")
    assert settings.data.class_names == ["background", "class 1", "class 2"]
    assert settings.data.background == "background"
    assert "write them in the run file, or use --classes: class 1, class 2" in text
    assert "class     class 1 (value 1): in 5 masks" in text


def test_zero_is_a_class_where_there_is_no_background():
    assert planned({0, 3, 255}, background="none") == ([("class 0", [0]), ("class 3", [3])], None, [255])


def test_the_background_may_have_another_name():
    assert planned({0, 3}, background="water") == ([("water", [0]), ("class 3", [3])], "water", [255])


@pytest.mark.parametrize(
    ("text", "found", "classes", "background", "ignored"),
    [
        ("bg\ncat\ndog", {0, 1, 2, 255}, [("bg", [0]), ("cat", [1]), ("dog", [2])], "bg", [255]),
        ("cat\ndog", {0, 1}, [("cat", [0]), ("dog", [1])], None, [255]),
        # two names, values up to 2: the list starts at 1
        ("cat\ndog", {0, 1, 2}, [("background", [0]), ("cat", [1]), ("dog", [2])], "background", [255]),
        ("cat\ndog", {1, 2}, [("cat", [1]), ("dog", [2])], None, [255]),
        ("cat: 8\ndog: 12, 13\nvoid: 0", {0, 8, 12, 13}, [("cat", [8]), ("dog", [12, 13])], None, [0, 255]),
        ("void\ncat\ndog # a comment\n\n", {0, 1, 2}, [("cat", [1]), ("dog", [2])], None, [0, 255]),
        # _classes.csv of Roboflow's masks
        ("Pixel Value, Class\n0, background\n1, cat", {0, 1}, [("background", [0]), ("cat", [1])], "background", [255]),
        # 0/255 masks: 255 is the class
        ("cat", {0, 255}, [("background", [0]), ("cat", [255])], "background", []),
        ("bg\ncat", {0, 255}, [("bg", [0]), ("cat", [255])], "bg", []),
    ],
)  # fmt: skip
def test_lists_name_values(tmp_path, text, found, classes, background, ignored):
    assert planned(found, text, tmp_path=tmp_path) == (classes, background, ignored)


def test_a_list_that_starts_at_one_without_a_background_makes_zero_void(tmp_path):
    assert planned({0, 1, 2}, "cat\ndog", "none", tmp_path) == ([("cat", [1]), ("dog", [2])], None, [0, 255])


def test_prompts_follow_an_equals_sign_and_identifiers_are_spelled_out(tmp_path):
    path = written(tmp_path, "_background_\ntraffic_light\ncat = cat, kitten\ndog: 7 = dog, puppy\n")
    assert read_class_list(path)[2:] == [
        ListedClass("cat", ["cat", "kitten"], []),
        ListedClass("dog", ["dog", "puppy"], [7]),
    ]
    plan = plan_classes([frozenset({0, 1, 2, 7})], read_class_list(path), None)
    assert [c.get("prompts") for c in plan.classes] == [
        ["background"], ["traffic light"], ["cat", "kitten"], ["dog", "puppy"]
    ]  # fmt: skip
    assert plan.background == "_background_"


def test_a_class_that_is_in_no_mask_is_a_remark(tmp_path):
    plan = plan_classes([frozenset({0, 1})], read_class_list(written(tmp_path, "bg\ncat\ndog")), None)
    assert plan.remarks == ["in no mask: dog"]


@pytest.mark.parametrize(
    ("text", "found", "background", "message"),
    [
        ("", {0, 1}, None, "is empty; write one class per line"),
        ("cat: x", {0, 1}, None, "'cat: x' is not a class"),
        ("cat\ncat", {0, 1}, None, "has 'cat' twice; write all values of a class on one line: cat: 1, 2"),
        ("cat\ndog", {0, 1, 7, 9}, None, "does not name: 7, 9; add one line for each to the class list: NAME: 7 for"),
        ("cat\ndog", {0, 1}, "cta", "--background is 'cta', expected one of cat, dog, or none; did you mean cat?"),
        ("cat", {0}, None, "needs at least two classes, the background included, but the masks give 1 (cat;"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path, text, found, background, message):
    with pytest.raises(DatasetError) as error:
        planned(found, text, background, tmp_path)
    assert message in str(error.value)


def test_a_list_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"gone.txt cannot be read .*; correct its path"):
        read_class_list(tmp_path / "gone.txt")


def test_masks_with_hundreds_of_values_are_refused():
    with pytest.raises(DatasetError, match="200 different values, more than 64: they were probably smoothed"):
        planned(range(200))


# --- the text --------------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)  # all but halves of characters
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | NAMES, st.lists, max_leaves=4)


@given(VALUES)
@example("\u00a0")
@example("\u3000a\u2028")
@example("a\u200b\ufeff")
@example("...")
@example("\x85")
def test_values_are_read_back_as_they_were(value):
    assert yaml.safe_load(f"x: {flow(value)} # comment") == {"x": value}


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True), VALUES)
def test_a_rendered_tree_is_read_back_whatever_the_names(names, value):
    tree = {
        "data": {"classes": [{"name": name, "values": [k]} for k, name in enumerate(names)], "splits": {"x": value}},
        "annotate": {"onnx": {"class_map": {name: [k] for k, name in enumerate(names)}}},
    }
    text = render(["a run"], tree, {"data.splits.x": "why", **{f"data.classes.{name}": "how often" for name in names}})
    assert yaml.safe_load(text) == tree
    assert text.count("# how often") == len(names)


def test_sections_are_indented_and_each_class_has_a_line():
    tree = {"data": {"classes": ["cat", "dog"], "splits": {"seed": 0}}, "preset": "plus"}
    assert render(["r"], tree, {"data.splits.seed": "draws"}).splitlines() == [
        "# r", "data:", "  classes:", "    - cat", "    - dog", "  splits:", "    seed: 0 # draws", "preset: plus"
    ]  # fmt: skip


def test_value_255_of_binary_masks_is_a_class(mydata):
    for path in (mydata / "masks").glob("*.png"):
        Image.fromarray(np.where(np.eye(24, 32) > 0, 255, 0).astype(np.uint8)).save(path)
    text, settings = started("mydata/images", "--masks", "mydata/masks")
    assert "the masks have the values 0 and 255 only, so 255 is a class and not void" in text
    assert settings.data.mask_values == [[0], [255]]
    assert settings.data.ignore_values == []
