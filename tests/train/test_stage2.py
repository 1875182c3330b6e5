import dataclasses
import shutil

import pytest
import torch
from stage_runs import contents, digest_of

from pipeline.datasets import load_samples, save_samples
from pipeline.errors import StoreError, TrainingError
from pipeline.run import Run
from train.engine.checkpoint import load_checkpoint
from train.engine.stage import own_draws
from train.engine.state import new_state
from train.engine.step import training_step
from train.machine.device import Compute
from train.plan import labeled_samples, plan_fingerprint
from train.recipe import _image_masks, unmasked_images
from train.schedule import unlabeled_weight
from train.self_labels import Confidence, conformal_threshold, self_labels
from train.stage1 import stage1
from train.stage2 import finished_stage1, self_training_objective, stage2, stage_of
from train.student import Student
from train.students import load_network, random_network
from train.students.segformer import SegFormer
from train.views import weak_views_of

CPU = Compute(torch.device("cpu"), torch.float32)


TRAINED = {}
"""Plan and labels -> facts of Stage I, and the files that it wrote."""


def run_stage1(settings):
    """Stage I, trained once for all tests with the same plan and labels; returns its checkpoint."""
    folder = settings.folder / "stage1"
    plan = plan_fingerprint(settings, load_samples(settings.folder / "samples.json"))
    key = plan, digest_of(settings.folder / "labels.zarr")
    if key not in TRAINED:
        TRAINED[key] = stage1(settings), contents(folder)
    facts, files = TRAINED[key]
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    Run(settings).finish("stage1", facts)
    return load_checkpoint(folder / "checkpoint.pt")


def make_run_of(settings, **sections):
    """The same run with some settings changed."""
    changed = {name: getattr(settings, name).model_copy(update=update) for name, update in sections.items()}
    return settings.model_copy(update=changed)


def stage2_of(settings):
    index = load_samples(settings.folder / "samples.json")
    return stage_of(settings, index, finished_stage1(settings, index))


def cross_entropy_by_hand(logits, target):
    """Mean of -log softmax at the true class over pixels that are not 255."""
    valid = target != 255
    log_probability = torch.log(torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True))
    chosen = log_probability.gather(1, torch.where(valid, target, 0).long()[:, None])[:, 0]
    return -chosen[valid].mean()


@pytest.fixture
def one_thread_student():
    torch.manual_seed(0)
    return Student(random_network("tiny", ["floor", "square", "disc"]), CPU)


def examples_of(stage, step=0):
    return [stage.images[draw] for draw in own_draws(stage, step)]


def views_of_step(stage, step=0):
    examples = examples_of(stage, step)
    return weak_views_of(examples, len(examples), stage.images.train.crop, CPU.device)


def test_one_step_is_eq_5_and_sgd_as_computed_by_hand(make_run):
    settings = make_run(
        train={"momentum": 0.9, "weight_decay": 0.01, "decay_norms": True, "head_lr_multiplier": 3.0},
        stage2={"strong_labeled": False, "batch_unlabeled": 2},
    )
    run_stage1(settings)
    stage = stage2_of(settings)
    torch.manual_seed(0)
    model = random_network("tiny", settings.data.class_names)
    state = new_state(Student(model, CPU), settings.train, 3)
    before = {name: p.detach().clone() for name, p in model.state_dict().items()}
    model.train()
    without_dropout(model)
    measures = training_step(state, stage, examples_of(stage))

    by_hand = random_network("tiny", settings.data.class_names)
    by_hand.load_state_dict(before)
    views = views_of_step(stage)
    student = Student(by_hand.eval(), CPU)
    with torch.no_grad():
        own = student.logits(views.images[1:]).argmax(dim=1)
    own[views.targets[1:] == 255] = 255
    without_dropout(by_hand.train())
    logits = student.logits(views.images)
    expected = 0.5 * cross_entropy_by_hand(logits[:1], views.targets[:1]) + 0.5 * cross_entropy_by_hand(logits[1:], own)
    expected.backward()
    torch.testing.assert_close(measures[0], expected.detach(), rtol=1e-5, atol=1e-6)
    factor = (1 - 8 / (8 + 4)) ** 0.9  # Stage I has taken 8 of the 12 steps
    for name, parameter in by_hand.named_parameters():
        lr = settings.train.lr * (3.0 if name.startswith("decode_head.") else 1.0) * factor
        moved = before[name] - lr * (parameter.grad + 0.01 * before[name])
        torch.testing.assert_close(dict(model.named_parameters())[name], moved, rtol=1e-5, atol=1e-6)


