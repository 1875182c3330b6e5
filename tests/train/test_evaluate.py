import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerForSemanticSegmentation, SegformerImageProcessorPil

from pipeline.datasets import example_samples, load_samples
from pipeline.errors import TrainingError
from pipeline.receipt import write_json
from train.evaluate import evaluate
from train.stage1 import stage1
from train.student import random_model, save_model


def finish(settings, stage, seed, **facts):
    """A finished stage with random weights, as far as evaluation looks at it."""
    torch.manual_seed(seed)
    save_model(random_model("tiny", settings.data.class_names), settings.folder / stage / "student")
    write_json(settings.folder / f"{stage}.json", facts)


def predictions_of_transformers(settings, stage, image):
    """What a user gets who knows nothing of this package."""
    folder = settings.folder / stage / "student"
    model = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    processor = SegformerImageProcessorPil.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(image, return_tensors="pt"))
    return processor.post_process_semantic_segmentation(outputs, target_sizes=[image.shape[:2]])[0].numpy()


def test_scores_are_those_of_the_saved_student_counted_pixel_by_pixel(make_run):
    settings = make_run()
    stage1_facts = stage1(settings)
    write_json(settings.folder / "stage1.json", stage1_facts)
    facts = evaluate(settings)["students"]["stage1"]
    index = load_samples(settings.folder / "samples.json")
    intersection, union, right, counted = np.zeros(3), np.zeros(3), 0, 0
    for sample in index.of("val"):
        prediction = predictions_of_transformers(settings, "stage1", index.image(sample))
        mask = index.mask(sample, settings.data)
        for k in range(3):
            intersection[k] += ((prediction == k) & (mask == k)).sum()
            union[k] += ((prediction == k) | (mask == k)).sum()
        right, counted = right + (prediction == mask).sum(), counted + mask.size
    assert facts["miou"] == pytest.approx(np.mean(intersection / union))
    assert facts["pixel_accuracy"] == pytest.approx(right / counted)
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
    write_json(settings.folder / "evaluate.json", facts)  # all of it is JSON


def test_predictions_of_an_earlier_evaluation_are_gone(make_run):
    settings = make_run()
    finish(settings, "stage1", seed=1, fingerprint="one")
    evaluate(settings)
    fewer = settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"num_examples": 0})})
    assert evaluate(fewer)["examples"] == []
    assert not list((settings.folder / "evaluate").iterdir())


def test_a_class_that_is_neither_there_nor_predicted_is_named_absent(make_run):
    settings = make_run()
    finish(settings, "stage1", seed=1, fingerprint="one")
    model = random_model("tiny", settings.data.class_names)
    torch.nn.init.zeros_(model.decode_head.classifier.weight)
    model.decode_head.classifier.bias.data = torch.tensor([5.0, 1.0, 0.0])  # always the floor
    save_model(model, settings.folder / "stage1" / "student")
    index = load_samples(settings.folder / "samples.json")
    for sample in index.of("val"):
        mask = index.mask(sample, settings.data)
        Image.fromarray(np.where(mask == 2, 255, mask).astype(np.uint8)).save(index.root / sample.mask)
    facts = evaluate(settings)["students"]["stage1"]
    assert facts["absent_classes"] == ["disc"]
    assert facts["iou"]["disc"] is None
    assert facts["iou"]["square"] == 0
    assert facts["miou"] == pytest.approx(facts["iou"]["floor"] / 2)
    assert not math.isnan(facts["miou"])


def test_needs_a_finished_stage(make_run):
    with pytest.raises(TrainingError, match=r"no student in .*; run snakemake --cores 8 stage1"):
        evaluate(make_run())


def test_refuses_a_stage_two_that_goes_on_from_another_stage_one(make_run):
    settings = make_run()
    finish(settings, "stage1", seed=1, fingerprint="one")
    finish(settings, "stage2", seed=2, stage1_fingerprint="another")
    with pytest.raises(TrainingError, match="goes on from another stage1; run snakemake --cores 8 stage2"):
        evaluate(settings)
