"""Settings: defaults, inheritance, overrides, and one-line errors with full names."""

import pytest

from pipeline import config
from pipeline.errors import ConfigError

MINIMAL = """
data:
  classes: [background, {name: cat, prompts: [cat, kitten], values: [8]}]
  background: background
annotate:
  annotator: python
  python: {factory: "a.b:c"}
"""


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL)
    return path


def test_fills_defaults_and_takes_the_name_from_the_file(run_file):
    settings = config.load(run_file)
    assert (settings.name, str(settings.folder)) == ("mine", "results/mine")
    assert settings.calibrate.alpha == 0.05
    assert settings.data.class_names == ["background", "cat"]
    assert settings.data.class_prompts == [["background"], ["cat", "kitten"]]
    assert settings.data.mask_values == [[0], [8]]
    assert settings.data.background_index == 0


def test_the_run_files_that_we_ship_are_valid():
    for name in ("demo", "camvid", "voc_animals"):
        assert config.load(name).name == name


def test_a_child_file_overrides_only_what_it_names(tmp_path, run_file):
    child = tmp_path / "child.yaml"
    child.write_text("extends: mine.yaml\ncalibrate: {alpha: 0.2}\ndata: {grid: [64, 96]}\n")
    settings = config.load(child)
    assert settings.calibrate.alpha == 0.2
    assert settings.data.grid == [64, 96]
    assert settings.data.class_names == ["background", "cat"]


def test_a_file_that_extends_itself_is_refused(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text("extends: loop.yaml\n")
    with pytest.raises(ConfigError, match="extends itself"):
        config.load(path)


@pytest.mark.parametrize(
    "overrides",
    [{"alpha": 0.1}, {"calibrate.alpha": 0.1}, {"calibrate": {"alpha": 0.1}}],
)
def test_a_setting_can_be_overridden_by_short_name_full_name_or_section(run_file, overrides):
    assert config.load(run_file, overrides).calibrate.alpha == 0.1


def test_overrides_survive_the_way_through_a_command_line(run_file):
    overrides = {"alpha": 0.1, "data.grid": [3, 4], "weights": "nvidia/mit-b0", "val": None}
    words = config.as_arguments(overrides)
    assert config.parse_overrides(words[1::2]) == config.full_names(overrides)


def test_snakemakes_untyped_entries_are_typed():
    run, overrides = config.split_workflow_config({"run": "x", "stage1": {"epochs": "3"}, "grid": ["8", "16"]})
    assert run == "x"
    assert overrides == {"stage1.epochs": 3, "data.grid": [8, 16]}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"alhpa": 0.1}, "alhpa is not a setting; did you mean calibrate.alpha?"),
        ({"calibrate": {"alhpa": 0.1}}, "calibrate.alhpa is not a setting; did you mean calibrate.alpha?"),
        ({"epochs": 3}, "'epochs' is ambiguous: stage1.epochs, stage2.epochs"),
        ({"alpha": 1.5}, r"calibrate.alpha must be less than 1, got 1.5 \(float\)"),
        ({"alpha": "1e-2"}, r"calibrate.alpha must be number, got '1e-2' \(str\); write 1.0e-4"),
        ({"data.splits.train": 116}, r"data.splits.train must be string, got 116 \(int\)"),
        ({"annotator": "onnx"}, "annotator is 'onnx', but the section 'onnx' is missing"),
        ({"background": "backgroud"}, "not among the classes; did you mean background?"),
        ({"classes": ["a", "a"]}, "class name 'a' twice"),
        ({"classes": [{"name": "a", "values": [1]}, {"name": "b", "values": [1]}]}, "mask value 1 twice"),
        ({"ignore_values": [8]}, r"ignore_values has \[8\], which classes name too"),
    ],
)
def test_a_mistake_is_named_in_full(run_file, overrides, message):
    with pytest.raises(ConfigError, match=message):
        config.load(run_file, overrides)


def test_every_mistake_of_a_file_is_listed(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(MINIMAL + "calibrate: {alhpa: 0.1, folds: '3'}\nalpha: 1\n")
    with pytest.raises(ConfigError) as error:
        config.load(path)
    assert str(error.value).splitlines() == [
        f"{path}: calibrate.folds must be integer, got '3' (str)",
        "calibrate.alhpa is not a setting; did you mean calibrate.alpha?",
        "alpha is not a setting; did you mean calibrate.alpha?",
    ]


def test_an_unknown_run_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"no run file camvd .*did you mean camvid\?; known: camvid, demo"):
        config.load("camvd")


def test_settings_that_only_change_speed_are_not_tracked(run_file):
    slow = config.load(run_file, {"annotate.batch_size": 1, "train.workers": 0, "tile_megabytes": 1})
    fast = config.load(run_file, {"annotate.batch_size": 64, "train.workers": 8, "tile_megabytes": 500})
    assert slow.tracked() == fast.tracked()
    assert slow.tracked() != config.load(run_file, {"alpha": 0.1}).tracked()