def without_dropout(model):
    for module in model.modules():
        if hasattr(module, "probability"):
            module.probability = 0.0


def objective_of(settings, student, weight=0.25, step=0):
    """The objective of a step for a given student, and its views."""
    run_stage1(settings)
    stage = stage2_of(settings)
    state = new_state(student, settings.train, 3)
    views = views_of_step(stage, step)
    return self_training_objective(settings, state, views, weight, 0), views


def test_lambda_weighs_the_two_terms(make_run, one_thread_student):
    objective, _ = objective_of(make_run(), one_thread_student)
    assert [(term.name, term.weight) for term in objective.terms] == [("labeled", 0.75), ("unlabeled", 0.25)]


def test_the_paper_trains_the_weak_view_on_its_own_labels_and_shows_labeled_images_in_strong_colours(
    make_run, one_thread_student
):
    objective, views = objective_of(make_run(stage2={"batch_unlabeled": 3}), one_thread_student)
    labeled, unlabeled = objective.terms
    assert torch.equal(unlabeled.images, views.images[1:])
    expected = one_thread_student.classes(views.images[1:]).masked_fill(views.targets[1:] == 255, 255)
    assert torch.equal(unlabeled.targets, expected)
    assert torch.equal(labeled.images, views.split()[0].strong())
    assert objective.confident.item() == 1


PLUS = {"views": 2, "cutmix": 1.0, "confidence": "threshold", "threshold": 0.4, "batch_unlabeled": 4}


def test_strong_views_learn_the_mixed_labels_of_the_weak_view(make_run, one_thread_student):
    objective, views = objective_of(make_run(stage2=PLUS | {"strong_labeled": False}), one_thread_student)
    labeled, first, second = objective.terms
    weak = views.split()[1]
    own = self_labels(one_thread_student, weak.images, weak.targets, Confidence("threshold", 0.4))
    for view, term in enumerate((first, second)):
        images, labels, confident = weak.mixed(view, weak.strong(view), own.labels, own.is_confident)
        assert torch.equal(term.images, images)
        assert torch.equal(term.targets, labels.masked_fill(~confident, 255))
        assert term.num_pixels == confident.sum()
        assert term.weight == 0.125
        assert term.rows == [view * 5 + position for position in (1, 2, 3, 4)]
    assert not torch.equal(first.images, second.images)
    assert torch.equal(labeled.images, views.images[:1])
    assert objective.confident.item() == pytest.approx((own.is_confident.sum() / (weak.targets != 255).sum()).item())


def test_the_unlabeled_loss_is_divided_by_confident_or_by_real_pixels(make_run, one_thread_student):
    settings = make_run(train={"scale": [0.5, 0.6]}, stage2=PLUS | {"threshold": 0.999, "normaliser": "valid"})
    objective, views = objective_of(settings, one_thread_student)
    assert views.targets.eq(255).any()
    for view, term in enumerate(objective.terms[1:]):
        weak = views.split()[1]
        (padding,) = weak.mixed(view, weak.targets)
        assert term.num_pixels == (padding != 255).sum()
        assert (term.targets != 255).sum() < term.num_pixels


def test_complementary_dropout_shows_each_channel_in_one_of_two_views_and_keeps_all_channels_of_half_of_the_images(
    make_run, one_thread_student
):
    settings = make_run(
        num={"labeled": 3, "unlabeled": 16, "val": 2},
        stage2=PLUS | {"complementary_dropout": True, "batch_unlabeled": 16},
    )
    objective, _ = objective_of(settings, one_thread_student)
    labeled, first, second = objective.terms
    assert labeled.channel_masks is None
    assert [mask.shape for mask in first.channel_masks] == [(16, width, 1, 1) for width in (16, 32, 64, 96)]
    for one, other in zip(first.channel_masks, second.channel_masks, strict=True):
        assert torch.equal(one + other, torch.full_like(one, 2))
    is_unmasked = [bool((image == 1).all()) for image in first.channel_masks[-1]]
    assert sum(is_unmasked) == 8
    dropped = [image for image, unmasked in zip(first.channel_masks[-1], is_unmasked, strict=True) if not unmasked]
    assert all(set(image.flatten().tolist()) == {0, 2} for image in dropped)
    masks = objective.arguments()["channel_masks"]
    assert torch.equal(masks[0][:1], torch.ones(1, 16, 1, 1))
    assert torch.equal(masks[3][1:17], first.channel_masks[3])


