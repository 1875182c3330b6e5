import logging
import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from receipts import facts_of
from transformers import SegformerForSemanticSegmentation

from pipeline.datasets import load_samples, resize_nearest, save_samples
from pipeline.errors import DatasetError, StoreError, TrainingError
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.store import open_labels
from train.data import Draw
from train.engine.checkpoint import load_checkpoint
from train.engine.stage import own_draws
from train.engine.state import new_state
from train.machine.device import compute_of
from train.objective import num_pixels, term_losses
from train.plan import labeled_samples, plan_fingerprint
from train.recipe import new_student
from train.stage1 import open_run_labels, stage1, stage_of, training_images
from train.student import load_student
from train.students import num_parameters
from train.views import weak_views_of


def checkpoint_of(settings, stage="stage1"):
    return load_checkpoint(settings.folder / stage / "checkpoint.pt")


def weights_of(settings, stage="stage1"):
    return SegformerForSemanticSegmentation.from_pretrained(settings.folder / stage / "student").state_dict()


def with_settings(settings, section, **values):
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=values)})


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
    Run(settings).finish("stage1", facts)  # all of it is JSON


def test_learns_and_writes_a_student_that_transformers_loads(make_run):
    settings = make_run(stage1={"epochs": 12, "strong": False}, train={"validate_every": 4})
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
    assert "starting from the beginning" in caplog.text
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
    assert "starting from the beginning, because" in caplog.text
    assert "checkpoint.pt is damaged" in caplog.text


def test_the_old_receipt_is_gone_as_soon_as_training_starts(make_run):
    settings = make_run(train={"lr": 1e30})
    receipt = settings.folder / "stage1.json"
    receipt.write_text("{}")
    with pytest.raises(TrainingError):
        stage1(settings)
    assert not receipt.exists()


def test_divergence_is_an_error_that_keeps_the_last_good_checkpoint(make_run):
    settings = make_run(train={"lr": 1e30, "checkpoint_minutes": 0})
    with pytest.raises(TrainingError, match=r"stage1 diverged: the (loss of|weights after) step \d.*lower train\.lr"):
        stage1(settings)
    checkpoint = checkpoint_of(settings)
    if checkpoint is not None:
        assert not checkpoint["finished"]
        assert all(value.isfinite().all() for value in checkpoint["model"].values())


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision_trains_too(make_run, precision):
    settings = make_run(train={"precision": precision})
    facts = stage1(settings)
    assert facts["precision"] == precision
    assert math.isfinite(facts["final_loss"])


def test_the_plan_changes_with_what_changes_the_weights_only(make_run):
    settings = make_run()
    index = load_samples(settings.folder / "samples.json")
    plan = plan_fingerprint(settings, index)
    changed = partial(with_settings, settings)
    for same in (changed("train", workers=2, checkpoint_minutes=1), changed("evaluate", num_examples=1)):
        assert plan_fingerprint(same, index) == plan
    others = [changed("train", lr=0.1), changed("stage1", epochs=3), changed("stage2", epochs=3)]
    fingerprints = {plan_fingerprint(other, index) for other in others}
    assert len(fingerprints | {plan}) == 4
    alone = changed("train", lr_scope="stage")
    longer = alone.model_copy(update={"stage2": settings.stage2.model_copy(update={"epochs": 9})})
    assert plan_fingerprint(alone, index) == plan_fingerprint(longer, index)


def _opened(settings):
    return load_samples(settings.folder / "samples.json"), open_run_labels(settings)


def test_needs_samples_and_labels(make_run):
    settings = make_run()
    (settings.folder / "samples.json").unlink()
    with pytest.raises(DatasetError, match="run snakemake --cores 8 prepare --config run=run"):
        stage1(settings)
    (settings.folder / "pseudolabel.json").unlink()
    with pytest.raises(StoreError, match="not finished; run snakemake --cores 8 pseudolabel --config run=run"):
        stage1(settings)


