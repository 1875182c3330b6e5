import torch

from pipeline.datasets import load_samples
from train.augment import cutmix, partners, strong_views, weak_view
from train.data import NUM_VIEWS, Draw
from train.stage1 import open_run_labels, training_images
from train.views import num_rows, weak_views_of


def examples_and_views(make_run, **train):
    settings = make_run(train=train)
    index = load_samples(settings.folder / "samples.json")
    images = training_images(settings, index, open_run_labels(settings))
    examples = [images[Draw(0, index, position)] for index, position in ((4, 8), (0, 2), (6, 9), (1, 3))]
    return examples, weak_views_of(examples, 12, 64, torch.device("cpu"))


def test_weak_views_are_those_that_were_drawn(make_run):
    examples, views = examples_and_views(make_run)
    assert views.images.shape == (4, 3, 64, 64)
    assert views.images.dtype == views.targets.dtype == torch.uint8
    for number, example in enumerate(examples):
        image, target = weak_view(example.image, example.target, example.geometry, 64)
        assert torch.equal(views.images[number], image)
        assert torch.equal(views.targets[number], target)


def test_padding_is_always_ignored(make_run):
    _, views = examples_and_views(make_run, scale=[0.3, 0.4])
    is_padding = (views.images == 0).all(dim=1)
    assert is_padding.float().mean() > 0.5
    assert (views.targets[is_padding] == 255).all()


def test_sets_are_cropped_and_mirrored_as_the_targets_are(make_run):
    settings = make_run(
        train={"scale": [0.5, 1.5]},
        pseudolabel={"rule": "singleton", "keep_sets": True},
        stage1={"set_loss": "partial"},
    )
    index = load_samples(settings.folder / "samples.json")
    images = training_images(settings, index, open_run_labels(settings))
    examples = [images[Draw(epoch, image)] for epoch in range(3) for image in range(2, 6)]
    views = weak_views_of(examples, len(examples), 64, torch.device("cpu"))
    for number, example in enumerate(examples):  # each byte as if it were a target
        _, expected = weak_view(example.image, example.sets[0], example.geometry, 64)
        is_padding = (views.images[number] == 0).all(dim=0)
        assert torch.equal(views.sets[number, 0], expected.masked_fill(is_padding, 0))
    assert {example.geometry.flip for example in examples} == {True, False}
    assert views.split()[1].sets.any(dim=(1, 2, 3)).all()
    assert not views.split()[0].sets.any()


def test_splits_into_labeled_and_unlabeled_images_that_keep_their_positions(make_run):
    examples, views = examples_and_views(make_run)
    labeled, unlabeled = views.split()
    assert (labeled.positions, unlabeled.positions) == ([2, 3], [8, 9])
    assert labeled.examples == [examples[1], examples[3]]
    assert torch.equal(labeled.images, views.images[[1, 3]])
    assert torch.equal(unlabeled.targets, views.targets[[0, 2]])


def test_every_view_of_every_image_of_the_batch_has_its_own_row(make_run):
    _, views = examples_and_views(make_run)
    rows = [row for view in range(NUM_VIEWS) for row in views.rows(view)]
    assert len(set(rows)) == len(rows) == NUM_VIEWS * 4
    assert max(rows) < num_rows(12) == NUM_VIEWS * 12


def test_strong_and_mixed_views_are_those_that_were_drawn(make_run):
    examples, views = examples_and_views(make_run)
    for view in range(NUM_VIEWS):
        expected = strong_views(views.images, [example.photometrics[view] for example in examples])
        assert torch.equal(views.strong(view), expected)
        boxes = [example.boxes[view] for example in examples]
        (mixed,) = views.mixed(view, views.targets)
        assert torch.equal(mixed, cutmix([views.targets], boxes, partners(4))[0])
