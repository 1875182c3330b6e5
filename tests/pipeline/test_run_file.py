"""Settings: defaults, inheritance, overrides, and one-line errors with full names."""

import re

import pytest

from pipeline.errors import ConfigError
from pipeline.run_file import full_names, load_settings

MINIMAL = """
data:
  classes: [background, {name: cat, prompts: [cat, kitten], values: [8]}]
  background: background
annotate:
  annotator: python
  python: {factory: "a.b:c"}
"""


ANNOTATED = "annotate:\n  annotator: python\n  python: {factory: 'a.b:c'}\n"


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL)
    return path


def test_fills_defaults_and_takes_the_name_from_the_file(run_file):
    settings = load_settings(run_file)
    assert (settings.name, str(settings.folder)) == ("mine", "results/mine")
    assert settings.calibrate.alpha == 0.05
    assert settings.data.class_names == ["background", "cat"]
    assert settings.data.class_prompts == [["background"], ["cat", "kitten"]]
    assert settings.data.mask_values == [[0], [8]]
    assert settings.data.background_index == 0


def test_the_run_files_that_we_ship_are_valid():
    for name in ("demo", "camvid", "voc_animals"):
        assert load_settings(name).name == name


def test_the_runs_with_other_annotators_differ_from_their_parents_in_annotator_and_alpha():
    for name, parent in [
        ("camvid_ade20k", "camvid"), ("voc_animals_leaning", "voc_animals"), ("voc_animals_mobilenet", "voc_animals"),
        ("voc_animals_transformers", "voc_animals"), ("voc_glamm", "voc"),
    ]:  # fmt: skip
        child, base = load_settings(name).model_dump(), load_settings(parent).model_dump()
        changed = {key for key in child if child[key] != base[key]}
        own = {"alpha", "fixed_threshold"}
        assert changed - {"calibrate"} == {"name", "annotate"}
        assert {key for key, value in child["calibrate"].items() if value != base["calibrate"][key]} <= own
    onnx = load_settings("camvid_ade20k").annotate.onnx
    assert [name for name, channels in onnx.class_map.items() if not channels] == [
        "Pole", "SignSymbol", "Fence", "Bicyclist"
    ]  # fmt: skip
    assert (onnx.class_map["Car"], onnx.channels, onnx.mean) == ([21], list(range(32)), [0.5, 0.5, 0.5])
    assert load_settings("voc_animals_leaning").annotate.onnx.logit_bias == {"background": 5.06}


def test_a_child_file_overrides_only_what_it_names(tmp_path, run_file):
    child = tmp_path / "child.yaml"
    child.write_text("extends: mine.yaml\ncalibrate: {alpha: 0.2}\ndata: {grid: [64, 96]}\n")
    settings = load_settings(child)
    assert settings.calibrate.alpha == 0.2
    assert settings.data.grid == [64, 96]
    assert settings.data.class_names == ["background", "cat"]