def test_refuses_labels_of_another_fingerprint(make_run):
    settings = make_run()
    Run(settings).finish("pseudolabel", facts_of("pseudolabel", fingerprint="another"))
    with pytest.raises(StoreError, match=r"expected another; run snakemake --cores 8 pseudolabel -R pseudolabel"):
        stage1(settings)


@pytest.mark.parametrize(
    ("section", "change", "named"),
    [("calibrate", {"alpha": 0.2}, "calibrate.alpha 0.05, now 0.2"), ("pseudolabel", {"rule": "raw"}, "now raw")],
)
def test_refuses_labels_of_other_settings(make_run, section, change, named):
    settings = make_run()
    changed = getattr(settings, section).model_copy(update=change)
    with pytest.raises(StoreError, match=rf"was made with other settings \(.*{named}.*, or run snakemake"):
        stage1(settings.model_copy(update={section: changed}))


def test_refuses_labels_of_other_images_or_classes(make_run):
    settings = make_run()
    labels_fingerprint = Run(settings).recorded("pseudolabel")["fingerprint"]
    renamed = settings.data.model_copy(
        update={"classes": [c.model_copy(update={"name": c.name.upper()}) for c in settings.data.classes]}
    )
    other = settings.model_copy(update={"data": renamed})
    Run(other).finish("pseudolabel", facts_of("pseudolabel", fingerprint=labels_fingerprint))
    with pytest.raises(StoreError, match=r"has the classes .*expected \['FLOOR'"):
        stage1(other)
    index = load_samples(settings.folder / "samples.json")
    save_samples(settings.folder / "samples.json", replace(index, samples=index.samples[:-3] + index.samples[-2:]))
    Run(settings).finish("pseudolabel", facts_of("pseudolabel", fingerprint=labels_fingerprint))
    with pytest.raises(StoreError, match="labels other images than the unlabeled ones"):
        stage1(settings)


@pytest.mark.parametrize(("labels", "array"), [("calibrated", "label"), ("raw", "p_background")])
def test_refuses_a_store_that_has_lost_what_it_reads(make_run, labels, array):
    settings = make_run(stage1={"labels": labels})
    (Path(settings.folder) / "labels.zarr" / array / "c" / "3" / "0" / "0").unlink()
    with pytest.raises(
        StoreError, match=rf"{array} of 1 images, e\.g\. unlabeled_03, is not on disk; run conformalsam"
    ):
        stage1(settings)


