import math

import numpy as np
import pytest
import torch
from digests import take_in
from PIL import Image
from receipts import facts_of
from store_damage import flip_a_bit
from transformers import SegformerForSemanticSegmentation, SegformerImageProcessorPil

from pipeline.datasets import example_samples, load_samples
from pipeline.digests import digests_of
from pipeline.errors import StoreError, TrainingError
from pipeline.run import Run
from train.evaluate import evaluate, validation
from train.machine.device import compute_of
from train.plan import plan_fingerprint
from train.stage1 import stage1
from train.student import load_student
from train.students import random_network, save_network


def finish(settings, stage, seed, **facts):
    """Write what evaluation reads of a finished stage: a receipt, and a student with random weights."""
    torch.manual_seed(seed)
    if stage == "stage1":
        facts["plan_fingerprint"] = plan_fingerprint(settings, Run(settings).samples())
    Run(settings).finish(stage, facts_of(stage, **facts))
    write_student(settings, stage, random_network("tiny", settings.data.class_names))


def write_student(settings, stage, model, name="student"):
    """Into the folder of a finished stage, with its digests in the receipt."""
    run = Run(settings)
    save_network(model, settings.folder / stage / name)
    files = digests_of(settings.folder / stage, (settings.folder / stage).glob("*/*"))
    run.finish(stage, run.recorded(stage) | {"files": files})


def predictions_of_transformers(settings, stage, image):
    """Predictions by transformers alone, as a user without this package would get them."""
    folder = settings.folder / stage / "student"
    model = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    processor = SegformerImageProcessorPil.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(image, return_tensors="pt"))
    return processor.post_process_semantic_segmentation(outputs, target_sizes=[image.shape[:2]])[0].numpy()


def test_scores_are_those_of_the_saved_student_counted_pixel_by_pixel(make_run):
    settings = make_run()
    stage1_facts = stage1(settings)
    Run(settings).finish("stage1", stage1_facts)
    facts = evaluate(settings)["students"]["stage1"]
    index = load_samples(settings.folder / "samples.json")
    intersection, union, correct, counted = np.zeros(3), np.zeros(3), 0, 0
    for sample in index.of("val"):
        prediction = predictions_of_transformers(settings, "stage1", index.image(sample))
        mask = index.mask(sample, settings.data)
        for k in range(3):
            intersection[k] += ((prediction == k) & (mask == k)).sum()
            union[k] += ((prediction == k) | (mask == k)).sum()
        correct, counted = correct + (prediction == mask).sum(), counted + mask.size
    assert facts["miou"] == pytest.approx(np.mean(intersection / union))
    assert facts["pixel_accuracy"] == pytest.approx(correct / counted)
    assert list(facts["iou"].values()) == pytest.approx(list(intersection / union))
    assert list(facts["iou"]) == ["floor", "square", "disc"]
    assert np.sum(facts["confusion"]) == counted
    assert facts["miou"] == pytest.approx(stage1_facts["history"][-1]["miou"])


def test_measures_every_finished_stage_and_draws_with_the_last(make_run):
    settings = make_run()
    finish(settings, "stage1", seed=1, fingerprint="one")
    finish(settings, "stage2", seed=2, stage1_fingerprint="one")
    facts = evaluate(settings)
    assert list(facts["students"]) == ["stage1", "stage2"]
    assert facts["final"] == "stage2"
    assert facts["num_val"] == 2
    index = load_samples(settings.folder / "samples.json")
    examples = example_samples(index, 2)
    assert facts["examples"] == [sample.id for sample in examples]
    for sample in examples:
        with Image.open(settings.folder / "evaluate" / f"{sample.id}.png") as drawn:
            assert drawn.mode == "L"
            expected = predictions_of_transformers(settings, "stage2", index.image(sample))
            assert np.array_equal(np.asarray(drawn), expected)
    Run(settings).finish("evaluate", facts)  # everything is JSON


