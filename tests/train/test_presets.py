"""A literal reading: what each preset resolves to, against the table of the method's description.

The numbers below are typed from the paper (section 4.1), from AllSpark's and from UniMatch-V2's recipes, not taken from
the presets' files.
"""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pipeline.run_file import CONFIG_FOLDER, load_settings, preset_names
from pipeline.settings import Settings
from train.__main__ import main

PAPER = {
    "calibrate": {"variant": "pixel", "alpha": 0.05, "quantile": "paper", "class_thresholds": "pooled"},
    "pseudolabel": {"rule": "paper"},
    "train": {
        "student": "b5",
        "framework": "plain",
        "optimizer": "sgd",
        "lr": 0.003,
        "head_lr_multiplier": 10,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "decay_norms": True,
        "power": 0.9,
        "warmup_steps": 0,
        "lr_scope": "both",
        "ema": None,
        "crop": 513,
        "scale": [0.5, 2.0],
        "flip": 0.5,
        "holdout": 0,
        "accumulate": 1,
        "total_epochs": 80,
    },
    "stage1": {
        "fraction": 0.75,
        "labels": "calibrated",
        "batch_size": 4,
        "batch_labeled": None,  # union sampling
        "loss": "pooled",
        "strong": True,
    },
    "stage2": {
        "fraction": 0.25,
        "batch_labeled": 2,
        "batch_unlabeled": 2,
        "lambda_schedule": "exp",
        "lambda_start": 0.5,
        "lambda_end": 0.05,
        "lambda_per": "epoch",
        "strong_labeled": True,
        "views": 0,  # the weak view learns its own labels
        "cutmix": 0,
        "complementary_dropout": False,
        "confidence": "none",
    },
}
# What the others change.
CHANGES = {
    "paper": {},
    "plus": {
        "calibrate": {"quantile": "exact"},
        "train": {"optimizer": "adamw", "lr": 1e-5, "weight_decay": 0.01, "decay_norms": False, "ema": 0.996},
        "stage1": {"batch_labeled": 1},
        "stage2": {
            "lambda_schedule": "constant",
            "strong_labeled": False,
            "views": 2,
            "cutmix": 0.5,
            "complementary_dropout": True,
            "confidence": "threshold",
            "threshold": 0.95,
            "normaliser": "valid",
        },
    },
    "label-only": {"stage1": {"fraction": 1, "labels": "none"}, "stage2": {"fraction": 0}},
    "semi-baseline": {
        "stage1": {"fraction": 0, "labels": "none"},
        "stage2": {"fraction": 1, "lambda_schedule": "constant"},
    },
    "raw": {"stage1": {"labels": "raw"}, "stage2": {"fraction": 0}},
    "allspark": {
        "train": {"framework": "allspark", "memory_warmup": 5, "lr": 0.001},
        "stage1": {"fraction": 0, "labels": "none"},
        "stage2": {"fraction": 1, "lambda_schedule": "constant", "batch_labeled": 8, "batch_unlabeled": 8},
    },
    "conformalsam-allspark": {
        "train": {"framework": "allspark", "memory_warmup": 5},
        "stage1": {"batch_labeled": 2},
    },
}


def presets(*arguments):
    return CliRunner().invoke(main, ["presets", *arguments])


@pytest.mark.parametrize("name", CHANGES)
def test_a_preset_resolves_to_the_published_table(name):
    resolved = yaml.safe_load(presets(name).output)
    for section, expected in PAPER.items():
        wanted = expected | CHANGES[name].get(section, {})
        assert {key: resolved[section][key] for key in wanted} == wanted
        untold = set(resolved[section]) - set(wanted)
        defaults = Settings.model_fields[section].annotation.model_validate({}).model_dump()
        assert {key: resolved[section][key] for key in untold} == {key: defaults[key] for key in untold}


def test_the_list_names_every_preset_and_says_what_it_is():
    lines = presets().output.splitlines()
    assert [line.split()[0] for line in lines] == preset_names() == sorted(CHANGES)
    assert all(len(line.split()) > 5 for line in lines)


def test_an_unknown_preset_is_an_error_that_names_the_known_ones():
    result = presets("pluss")
    assert result.exit_code == 1
    assert "error: preset is 'pluss', expected one of allspark" in result.output
    assert "did you mean plus?" in result.output


# Epochs of Stage I and II. VOC and ADE20K: the paper's. Cityscapes and COCO: UniMatch-V2's 180 and 20 in the paper's
# proportion. The others: what their files say that two CPU cores can afford, in the same proportion.
LENGTHS = {"voc": (60, 20), "ade20k": (30, 10), "cityscapes": (135, 45), "coco": (15, 5)}
# What makes a preset the recipe that it is called: the stages that it has, labels, framework, batch_labeled, views.
KINDS = {
    "paper": ("both", "calibrated", "plain", None, 0),
    "plus": ("both", "calibrated", "plain", 1, 2),
    "label-only": ("all in stage1", "none", "plain", None, 0),
    "semi-baseline": ("all in stage2", "none", "plain", None, 0),
    "raw": ("first alone", "raw", "plain", None, 0),
    "allspark": ("all in stage2", "none", "allspark", None, 0),
    "conformalsam-allspark": ("both", "calibrated", "allspark", 2, 0),
}
RUNS = sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def lengths_of(run):
    """Those of the run file, or of the one that it extends."""
    tree = yaml.safe_load((CONFIG_FOLDER / f"{run}.yaml").read_text())
    if run in LENGTHS or "extends" in tree:
        return LENGTHS[run] if run in LENGTHS else lengths_of(Path(tree["extends"]).stem)
    total = tree["train"]["total_epochs"]
    assert not {"epochs", "fraction"} & {*tree["stage1"], *tree["stage2"]}
    return round(0.75 * total), total - round(0.75 * total)


@pytest.mark.parametrize("run", RUNS)
def test_every_preset_is_the_recipe_that_it_is_called_in_every_run_file(run):
    first, second = lengths_of(run)
    divided = {
        "both": (first, second),
        "all in stage1": (first + second, 0),
        "all in stage2": (0, first + second),
        "first alone": (first, 0),
    }
    assert sorted(KINDS) == preset_names()
    for preset, (division, *kind) in KINDS.items():
        settings = load_settings(run, {"preset": preset})
        assert (settings.stage1.epochs, settings.stage2.epochs) == divided[division], preset
        found = [settings.stage1.labels, settings.train.framework, settings.stage1.batch_labeled, settings.stage2.views]
        assert found == kind, preset
        # AllSpark's numbers for Cityscapes
        assert settings.train.memory_warmup == (15 if run.startswith("cityscapes") else 5), preset
    plain = load_settings(run)
    assert (plain.stage1.epochs, plain.stage2.epochs) == (first, second)