@pytest.mark.parametrize("num", [1, 2, 5, 8])
def test_exactly_half_of_the_images_of_every_step_keep_all_channels_rounded_down(num):
    steps = [unmasked_images(7, step, num) for step in range(60)]
    assert {len(images) for images in steps} == {num // 2}
    assert all(images <= set(range(num)) for images in steps)
    if num > 1:
        assert set.union(*steps) == set(range(num))
        assert steps != [unmasked_images(8, step, num) for step in range(60)]


def test_feature_maps_of_one_width_share_their_mask():
    masks = _image_masks(3, [8, 8, 16, 8], is_unmasked=False)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[3])
    assert [set(mask.tolist()) for mask in masks] == [{0, 2}] * 4
    assert not torch.equal(masks[2][:8], masks[0])


def test_conformal_confidence_is_calibrated_on_held_out_images_at_every_epoch(make_run, monkeypatch):
    settings = make_run(
        num={"labeled": 5, "unlabeled": 4, "val": 2},
        train={"holdout": 3},
        stage2={"confidence": "conformal", "confidence_alpha": 0.25, "epochs": 2},
    )
    run_stage1(settings)
    seen = []

    def watched(student, images, alpha, workers):
        seen.append([sample.id for sample in images.samples])
        return conformal_threshold(student, images, alpha, workers)

    monkeypatch.setattr("train.stage2.conformal_threshold", watched)
    facts = stage2(settings)
    held_out = labeled_samples(settings, load_samples(settings.folder / "samples.json"))[1]
    assert seen == [[sample.id for sample in held_out]] * 2
    assert 0 <= facts["history"][-1]["confident"] <= 1


def test_goes_on_from_stage_one_weights_and_momentum(make_run):
    settings = make_run()
    checkpoint = run_stage1(settings)
    state = new_state(Student(random_network("tiny", settings.data.class_names), CPU), settings.train, 3)
    state.load_weights(checkpoint)
    assert state.step == 0
    moments = [entry["momentum_buffer"] for entry in state.optimizer.state_dict()["state"].values()]
    assert len(moments) == len(list(state.student.model.parameters()))
    assert all(moment.any() for moment in moments)
    assert all(
        torch.equal(value, checkpoint["model"][name]) for name, value in state.student.model.state_dict().items()
    )


@pytest.mark.parametrize("ema", [None, 0.9])
def test_allspark_may_begin_in_stage_two_from_the_plain_network_of_stage_one(make_run, ema):
    settings = make_run(
        train={"framework": "allspark", "memory_warmup": 0, "ema": ema, "lr_scope": "stage"},
        stage1={"network": "plain", "epochs": 1},
        stage2={"epochs": 1},
    )
    before = run_stage1(settings)
    assert not any(name.startswith(("block.", "memory.", "network.")) for name in before["model"])
    assert isinstance(load_network(settings.folder / "stage1" / "student"), SegFormer)
    started = stage2(make_run_of(settings, stage2={"epochs": 0}))
    assert started["num_steps"] == 0
    start = load_checkpoint(settings.folder / "stage2" / "checkpoint.pt")
    contents = [(before["model"], start["model"])]
    if ema is not None:
        contents.append((before["average"]["model"], start["average"]["model"]))
        assert start["average"]["step"] == before["average"]["step"] > 0
    for plain, with_block in contents:
        assert all(torch.equal(with_block[f"network.{name}"], value) for name, value in plain.items())
        assert set(with_block) > {f"network.{name}" for name in plain}
    assert not start["optimizer"]["state"]


