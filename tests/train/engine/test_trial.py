"""The training pass before the first step: it finds what cannot be trained, and changes nothing of what can."""

import pytest
import torch
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    MobileViTConfig,
    MobileViTForSemanticSegmentation,
)

from pipeline.errors import TrainingError
from pipeline.run import Run
from train.engine.trial import try_training_pass
from train.stage1 import open_run_labels, stage1, stage_of
from train.student import Student
from train.students import Network
from train.students.drop import Dropout


def mobilevit():
    """It unfolds patches into the batch axis, and its head pools over the whole image before a batch norm."""
    sizes = {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 16, 16, 24, 24, 32, 64], "aspp_out_channels": 16}
    config = MobileViTConfig(num_labels=3, num_attention_heads=2, image_size=64, hidden_dropout_prob=0.1, **sizes)
    return MobileViTForSemanticSegmentation(config)


def mobilenet():
    config = MobileNetV2Config(depth_multiplier=0.25, min_depth=4, depth_divisible_by=4, num_labels=3)
    return MobileNetV2ForSemanticSegmentation(config)


def start(settings):
    from train.machine.device import compute_of
    from train.recipe import new_student

    stage = stage_of(settings, Run(settings).samples("stage1"), open_run_labels(settings))
    return new_student(settings, compute_of(settings.train)), stage


@pytest.mark.parametrize("build", [None, mobilenet, mobilevit])
def test_weights_buffers_gradients_and_random_numbers_are_as_before(make_run, tmp_path, build):
    if build is not None:
        build().save_pretrained(tmp_path / "student")
    student, stage = start(make_run(train={"student": "tiny" if build is None else str(tmp_path / "student")}))
    assert any("running_mean" in name or "norm" in name for name in student.model.state_dict())
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    random = torch.get_rng_state()
    try_training_pass(student, stage)
    after = student.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in student.model.parameters())
    assert student.model.training


@pytest.mark.parametrize("build", [mobilenet, mobilevit])
def test_a_head_that_needs_two_images_is_refused_before_anything_changes(make_run, tmp_path, build):
    build().save_pretrained(tmp_path / "student")
    settings = make_run(train={"student": str(tmp_path / "student"), "accumulate": 2})
    receipt = Run(settings).folder.receipt("stage1")
    receipt.write_text("of an earlier training")
    with pytest.raises(TrainingError, match=r"needs at least two images .*; lower train.accumulate \(now 2\)"):
        stage1(settings)
    assert receipt.read_text() == "of an earlier training"
    assert not Run(settings).folder.training("stage1").exists()


class Folding(Network):
    """A student whose dropout works on an axis that is not the batch's."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.dropout = Dropout(0.5)

    def forward(self, pixels, channel_masks=None):
        return self.dropout(pixels.flatten(0, 1)[1:])[:, None] * self.weight


def test_a_student_that_cannot_take_a_training_step_is_refused_with_its_reason(make_run):
    student, stage = start(make_run())
    message = r"stage1: the student Folding cannot be trained on 2 images of 64 x 64 pixels \(The size of tensor .*\); "
    with pytest.raises(TrainingError, match=message + r"change train.crop, .*, or set train.student to another"):
        try_training_pass(Student(Folding(), student.compute), stage)
    assert torch.is_grad_enabled()