def test_a_file_that_extends_itself_is_refused(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text("extends: loop.yaml\n")
    with pytest.raises(ConfigError, match="extends itself"):
        load_settings(path)


@pytest.mark.parametrize(
    "overrides",
    [{"alpha": 0.1}, {"calibrate.alpha": 0.1}, {"calibrate": {"alpha": 0.1}}],
)
def test_a_setting_can_be_overridden_by_short_name_full_name_or_section(run_file, overrides):
    assert load_settings(run_file, overrides).calibrate.alpha == 0.1


def test_a_short_name_means_a_single_value_or_a_section_by_its_value():
    assert full_names({"student": "b5"}) == {"train.student": "b5"}
    assert full_names({"student": {"run": "mine"}}) == {"annotate.student": {"run": "mine"}}


def test_a_short_name_means_a_stages_setting_before_one_of_a_tool():
    assert full_names({"weights": "x", "crop": 64, "num_images": 3}) == {
        "train.weights": "x", "train.crop": 64, "gallery.num_images": 3
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"alhpa": 0.1}, "alhpa is not a setting; did you mean calibrate.alpha?"),
        ({"calibrate": {"alhpa": 0.1}}, "calibrate.alhpa is not a setting; did you mean calibrate.alpha?"),
        ({"epochs": 3}, "'epochs' is ambiguous; write one of stage1.epochs, stage2.epochs"),
        ({"alpha": 1.5}, r"calibrate.alpha must be less than 1, got 1.5 \(float\)"),
        ({"alpha": "1e-2"}, r"calibrate.alpha must be number, got '1e-2' \(str\); write 1.0e-4"),
        ({"compute.device": "gpu"}, "compute.device must be auto, cpu, cuda or cuda:N, got 'gpu'$"),
        (
            {"scheduler": "processes"},
            "compute.scheduler must be threads or an address .*, got 'processes'$",
        ),
        ({"annotate.python.factory": "make"}, "annotate.python.factory must be module:function, got 'make'$"),
        ({"annotate.seem.templates": ["a cat"]}, r"\[0\] must be a sentence with {} in place of .*, got 'a cat'$"),
        ({"data.splits.train": 116}, 'data.splits.train is 116, which YAML reads as the number 116; .* "116"'),
        ({"name": "../../x"}, r"name: '../../x' is not a name of a run, .* dot at the end; set name: x"),
        ({"results": "a {b}"}, r"results: 'a {b}' has braces or control characters, .*; rename the folder"),
        ({"annotator": "onnx"}, "annotator is 'onnx', but the section 'onnx' is missing"),
        ({"background": "backgroud"}, "not among the classes; did you mean background?"),
        ({"classes": ["a", "a"]}, "class name 'a' twice"),
        ({"classes": [{"name": "a", "values": [1]}, {"name": "b", "values": [1]}]}, "mask value 1 twice"),
        ({"ignore_values": [8]}, r"ignore_values has \[8\], which classes have as well; remove them"),
    ],
)
def test_a_mistake_is_named_in_full(run_file, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(run_file, overrides)


def test_every_mistake_of_a_file_is_listed(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(MINIMAL + "calibrate: {alhpa: 0.1, folds: '3'}\nalpha: 1\n")
    with pytest.raises(ConfigError) as error:
        load_settings(path)
    assert str(error.value).splitlines() == [
        f"{path}: calibrate.folds must be integer, got '3' (str)",
        "calibrate.alhpa is not a setting; did you mean calibrate.alpha?",
        "alpha is not a setting; did you mean calibrate.alpha?",
    ]


def test_an_unknown_run_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"no run file camvd .*did you mean camvid\?; known: ade20k, camvid, "):
        load_settings("camvd")


def test_settings_that_only_change_speed_are_not_tracked(run_file):
    slow = load_settings(run_file, {"annotate.batch_size": 1, "train.workers": 0, "tile_megabytes": 1})
    fast = load_settings(run_file, {"annotate.batch_size": 64, "train.workers": 8, "tile_megabytes": 500})
    assert slow.tracked() == fast.tracked()
    assert slow.tracked() != load_settings(run_file, {"alpha": 0.1}).tracked()


def test_a_preset_comes_before_the_run_file_and_the_command_line(tmp_path, run_file):
    plain = load_settings(run_file)
    assert (plain.preset, plain.train.ema, plain.calibrate.quantile) == (None, None, "exact")
    plus = load_settings(run_file, {"preset": "plus"})
    assert (plus.train.optimizer, plus.train.lr, plus.train.ema, plus.stage2.views) == ("adamw", 1e-5, 0.996, 2)
    run_file.write_text(MINIMAL + "preset: plus\ntrain: {lr: 0.001, student: tiny}\n")
    own = load_settings(run_file, {"stage2.views": 1, "stage2.complementary_dropout": False})
    assert (own.train.lr, own.train.student, own.train.ema, own.stage2.views) == (0.001, "tiny", 0.996, 1)


def epochs(settings):
    return settings.stage1.epochs, settings.stage2.epochs


def test_stages_without_epochs_share_the_total(run_file):
    assert epochs(load_settings(run_file)) == (60, 20)  # of 80
    assert epochs(load_settings(run_file, {"total_epochs": 40})) == (30, 10)
    assert epochs(load_settings(run_file, {"total_epochs": 40, "stage2.fraction": 0.0})) == (30, 0)
    assert epochs(load_settings(run_file, {"total_epochs": 40, "stage1.epochs": 7, "stage2.epochs": None})) == (7, 10)
    assert epochs(load_settings(run_file, {"total_epochs": 1})) == (1, 1)  # no stage is lost to rounding
    assert epochs(load_settings(run_file, {"total_epochs": 40, "preset": "label-only"})) == (40, 0)


def test_how_epochs_were_given_is_not_tracked_but_the_epochs_are(run_file):
    shared = load_settings(run_file, {"total_epochs": 40})
    assert load_settings(run_file, {"stage1.epochs": 30, "stage2.epochs": 10}).tracked() == shared.tracked()
    assert load_settings(run_file, {"total_epochs": 44}).tracked() != shared.tracked()


@pytest.mark.parametrize(
    ("preset", "sections", "name", "has"),
    [
        ("label-only", "stage2: {epochs: 10}", "stage2.epochs", "no epochs in that stage"),
        ("raw", "stage2: {fraction: 0.5}", "stage2.fraction", "no epochs in that stage"),
        ("allspark", "stage1: {epochs: 30}", "stage1.epochs", "no epochs in that stage"),
        ("plus", "stage2: {epochs: 0}", "stage2.epochs", "epochs in that stage"),
        ("label-only", "stage1: {labels: calibrated}", "stage1.labels", "'none'"),
        ("paper", "train: {framework: allspark}", "train.framework", "'plain'"),
    ],
)
def test_a_run_file_does_not_make_another_recipe_of_a_preset_that_is_chosen_later(
    tmp_path, run_file, preset, sections, name, has
):
    run_file.write_text(f"{MINIMAL}{sections}\n")
    (tmp_path / "child.yaml").write_text(f"extends: mine.yaml\npreset: {preset}\n")
    for path, overrides in ((run_file, {"preset": preset}), (tmp_path / "child.yaml", {})):
        with pytest.raises(ConfigError, match=f"{name} is .*, but the preset {preset} has {has} and would become"):
            load_settings(path, overrides)


def test_a_preset_is_changed_by_what_is_written_beside_it(tmp_path, run_file):
    run_file.write_text(f"{MINIMAL}preset: raw\nstage2: {{epochs: 10}}\n")
    assert epochs(load_settings(run_file)) == (60, 10)
    run_file.write_text(f"{MINIMAL}stage1: {{epochs: 12}}\n")  # the same recipe, of another length
    assert epochs(load_settings(run_file, {"preset": "plus"})) == (12, 20)
    assert epochs(load_settings(run_file, {"preset": "semi-baseline", "stage1.epochs": 3})) == (3, 80)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"preset": "plsu"}, r"preset is 'plsu', expected one of allspark, .*; did you mean plus\?"),
        (
            {"train.student": "dinov2_s"},
            r"'dinov2_s', which is neither a folder nor one of .*tiny, b0.*mean dinov2-s\?",
        ),
        ({"train.scale": [2.0, 0.5]}, r"train: scale is \[2\.0, 0\.5\], but .* first; write \[0\.5, 2\.0\]"),
        ({"stage1.batch_labeled": 4}, "batch_labeled is 4, but batch_size is 4, .*; set batch_size: 5 or more"),
        ({"stage2.cutmix": 0.5}, "views is 0, so there is nothing to mix; set views: 1 or 2"),
        (
            {"stage2": {"complementary_dropout": True, "views": 1}},
            "needs two strong views, .* 1; set views: 2",
        ),
        ({"stage2.lambda_end": 0.0}, "lambda_schedule exp needs lambda_start and lambda_end above 0"),
    ],
)
def test_training_settings_that_do_not_fit_together_are_refused(run_file, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(run_file, overrides)


def test_a_folder_may_be_the_student(tmp_path, run_file):
    assert load_settings(run_file, {"train.student": str(tmp_path)}).train.student == str(tmp_path)


def test_a_rule_is_known_by_its_entry(run_file, odd_rule):
    assert load_settings(run_file, {"rule": odd_rule}).pseudolabel.rule == odd_rule
    known = "paper, no_background, argmax, singleton, raw, odd, auto, probe"
    message = rf"pseudolabel.rule: unknown rule 'singelton', expected one of {known}; did you mean singleton\?"
    with pytest.raises(ConfigError, match=message):
        load_settings(run_file, {"rule": "singelton"})


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("[bg, on, off]", r'classes\[1\] is on, which YAML reads as a boolean \(true\); write it in quotes: "on"\n.*'
         r'classes\[2\] is off, which YAML reads as a boolean \(false\); write it in quotes: "off"$'),
        ("[bg, 1, 010]", r'\[1\] is 1, which YAML reads as the number 1; .*\n.*is 010, .* number 8; .* quotes: "010"$'),
        ("[bg, {name: No, prompts: [1:30]}]", r'\[1\].name is No, .*\n.*prompts\[0\] is 1:30, .* number 90; .* "1:30"'),
        ("[bg, 2020-01-01]", r'is 2020-01-01, which YAML reads as a date; write it in quotes: "2020-01-01"'),
        ("[bg, null]", r'is null, which YAML reads as nothing; write it in quotes: "null"'),
        ("\n  - bg\n  -", r"data.classes\[1\] is empty; write a text, or remove the entry"),
        ("[bg, [a]]", r"data.classes\[1\] must be a name or a mapping, got \['a'\] \(list\)"),
        ('[bg, "a\\u0007"]', r"data.classes\[1\].name: 'a\\x07' has the invisible character U\+0007; remove it"),
        ('[bg, "\\uFEFFa"]', r"U\+FEFF; remove it"),
        ('[bg, " "]', r"data.classes\[1\].name: ' ' is blank; write a text"),
        ('[bg, "é", "e\\u0301"]', "has the class name 'é' twice"),
        ("[bg, {name: a, values: [70000]}]", r"\[1\].values\[0\] must be less than or equal to 65535, got 70000"),
    ],
)  # fmt: skip
def test_a_class_name_that_is_no_text_is_refused_with_what_to_write(tmp_path, classes, message):
    path = tmp_path / "mine.yaml"
    path.write_text(f"data:\n  classes: {classes}\n{ANNOTATED}")
    with pytest.raises(ConfigError, match=message) as error:
        load_settings(path)
    quotes = dict(re.findall(r" is (\S+), which YAML .* write it in quotes: (\S+)", str(error.value)))
    for word, quoted in quotes.items():  # the messages' own fix
        classes = re.sub(rf"(?<=[ \[]){word}\b", quoted, classes)
    if quotes:
        path.write_text(f"data:\n  classes: {classes}\n{ANNOTATED}")
        assert load_settings(path).data.num_classes >= 2


