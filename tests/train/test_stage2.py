import dataclasses
import shutil

import pytest
import torch

from pipeline.datasets import load_samples
from pipeline.errors import TrainingError
from pipeline.receipt import write_json
from train.checkpoint import load_checkpoint
from train.compute import Compute
from train.loop import new_state, optimise
from train.losses import pixel_cross_entropy
from train.schedule import unlabeled_weight
from train.stage1 import stage1
from train.stage2 import finished_stage1, self_labels, self_training_loss, stage2, stage_of
from train.student import Student, load_model, random_model

CPU = Compute(torch.device("cpu"), torch.float32)


def run_stage1(settings):
    write_json(settings.folder / "stage1.json", stage1(settings))
    return load_checkpoint(settings.folder / "stage1" / "checkpoint.pt")


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
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=generator)
    targets = torch.randint(0, 3, (3, 64, 64), dtype=torch.uint8, generator=generator)
    targets[1:] = 0
    targets[:, :, 50:] = 255
    return images, targets


def test_one_step_is_eq_5_and_sgd_as_computed_by_hand(make_run, batch):
    settings = make_run(train={"momentum": 0.9, "weight_decay": 0.01, "head_lr_multiplier": 3.0})
    stage = _with_one_labeled(settings)
    images, targets = batch
    model = random_model("tiny", settings.data.class_names)
    state = new_state(Student(model, CPU), settings.train)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.train()

    torch.manual_seed(7)
    loss = optimise(state, stage, images, targets)

    by_hand = random_model("tiny", settings.data.class_names)
    by_hand.load_state_dict(before, strict=False)
    student = Student(by_hand.eval(), CPU)
    with torch.no_grad():
        own = student.logits(images[1:]).argmax(dim=1)
    own[targets[1:] == 255] = 255
    by_hand.train()
    torch.manual_seed(7)
    logits = student.logits(images)
    expected = 0.5 * cross_entropy_by_hand(logits[:1], targets[:1]) + 0.5 * cross_entropy_by_hand(logits[1:], own)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
    factor = (1 - 8 / (8 + 10)) ** 0.9  # Stage I has taken 8 of the 18 steps
    for name, parameter in by_hand.named_parameters():
        lr = settings.train.lr * (3.0 if name.startswith("decode_head.") else 1.0) * factor
        moved = before[name] - lr * (parameter.grad + 0.01 * before[name])
        torch.testing.assert_close(dict(model.named_parameters())[name], moved, rtol=1e-5, atol=1e-6)


def _with_one_labeled(settings):
    run_stage1(settings)
    return stage2_of(settings)


def test_the_student_labels_real_pixels_and_never_padding(batch):
    images, targets = batch
    student = Student(random_model("tiny", ["a", "b", "c"]), CPU)
    labels = self_labels(student, images, targets)
    assert torch.equal(labels == 255, targets == 255)
    assert torch.equal(labels[targets != 255], student.classes(images)[targets != 255])


def test_lambda_weighs_the_two_parts(batch):
    images, targets = batch
    student = Student(random_model("tiny", ["a", "b", "c"]).eval(), CPU)  # no dropout: the parts add up exactly

    def loss(weight):
        return self_training_loss(student, images, targets, 1, weight).item()

    assert loss(0.25) == pytest.approx(0.75 * loss(0.0) + 0.25 * loss(1.0))
    assert loss(0.0) == pytest.approx(pixel_cross_entropy(student.logits(images[:1]), targets[:1]).item())


def test_goes_on_from_stage_one_weights_and_momentum(make_run):
    settings = make_run()
    checkpoint = run_stage1(settings)
    state = new_state(Student(random_model("tiny", settings.data.class_names), CPU), settings.train)
    state.load_weights(checkpoint)
    assert state.step == 0
    moments = [entry["momentum_buffer"] for entry in state.optimizer.state_dict()["state"].values()]
    assert len(moments) == len(list(state.student.model.parameters()))
    assert all(moment.any() for moment in moments)
    assert all(
        torch.equal(value, checkpoint["model"][name]) for name, value in state.student.model.state_dict().items()
    )


def test_a_batch_holds_labelled_images_first_and_an_epoch_is_a_pass_over_the_unlabelled(make_run):
    settings = make_run(stage2={"epochs": 3, "batch_labeled": 2, "batch_unlabeled": 2})
    run_stage1(settings)
    stage = stage2_of(settings)
    assert (stage.steps_per_epoch, stage.num_steps) == (5 // 2, 6)
    batches = [stage.draws(step) for step in range(stage.num_steps)]
    assert all([draw.place < 3 for draw in draws] == [True, True, False, False] for draws in batches)
    labeled = [draw.place for draws in batches for draw in draws[:2]]
    assert all(sorted(labeled[i : i + 3]) == [0, 1, 2] for i in range(0, 12, 3))  # cycled, each pass complete
    for epoch in range(3):
        unlabeled = [draw.place for draws in batches[2 * epoch : 2 * epoch + 2] for draw in draws[2:]]
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


def test_masks_of_unlabelled_images_make_no_difference(make_run):
    settings = make_run()
    index = load_samples(settings.folder / "samples.json")
    masks = [index.root / f"{sample.id}_mask.png" for sample in index.of("unlabeled")]
    run_stage1(settings)
    with_masks = stage2(settings)["history"]
    for mask in masks:
        mask.unlink()
    run_stage1(settings)
    assert stage2(settings)["history"] == with_masks


def test_no_epochs_end_with_the_student_of_stage_one(make_run):
    settings = make_run(stage2={"epochs": 0})
    run_stage1(settings)
    facts = stage2(settings)
    assert (facts["num_steps"], facts["history"], facts["final_loss"]) == (0, [], None)
    first, second = (load_model(settings.folder / stage / "student").state_dict() for stage in ("stage1", "stage2"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_needs_a_finished_stage_one(make_run):
    settings = make_run()
    with pytest.raises(TrainingError, match=r"finished stage1, but there is none in .*; run snakemake.* stage1"):
        stage2(settings)
    run_stage1(settings)
    (settings.folder / "stage1.json").unlink()
    with pytest.raises(TrainingError, match="finished stage1, but there is none"):
        stage2(settings)


def test_refuses_a_stage_one_of_other_settings(make_run):
    settings = make_run()
    run_stage1(settings)
    other = settings.model_copy(update={"train": settings.train.model_copy(update={"lr": 0.5})})
    with pytest.raises(TrainingError, match=r"made by other settings or data than this run's.*run snakemake"):
        stage2(other)


def test_refuses_a_stage_one_of_other_images(make_run):
    settings = make_run()
    run_stage1(settings)
    index = load_samples(settings.folder / "samples.json")
    changed = [dataclasses.replace(sample, image_digest="another") for sample in index.samples]
    write_json(settings.folder / "samples.json", dataclasses.replace(index, samples=tuple(changed)).as_json())
    with pytest.raises(TrainingError, match="other settings or data"):
        stage2(settings)