def test_predictions_of_an_earlier_evaluation_are_removed(make_run):
    settings = make_run()
    finish(settings, "stage1", seed=1, fingerprint="one")
    evaluate(settings)
    fewer = settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"num_examples": 0})})
    assert evaluate(fewer)["examples"] == []
    assert [path.name for path in (settings.folder / "evaluate").iterdir()] == ["areas.npz"]


def test_a_class_that_is_neither_in_the_masks_nor_predicted_is_listed_as_absent(make_run):
    settings = make_run()
    index = load_samples(settings.folder / "samples.json")
    for sample in index.of("val"):
        mask = index.mask(sample, settings.data)
        Image.fromarray(np.where(mask == 2, 255, mask).astype(np.uint8)).save(index.root / sample.mask)
    take_in(settings)
    finish(settings, "stage1", seed=1, fingerprint="one")
    model = random_network("tiny", settings.data.class_names)
    torch.nn.init.zeros_(model.decode_head.classifier.weight)
    model.decode_head.classifier.bias.data = torch.tensor([5.0, 1.0, 0.0])  # always the floor
    write_student(settings, "stage1", model)
    facts = evaluate(settings)["students"]["stage1"]
    assert facts["absent_classes"] == ["disc"]
    assert facts["iou"]["disc"] is None
    assert facts["iou"]["square"] == 0
    assert facts["miou"] == pytest.approx(facts["iou"]["floor"] / 2)
    assert not math.isnan(facts["miou"])


def always(settings, name, *logits):
    """Write a student of Stage I that gives every pixel the same logits."""
    model = random_network("tiny", settings.data.class_names)
    torch.nn.init.zeros_(model.decode_head.classifier.weight)
    model.decode_head.classifier.bias.data = torch.tensor(logits)
    write_student(settings, "stage1", model, name)


def test_published_code_counts_an_absent_class_as_zero(make_run):
    settings = make_run(evaluate={"absent": "zero"})
    index = load_samples(settings.folder / "samples.json")
    for sample in index.of("val"):
        Image.fromarray(np.zeros((sample.height, sample.width), np.uint8)).save(index.root / sample.mask)
    take_in(settings)
    finish(settings, "stage1", seed=1, fingerprint="one")
    always(settings, "student", 5.0, 1.0, 0.0)
    facts = evaluate(settings)["students"]["stage1"]
    assert facts["absent_classes"] == ["square", "disc"]
    assert facts["iou"] == {"floor": 1, "square": None, "disc": None}
    assert facts["miou"] == pytest.approx(1 / 3)


def test_the_best_student_is_measured_beside_the_last(make_run, caplog):
    settings = make_run()
    finish(settings, "stage1", 1, fingerprint="one", best={"epoch": 5, "miou": 0.5}, last={"epoch": 10, "miou": 0.4})
    always(settings, "student", 0.0, 1.0, 0.0)
    always(settings, "best", 1.0, 0.0, 0.0)
    with caplog.at_level("INFO"):
        facts = evaluate(settings)["students"]["stage1"]
    assert facts["iou"]["floor"] == 0 < facts["iou"]["square"]
    assert facts["best"]["epoch"] == 5
    assert facts["best"]["iou"]["square"] == 0 < facts["best"]["iou"]["floor"]
    assert facts["best"]["miou"] == pytest.approx(facts["best"]["iou"]["floor"] / 3)
    assert f"evaluate stage1: mIoU {facts['miou']:.4f}" in caplog.text
    assert f"evaluate stage1, best (epoch 5; the last is 10): mIoU {facts['best']['miou']:.4f}" in caplog.text


def test_a_best_student_that_is_the_last_is_not_measured_again(make_run):
    settings = make_run()
    finish(settings, "stage1", 1, fingerprint="one", best={"epoch": 10, "miou": 0.5}, last={"epoch": 10, "miou": 0.5})
    facts = evaluate(settings)["students"]["stage1"]  # there is no folder stage1/best
    assert facts["best"] == {"epoch": 10} | {
        name: value for name, value in facts.items() if name not in ("best", "confusion")
    }


