import logging
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import SegformerForSemanticSegmentation

from pipeline.datasets import load_samples
from pipeline.errors import DatasetError, StoreError, TrainingError
from pipeline.receipt import write_json
from pipeline.store import open_labels
from train.checkpoint import load_checkpoint
from train.plan import plan_fingerprint
from train.stage1 import open_run_labels, stage1, stage_of


def checkpoint_of(settings, stage="stage1"):
    return load_checkpoint(settings.folder / stage / "checkpoint.pt")


def weights_of(settings, stage="stage1"):
    return SegformerForSemanticSegmentation.from_pretrained(settings.folder / stage / "student").state_dict()


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def test_trains_on_the_union_and_reports_what_it_did(make_run):
    settings = make_run(failed=(2,), train={"validate_every": 1})
    facts = stage1(settings)
    labels = open_labels(settings.folder / "labels.zarr")
    assert (facts["num_labeled"], facts["num_pseudolabeled"]) == (3, 4)
    assert facts["num_steps"] == 2 * (7 // 2)
    assert facts["keep_rate"] == pytest.approx(0.9, abs=0.02)
    assert facts["labels_fingerprint"] == labels.fingerprint
    assert [(entry["epoch"], entry["step"]) for entry in facts["history"]] == [(1, 3), (2, 6)]
    assert all(math.isfinite(entry["loss"]) and 0 <= entry["miou"] <= 1 for entry in facts["history"])
    assert facts["final_loss"] == facts["history"][-1]["loss"]
    assert facts["seconds"] > 0
    write_json(settings.folder / "stage1.json", facts)  # all of it is JSON


def test_learns_and_writes_a_student_that_transformers_loads(make_run):
    settings = make_run(stage1={"epochs": 12}, train={"validate_every": 4, "checkpoint_every": 7})
    facts = stage1(settings)
    losses = [entry["loss"] for entry in facts["history"]]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.4 * losses[0]
    assert facts["history"][-1]["miou"] > 0.6
    checkpoint = checkpoint_of(settings)
    assert checkpoint["finished"]
    assert checkpoint["step"] == checkpoint["num_steps"] == 48
    assert equal(checkpoint["model"], weights_of(settings))


def test_the_learning_rate_falls_over_both_stages_or_over_one(make_run):
    settings = make_run()
    index, labels = _opened(settings)
    both = stage_of(settings, index, labels)
    per_stage = settings.model_copy(update={"train": settings.train.model_copy(update={"lr_scope": "stage"})})
    alone = stage_of(per_stage, index, labels)
    assert both.num_steps == 8
    assert both.lr_factor(4) == pytest.approx((1 - 4 / (8 + 10)) ** 0.9)
    assert alone.lr_factor(4) == pytest.approx((1 - 4 / 8) ** 0.9)
    factors = [both.lr_factor(step) for step in range(8)]
    assert factors[0] == 1
    assert all(later < earlier for earlier, later in pairwise(factors))


def test_a_batch_larger_than_the_list_makes_one_step_an_epoch(make_run):
    facts = stage1(make_run(stage1={"epochs": 2, "batch_size": 11}))
    assert facts["num_steps"] == 2


def test_a_finished_stage_is_computed_again_with_the_same_result(make_run, caplog):
    settings = make_run()
    first = stage1(settings)
    weights = weights_of(settings)
    (settings.folder / "stage1" / "student" / "model.safetensors").unlink()
    with caplog.at_level(logging.INFO):
        second = stage1(settings)
    assert "starting afresh" in caplog.text
    assert "finished run" in caplog.text
    assert second["history"] == first["history"]
    assert equal(weights, weights_of(settings))


def test_a_checkpoint_of_other_settings_or_a_broken_one_is_not_resumed(make_run, caplog):
    settings = make_run()
    path = settings.folder / "stage1" / "checkpoint.pt"
    stage1(settings)
    caplog.set_level(logging.INFO)
    stage1(settings.model_copy(update={"seed": 1}))
    assert "was made by other settings or data" in caplog.text
    path.write_bytes(path.read_bytes()[:1000])
    stage1(settings)
    assert "is unreadable" in caplog.text


def test_the_old_receipt_is_gone_as_soon_as_training_starts(make_run):
    settings = make_run(train={"lr": 1e30})
    receipt = settings.folder / "stage1.json"
    write_json(receipt, {})
    with pytest.raises(TrainingError):
        stage1(settings)
    assert not receipt.exists()


def test_divergence_is_an_error_that_keeps_the_last_good_checkpoint(make_run):
    settings = make_run(train={"lr": 1e30, "checkpoint_every": 1})
    with pytest.raises(TrainingError, match=r"stage1 diverged: the (loss of|weights after) step \d.*lower train\.lr"):
        stage1(settings)
    checkpoint = checkpoint_of(settings)
    if checkpoint is not None:
        assert not checkpoint["finished"]
        assert all(value.isfinite().all() for value in checkpoint["model"].values())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_too(make_run, precision):
    settings = make_run(train={"precision": precision})
    facts = stage1(settings)
    assert facts["precision"] == precision
    assert math.isfinite(facts["final_loss"])


def test_the_plan_changes_with_what_changes_the_weights_only(make_run):
    settings = make_run()
    index = load_samples(settings.folder / "samples.json")
    plan = plan_fingerprint(settings, index)

    def changed(section, **values):
        return settings.model_copy(update={section: getattr(settings, section).model_copy(update=values)})

    for same in (changed("train", workers=2, checkpoint_every=1), changed("evaluate", num_examples=1)):
        assert plan_fingerprint(same, index) == plan
    others = [changed("train", lr=0.1), changed("stage1", epochs=3), changed("stage2", epochs=3)]
    fingerprints = {plan_fingerprint(other, index) for other in others}
    assert len(fingerprints | {plan}) == 4
    alone = changed("train", lr_scope="stage")
    longer = alone.model_copy(update={"stage2": settings.stage2.model_copy(update={"epochs": 9})})
    assert plan_fingerprint(alone, index) == plan_fingerprint(longer, index)


def _opened(settings):
    index = load_samples(settings.folder / "samples.json")
    return index, open_run_labels(settings, index)


def test_needs_samples_and_labels(make_run):
    settings = make_run()
    (settings.folder / "pseudolabel.json").unlink()
    with pytest.raises(StoreError, match="pseudolabel has not finished; run snakemake --cores 8 pseudolabel"):
        stage1(settings)
    (settings.folder / "samples.json").unlink()
    with pytest.raises(DatasetError, match="run snakemake --cores 8 prepare"):
        stage1(settings)


def test_refuses_labels_of_another_fingerprint(make_run):
    settings = make_run()
    write_json(settings.folder / "pseudolabel.json", {"fingerprint": "another"})
    with pytest.raises(StoreError, match=r"made by other settings or data.*expected another"):
        stage1(settings)


def test_refuses_labels_of_other_images_or_classes(make_run):
    settings = make_run()
    renamed = settings.data.model_copy(
        update={"classes": [c.model_copy(update={"name": c.name.upper()}) for c in settings.data.classes]}
    )
    with pytest.raises(StoreError, match=r"has the classes .*expected \['FLOOR'"):
        stage1(settings.model_copy(update={"data": renamed}))
    index = load_samples(settings.folder / "samples.json")
    content = index.as_json()
    write_json(
        settings.folder / "samples.json", content | {"samples": content["samples"][:-3] + content["samples"][-2:]}
    )
    with pytest.raises(StoreError, match="labels other images than the unlabelled ones"):
        stage1(settings)


def test_refuses_a_store_that_has_lost_a_label(make_run):
    settings = make_run()
    (Path(settings.folder) / "labels.zarr" / "label" / "c" / "3" / "0" / "0").unlink()
    with pytest.raises(StoreError, match=r"has lost 1 labels, e\.g\. unlabeled_03"):
        stage1(settings)