def test_other_texts_are_explained_too_and_overrides_without_the_file(tmp_path, run_file):
    onnx = "annotate:\n  annotator: onnx\n  onnx: {model: m, class_map: {bg: [0], off: [1]}}\n"
    (tmp_path / "child.yaml").write_text(f'data: {{classes: [bg, "off"]}}\n{onnx}')
    with pytest.raises(ConfigError, match=r"class_map.* is off, which YAML reads as a boolean .* quotes: \"off\""):
        load_settings(tmp_path / "child.yaml")
    with pytest.raises(ConfigError, match=r"classes\[1\] is on, which YAML reads as a boolean .* quotes: \"on\""):
        load_settings(run_file, {"data.classes": ["bg", True]})


def test_words_in_quotes_are_not_taken_for_the_one_without(tmp_path):
    onnx = 'onnx: {model: m, class_map: {"2024-13-45": [0], "[": [1], "on": [2], On: [3]}}'
    (tmp_path / "mine.yaml").write_text(f"data: {{classes: [a, b]}}\nannotate:\n  annotator: onnx\n  {onnx}\n")
    with pytest.raises(ConfigError, match=r'class_map.* is On, which YAML reads as a boolean .* in quotes: "On"'):
        load_settings(tmp_path / "mine.yaml")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_run_files_are_read_in_every_encoding_with_a_mark(run_file, encoding):
    run_file.write_bytes(MINIMAL.replace("cat", "chat é").encode(encoding))
    assert load_settings(run_file).data.class_names == ["background", "chat é"]


def test_a_run_file_that_is_no_text_is_refused(run_file):
    run_file.write_bytes(MINIMAL.replace("cat", "chat é").encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mine.yaml is not a text file in UTF-8 \(byte 0xe9 in line 3\); save it as"):
        load_settings(run_file)