def test_a_stage_without_a_curve_has_no_best_student(make_run):
    settings = make_run()
    finish(settings, "stage1", 1, fingerprint="one", best=None, last=None)
    assert evaluate(settings)["students"]["stage1"]["best"] is None


def test_a_student_of_another_number_of_classes_is_refused(make_run):
    settings = make_run()
    finish(settings, "stage1", seed=1, fingerprint="one")
    write_student(settings, "stage1", random_network("tiny", list("abcdefg")))
    expected = r"has 7 classes \(a, b, c, d, e, …\), but data.classes of the run has 3 classes \(floor, square, disc\)"
    with pytest.raises(TrainingError, match=expected):
        evaluate(settings)


def test_boundaries_are_means_over_the_images_that_have_them(make_run):
    settings = make_run(evaluate={"boundary_tolerance": 0.02})
    index = load_samples(settings.folder / "samples.json")
    mask = index.mask(index.of("val")[0], settings.data)
    Image.fromarray(np.where(mask == 2, 0, mask).astype(np.uint8)).save(index.root / index.of("val")[0].mask)
    take_in(settings)
    finish(settings, "stage1", seed=1, fingerprint="one")
    always(settings, "student", 1.0, 0.0, 0.0)
    boundary = evaluate(settings)["students"]["stage1"]["boundary"]
    assert boundary["num_images"] == {"floor": 2, "square": 2, "disc": 1}
    assert boundary["f"] == {"floor": 0, "square": 0, "disc": 0}
    assert boundary["precision"] == {"floor": 1, "square": 1, "disc": 1}  # no predicted boundary pixel is wrong
    assert boundary["recall"] == {"floor": 0, "square": 0, "disc": 0}
    assert boundary["mean_f"] == 0


def test_boundaries_can_be_left_out(make_run):
    settings = make_run(evaluate={"boundary_tolerance": None})
    finish(settings, "stage1", seed=1, fingerprint="one")
    assert evaluate(settings)["students"]["stage1"]["boundary"] is None


def test_the_learning_curve_predicts_as_the_evaluation_does(make_run):
    plain, windowed = (make_run(evaluate=own) for own in ({}, {"window": 40, "flips": True, "scales": [0.5, 1.0]}))
    finish(plain, "stage1", seed=1, fingerprint="one")
    index = load_samples(plain.folder / "samples.json")
    student = load_student(plain.folder / "stage1/student", compute_of(plain.train))
    shapes, logits = [], student.logits
    student.logits = lambda images: shapes.append(tuple(images.shape)) or logits(images)
    assert validation(plain, index)(student) == pytest.approx(evaluate(plain)["students"]["stage1"]["miou"])
    assert shapes == [(1, 3, 64, 64), (1, 3, 56, 72)]
    shapes.clear()
    on_curve = validation(windowed, index)(student)
    assert on_curve == pytest.approx(evaluate(windowed)["students"]["stage1"]["miou"])
    assert on_curve != validation(plain, index)(student)
    assert (4, 3, 40, 40) in shapes


def test_needs_a_finished_stage(make_run):
    with pytest.raises(TrainingError, match=r"no student in .*; run snakemake --cores 8 stage1 --config run=run"):
        evaluate(make_run())


def test_refuses_a_stage_two_that_was_trained_from_another_stage_one(make_run):
    settings = make_run()
    finish(settings, "stage1", seed=1, fingerprint="one")
    finish(settings, "stage2", seed=2, stage1_fingerprint="another")
    with pytest.raises(
        TrainingError, match="was trained from another stage1; run snakemake --cores 8 stage2 -R stage2"
    ):
        evaluate(settings)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json", "SHA256SUMS"])
def test_a_student_that_is_not_the_one_that_was_trained_is_refused(make_run, name):
    settings = make_run()
    finish(settings, "stage1", seed=1, fingerprint="one")
    flip_a_bit(settings.folder / "stage1/student" / name)
    with pytest.raises(StoreError, match=rf"student/{name} is not as stage1 wrote it: .* stage1 -R stage1 .*beginning"):
        evaluate(settings)