def test_a_batch_holds_labeled_images_first_and_an_epoch_is_a_pass_over_the_unlabeled(make_run):
    settings = make_run(stage2={"epochs": 3, "batch_labeled": 2, "batch_unlabeled": 2})
    run_stage1(settings)
    stage = stage2_of(settings)
    assert (stage.steps_per_epoch, stage.num_steps) == (5 // 2, 6)
    batches = [stage.draws(step) for step in range(stage.num_steps)]
    assert all(
        [[draw.image < 3 for draw in group] for group in groups] == [[True] * 2, [False] * 2] for groups in batches
    )
    labeled = [draw.image for groups in batches for draw in groups[0]]
    assert all(sorted(labeled[i : i + 3]) == [0, 1, 2] for i in range(0, 12, 3))  # cycled, each pass complete
    for epoch in range(3):
        unlabeled = [draw.image for groups in batches[2 * epoch : 2 * epoch + 2] for draw in groups[1]]
        assert len(set(unlabeled)) == 4


def test_reports_lambda_with_every_point_of_the_curve(make_run):
    settings = make_run(stage2={"epochs": 3}, train={"validate_every": 1})
    run_stage1(settings)
    facts = stage2(settings)
    expected = [unlabeled_weight("exp", epoch, 3, 0.5, 0.05) for epoch in range(3)]
    assert [entry["lambda"] for entry in facts["history"]] == pytest.approx(expected)
    assert (facts["num_labeled"], facts["num_unlabeled"], facts["num_steps"]) == (3, 5, 15)
    assert facts["stage1_fingerprint"] == load_checkpoint(settings.folder / "stage1" / "checkpoint.pt")["fingerprint"]


def test_does_not_read_the_pseudo_labels(make_run):
    settings = make_run()
    run_stage1(settings)
    shutil.rmtree(settings.folder / "labels.zarr")
    (settings.folder / "pseudolabel.json").unlink()
    assert stage2(settings)["num_steps"] == 10


def test_masks_of_unlabeled_images_make_no_difference(make_run):
    settings = make_run(stage1={"epochs": 1}, stage2={"epochs": 1})
    index = load_samples(settings.folder / "samples.json")
    masks = [index.root / f"{sample.id}_mask.png" for sample in index.of("unlabeled")]
    run_stage1(settings)
    with_masks = stage2(settings)["history"]
    for mask in masks:
        mask.unlink()
    Run(settings).finish("stage1", stage1(settings))
    assert stage2(settings)["history"] == with_masks


def test_no_epochs_end_with_the_student_of_stage_one(make_run):
    settings = make_run(stage2={"epochs": 0})
    run_stage1(settings)
    facts = stage2(settings)
    assert (facts["num_steps"], facts["history"], facts["final_loss"]) == (0, [], None)
    first, second = (load_network(settings.folder / stage / "student").state_dict() for stage in ("stage1", "stage2"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_needs_a_finished_stage_one(make_run):
    settings = make_run()
    with pytest.raises(StoreError, match=r"the stage stage1 has not finished; run snakemake --cores 8 stage1 --config"):
        stage2(settings)
    run_stage1(settings)
    (settings.folder / "stage1/checkpoint.pt").unlink()
    with pytest.raises(TrainingError, match=r"finished stage1, but there is none in .*; run snakemake.* -R stage1"):
        stage2(settings)


def test_refuses_a_stage_one_of_other_settings(make_run):
    settings = make_run()
    run_stage1(settings)
    other = settings.model_copy(update={"train": settings.train.model_copy(update={"lr": 0.5})})
    with pytest.raises(StoreError, match=r"made with other settings \(train.lr 0.02, now 0.5\).*, or run snakemake"):
        stage2(other)


def test_refuses_a_stage_one_of_other_images(make_run):
    settings = make_run()
    run_stage1(settings)
    index = load_samples(settings.folder / "samples.json")
    changed = [dataclasses.replace(sample, image_digest="another") for sample in index.samples]
    save_samples(settings.folder / "samples.json", dataclasses.replace(index, samples=tuple(changed)))
    with pytest.raises(StoreError, match=r"stage1.json was made from other images or masks"):
        stage2(settings)