def test_without_pseudo_labels_only_labeled_images_are_seen_and_no_store_is_read(make_run):
    settings = make_run(stage1={"labels": "none"})
    for file in ("labels.zarr", "pseudolabel.json"):
        (settings.folder / file).rename(settings.folder / f"{file}.away")
    facts = stage1(settings)
    assert (facts["num_labeled"], facts["num_pseudolabeled"], facts["num_steps"]) == (3, 0, 2 * (3 // 2))
    assert (facts["keep_rate"], facts["labels_fingerprint"]) == (None, None)


def test_raw_labels_are_the_annotators_most_probable_classes(make_run):
    settings = make_run(stage1={"labels": "raw"})
    index, labels = _opened(settings)
    images = training_images(settings, index, labels)
    pseudolabeled = images.samples[3]
    expected = resize_nearest(labels.raw_argmax(0), (pseudolabeled.height, pseudolabeled.width))
    assert np.array_equal(images.target(pseudolabeled, expected.shape), expected)
    assert not (expected == 255).any()
    assert stage1(settings)["keep_rate"] == 1


def test_a_fixed_number_of_labeled_images_a_batch(make_run):
    settings = make_run(stage1={"batch_size": 3, "batch_labeled": 1})
    index, labels = _opened(settings)
    stage = stage_of(settings, index, labels)
    assert stage.steps_per_epoch == 5 // 2
    batches = [stage.draws(step) for step in range(4)]
    assert all([len(group) for group in groups] == [1, 2] for groups in batches)
    assert all(draw.image < 3 for labeled, _ in batches for draw in labeled)
    assert all(draw.image >= 3 for _, others in batches for draw in others)


def test_held_out_images_are_never_trained_on_and_change_with_the_seed(make_run):
    settings = make_run(num={"labeled": 8, "unlabeled": 2, "val": 2}, train={"holdout": 3})
    index, labels = _opened(settings)
    trained, held_out = labeled_samples(settings, index)
    assert sorted(sample.id for sample in trained + held_out) == [sample.id for sample in index.of("labeled")]
    seen = {sample.id for sample in training_images(settings, index, labels).samples}
    assert len(held_out) == 3
    assert not seen & {sample.id for sample in held_out}
    others = {tuple(s.id for s in labeled_samples(settings.model_copy(update={"seed": k}), index)[1]) for k in range(5)}
    assert len(others) > 1
    with pytest.raises(TrainingError, match=r"train.holdout is 8, but there are only 8 labeled images; lower it"):
        labeled_samples(with_settings(settings, "train", holdout=8), index)


def losses_of_one_batch(settings):
    """The objective of the first batch, and what a fixed student makes of it."""
    index, labels = _opened(settings)
    stage = stage_of(settings, index, labels)
    torch.manual_seed(0)
    state = new_state(new_student(settings, compute_of(settings.train)), settings.train, 3)
    examples = [stage.images[draw] for draw in own_draws(stage, 0)]
    views = weak_views_of(examples, len(examples), 64, torch.device("cpu"))
    objective = stage.objective(state, views, 0)
    state.student.model.eval()
    logits = state.student.logits(objective.images())
    losses = term_losses(objective, logits, num_pixels([objective]))
    return logits.detach(), objective, [w * loss for w, loss in zip(objective.weights(), losses, strict=True)]


def test_pooled_is_one_mean_over_all_pixels_and_eq_2_a_mean_of_each_kind(make_run):
    settings = make_run(num={"labeled": 4, "unlabeled": 4, "val": 2}, stage1={"batch_size": 4, "batch_labeled": 2})
    logits, objective, pooled = losses_of_one_batch(settings)
    targets = objective.targets().long()
    each = torch.nn.functional.cross_entropy(logits, targets, ignore_index=255, reduction="none")
    valid = targets != 255
    assert sum(pooled).item() == pytest.approx((each.sum() / valid.sum()).item(), rel=1e-5)
    assert len(objective.terms[0].images) == 2

    eq2 = with_settings(settings, "stage1", loss="eq2", pseudo_weight=0.3)
    _, _, losses = losses_of_one_batch(eq2)
    assert losses[0].item() == pytest.approx((each[:2].sum() / valid[:2].sum()).item(), rel=1e-5)
    assert losses[1].item() == pytest.approx(0.3 * (each[2:].sum() / valid[2:].sum()).item(), rel=1e-5)


WITH_SETS = {"pseudolabel": {"rule": "singleton", "keep_sets": True}}


@pytest.mark.parametrize("loss", ["pooled", pytest.param("eq2", marks=pytest.mark.slow)])
def test_the_set_loss_is_a_mean_of_its_own_beside_unchanged_losses(make_run, loss):
    batch = {"batch_size": 4, "batch_labeled": 2, "loss": loss}
    num = {"labeled": 4, "unlabeled": 4, "val": 2}
    settings = make_run(num=num, stage1={**batch, "set_loss": "partial", "set_weight": 0.3}, **WITH_SETS)
    logits, objective, (*others, of_sets) = losses_of_one_batch(settings)
    _, _, expected_others = losses_of_one_batch(with_settings(settings, "stage1", set_loss="none"))
    assert [one.item() for one in others] == [one.item() for one in expected_others]

    bits = objective.sets.sets[:, 0].int()
    inside = torch.stack([bits >> c & 1 for c in range(3)], dim=1).bool()
    has_set = inside.any(dim=1)
    mass = (logits[2:].softmax(dim=1) * inside).sum(dim=1)
    assert of_sets.item() == pytest.approx(0.3 * -mass[has_set].log().mean().item(), rel=1e-4)
    assert (objective.terms[1].targets[has_set] == 255).all()


def test_a_batch_without_unlabeled_images_has_no_set_loss(make_run):
    settings = make_run(stage1={"set_loss": "partial"}, **WITH_SETS)
    index, labels = _opened(settings)
    stage = stage_of(settings, index, labels)
    views = weak_views_of([stage.images[Draw(0, 0)]], 1, 64, torch.device("cpu"))
    objective = stage.objective(None, views, 0)
    losses = term_losses(objective, torch.zeros(1, 3, 8, 8), num_pixels([objective]))
    assert losses[1:].tolist() == [0, 0]


def test_learns_from_sets_and_reports_their_loss_and_how_many_teach(make_run, caplog):
    stage = {"set_loss": "partial", "epochs": 3, "strong": False}
    settings = make_run(stage1=stage, train={"validate_every": 1}, **WITH_SETS)
    with caplog.at_level(logging.INFO):
        facts = stage1(settings)
    assert 0.04 < facts["teaching_rate"] < 0.1  # a tenth has no label; of these, four fifths have a set of two classes
    assert "% of the pseudo-labels' pixels teach by their prediction set" in caplog.text
    losses = [point["loss_sets"] for point in facts["history"]]
    assert losses[-1] < losses[0]
    assert checkpoint_of(settings)["finished"]


def test_a_set_loss_without_sets_is_refused_with_what_to_do(make_run):
    settings = make_run()
    with pytest.raises(ValidationError, match=r"needs the prediction sets in labels.zarr.*; set pseudolabel.keep_sets"):
        Settings.model_validate(settings.model_dump() | {"stage1": {"set_loss": "partial"}})
    with pytest.raises(ValidationError, match="labels is raw; set labels: calibrated, or set_loss: none"):
        Settings.model_validate(settings.model_dump() | {"stage1": {"set_loss": "partial", "labels": "raw"}})
    kept = with_settings(with_settings(settings, "pseudolabel", keep_sets=True), "stage1", set_loss="partial")
    with pytest.raises(
        StoreError,
        match=r"other settings \(pseudolabel.keep_sets False, now True\).* run snakemake --cores 8 pseudolabel",
    ):
        stage1(kept)


def test_strong_views_change_colours_and_no_target(make_run):
    settings = make_run(stage1={"batch_size": 4})
    _, strong, _ = losses_of_one_batch(settings)
    _, weak, _ = losses_of_one_batch(with_settings(settings, "stage1", strong=False))
    assert torch.equal(strong.targets(), weak.targets())
    assert not torch.equal(strong.images(), weak.images())


def test_no_epochs_leave_a_new_student_to_stage_two(make_run):
    facts = stage1(make_run(stage1={"epochs": 0, "labels": "none"}))
    assert (facts["num_steps"], facts["history"], facts["best"]) == (0, [], None)


def test_allspark_keeps_its_block_with_the_student(make_run):
    settings = make_run(
        train={"framework": "allspark", "memory_warmup": 1}, stage1={"batch_size": 4, "batch_labeled": 2}
    )
    facts = stage1(settings)
    checkpoint = checkpoint_of(settings)
    assert checkpoint["model"]["memory.is_filled"].any()
    student = load_student(settings.folder / "stage1" / "student", compute_of(settings.train))
    state = new_state(new_student(settings, student.compute), settings.train, 3)
    state.load_weights(checkpoint)
    image = torch.randint(0, 255, (1, 3, 70, 50), dtype=torch.uint8)
    state.student.model.eval()
    student.model.eval()
    assert torch.equal(student.logits(image), state.student.logits(image))
    assert facts["num_parameters"] > num_parameters(student.model.network)


@pytest.mark.slow
def test_a_compiled_student_learns_the_same(make_run, monkeypatch):
    """Traced by torch.compile, but not turned into machine code: that takes a minute."""
    settings = make_run()
    eager = stage1(settings)["history"]
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled = stage1(with_settings(settings, "train", compile=True))["history"]
    assert [point["loss"] for point in compiled] == pytest.approx([point["loss"] for point in eager], rel=1e-4)
