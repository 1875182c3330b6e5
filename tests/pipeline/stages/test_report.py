"""The report: numbers that a loop over pixels confirms, one file that asks for no other, with whatever is missing."""

import re

import numpy as np
import pytest
from noisy_annotator import NoisyAnnotator
from PIL import Image
from receipts import facts_of
from report_run import Page, naive_audit, run_with_receipts

from pipeline.datasets import example_samples, load_samples
from pipeline.digests import digests_of
from pipeline.errors import StoreError
from pipeline.receipt import read_receipt
from pipeline.report import run_audit
from pipeline.run import Run
from pipeline.stages.report import report
from pipeline.store import FAILED, open_labels

IDS = [f"im{i:02}" for i in range(12)]  # 6 labeled, 2 val, 4 unlabeled
NAMES = ["background", "cat", "dog"]


@pytest.fixture
def labeled_run(make_settings, write_images, tmp_path):
    """Build a run up to the pseudo-labels; `masked` chooses the images that have a mask."""

    def build(masked=None, **overrides):
        write_images(tmp_path / "data", IDS, masked=masked)
        settings = make_settings(**overrides)
        run_with_receipts(settings)
        return settings

    return build


def add_training(settings, stage2_steps=4, absent=()):
    """Receipts as the trainer writes them, and predictions of the examples."""
    folder = settings.folder
    labels = read_receipt(folder / "pseudolabel.json", "pseudolabel")["fingerprint"]
    history = [{"epoch": e, "step": 5 * e, "loss": 2.0 / e, "miou": 0.1 * e} for e in (1, 2)]
    common = {"seconds": 61.0, "final_loss": 1.0, "num_parameters": 1000, "device": "CPU", "precision": "float32"}
    stage1 = {"labels_fingerprint": labels, "num_steps": 10, "history": history, **common}
    weighted = [entry | {"lambda": 0.5, "miou": None} for entry in history]
    second = {"num_steps": stage2_steps, "history": weighted if stage2_steps else [], **common}
    students = {
        "stage1": student(0.4321, absent) | {"best": student(0.4444) | {"epoch": 1}},
        "stage2": student(0.5432 if stage2_steps else 0.4321, absent),
    }
    run = Run(settings)
    run.finish("stage1", facts_of("stage1", **stage1))
    run.finish("stage2", facts_of("stage2", **second))
    (folder / "evaluate").mkdir()
    samples = load_samples(folder / "samples.json")
    for sample in example_samples(samples, settings.evaluate.num_examples):
        prediction = np.ones((sample.height, sample.width), np.uint8)
        Image.fromarray(prediction).save(folder / "evaluate" / f"{sample.id}.png")
    files = digests_of(folder / "evaluate", (folder / "evaluate").iterdir())
    weights = {stage: run.student_digest(stage) for stage in students}
    run.finish("evaluate", facts_of("evaluate", num_val=2, students=students, files=files, weights=weights))


def student(miou, absent=()):
    iou = {name: None if name in absent else miou for name in NAMES}
    interval = {"low": miou - 0.01, "high": miou + 0.02}
    boundary = {"mean_f": miou / 2, "f": dict.fromkeys(NAMES, miou / 2)}
    return {
        "miou": miou, "miou_interval": interval, "pixel_accuracy": 0.9, "iou": iou, "absent_classes": list(absent),
        "boundary": boundary, "best": None,
    }  # fmt: skip


def test_the_audit_agrees_with_a_loop_over_pixels(labeled_run):
    settings = labeled_run()
    audit = report(settings)["audit"]
    assert audit["num_images"] == audit["num_with_mask"] == 4
    expected = naive_audit(settings)
    assert audit["pixels"] == expected["pixels"]
    assert audit["raw"]["pixel_accuracy"] == pytest.approx(expected["raw_right"] / expected["pixels"])
    assert audit["kept"]["keep_rate"] == pytest.approx(expected["kept"] / expected["pixels"])
    assert audit["kept"]["precision"] == pytest.approx(expected["kept_right"] / expected["kept"])
    assert audit["coverage"]["coverage"] == pytest.approx(expected["covered"] / expected["pixels"])
    assert 0 < expected["kept_right"] < expected["kept"] < expected["pixels"]  # the case is not trivial


def test_the_page_is_one_balanced_file_that_shows_the_numbers(labeled_run):
    settings = labeled_run()
    add_training(settings)
    facts = report(settings)
    page = Page(settings)
    assert "http://" not in page.html
    assert "https://" not in page.html
    assert all(link.startswith(("data:", "#")) for link in page.links)
    labels = read_receipt(settings.folder / "pseudolabel.json", "pseudolabel")
    audit = facts["audit"]
    fractions = [labels["keep_rate"], audit["raw"]["miou"], audit["kept"]["precision"], audit["coverage"]["coverage"]]
    for fraction in [*fractions, 0.4321, 0.5432]:
        assert f"{100 * fraction:.1f} %" in page.text
    assert "A coverage of 80 % does not mean that 80 % of the pseudo-labels are right." in page.text
    assert "For this report only: no other stage has used these masks." in page.text
    assert facts["megabytes"] < 4


def test_the_best_student_stands_beside_the_last_with_its_boundaries(labeled_run):
    settings = labeled_run()
    add_training(settings)
    report(settings)
    page = Page(settings)
    assert ["class", "Stage I", "Stage I, best (epoch 1)", "Stage II"] in page.rows
    last, best, second = "43.2 % 42.2 % to 45.2 %", "44.4 % 43.4 % to 46.4 %", "54.3 % 53.3 % to 56.3 %"
    assert ["mIoU", last, best, second] in page.rows
    assert ["mean", "21.6 %", "22.2 %", "27.2 %"] in page.rows
    assert "mIoU on 2 val images: Stage I 43.2 % (best: 44.4 %), Stage II 54.3 %" in page.text
    assert "A best student is the one whose mIoU on these same images was the highest" in page.text


def test_every_picture_has_words_and_every_example_its_five_panels(labeled_run):
    settings = labeled_run()
    add_training(settings)
    facts = report(settings)
    page = Page(settings)
    assert all(picture["alt"] for picture in page.pictures)
    store = open_labels(settings.folder / "labels.zarr")
    kept = [(~np.isnan(store.label(store.sample_ids.index(name)))).sum() for name in facts["examples"]]
    assert (sorted(facts["examples"]), kept) == (load_ids(settings)[:4], sorted(kept))  # fewest labels first
    panels = [picture for picture in page.pictures if picture["src"].startswith("data:image/webp")]
    assert len(panels) == 5 * len(facts["examples"]) + 4 * 4  # and the worst labeled images, without a student
    assert any(picture["alt"] == "Student: cat 100\u00a0%" for picture in panels)


def load_ids(settings):
    return [sample.id for sample in load_samples(settings.folder / "samples.json").of("unlabeled")]


def test_without_masks_nothing_is_audited_and_the_page_says_so(labeled_run, monkeypatch):
    monkeypatch.setattr(NoisyAnnotator, "without_prompt", ["dog"])
    settings = labeled_run(masked=IDS[:8])
    assert report(settings)["audit"] is None
    page = Page(settings)
    assert "Annotator: no prompt or channel means dog, so its map is 0 and its pixels carry other labels." in page.text
    marked = {row[0] for row in page.rows if row[0].startswith(("cat", "dog"))}
    assert marked == {"cat", "dog (no prompt or channel)"}
    assert (
        "No unlabeled image has a mask, so their precision cannot be measured. For held-out labeled images, see above."
        in page.text
    )
    assert "audit" not in page.text.lower()
    assert page.text.count("no mask") >= 4


def test_without_a_student_the_page_ends_at_the_pseudo_labels(labeled_run):
    settings = labeled_run()
    report(settings)
    page = Page(settings)
    assert "No student has been evaluated on these pseudo-labels yet." in page.text
    assert page.text.count("not trained yet") == 2
    assert page.text.count("no prediction") == 4


def test_a_student_that_was_trained_on_other_labels_is_left_out(labeled_run, caplog):
    settings = labeled_run()
    add_training(settings)
    run = Run(settings)
    run.finish("stage1", run.recorded("stage1") | {"labels_fingerprint": "other"})
    report(settings)
    assert "not trained yet" in Page(settings).text
    assert "was trained on other labels" in caplog.text


def test_a_second_stage_of_no_epochs_and_classes_that_val_lacks_are_named(labeled_run):
    settings = labeled_run()
    add_training(settings, stage2_steps=0, absent=["dog"])
    report(settings)
    page = Page(settings)
    assert "switched off (0 epochs)" in page.text
    assert "Stage I: dog neither in the val masks nor predicted" in page.text


def test_when_no_location_can_be_calibrated_everything_abstains_and_the_page_still_stands(labeled_run):
    settings = labeled_run(alpha=0.01)
    facts = report(settings)
    assert facts["audit"]["kept"] == {
        "miou": None, "precision": None, "keep_rate": 0.0, "raw_miou": None, "raw_accuracy": None
    }  # fmt: skip
    assert facts["audit"]["coverage"]["uncalibrated_fraction"] == 1
    page = Page(settings)
    assert "100.0 % of the locations have too few labeled images for α = 0.01" in page.text
    assert not re.search(r"\b(nan|inf|None)\b", page.text)


def test_a_deleted_probability_cache_costs_the_coverage_only(labeled_run):
    settings = labeled_run()
    with_cache = report(settings)["audit"]
    (settings.folder / "probs.zarr").rename(settings.folder / "elsewhere")
    without = report(settings)["audit"]
    assert without["coverage"]["coverage"] is None
    assert without["kept"] == with_cache["kept"]
    assert "because probs.zarr was deleted" in Page(settings).text


def test_masks_that_cannot_be_read_are_left_out_and_counted(labeled_run):
    settings = labeled_run()
    masks = [f"{settings.data.root}/masks/{sample_id}.png" for sample_id in load_ids(settings)]
    with open(masks[0], "wb") as file:
        file.write(b"no picture")
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(masks[1])  # colours, not class indices
    audit = report(settings)["audit"]
    assert (audit["num_images"], audit["num_unreadable"], audit["num_with_mask"]) == (2, 2, 4)
    assert "2 masks could not be read" in Page(settings).text


def test_an_image_that_failed_is_shown_without_labels_and_not_audited(labeled_run):
    settings = labeled_run()
    store = open_labels(settings.folder / "labels.zarr", writable=True)
    store.mark(0, FAILED)
    store.finish()
    assert report(settings)["audit"]["num_with_mask"] == 3
    page = Page(settings)
    assert page.text.count("the annotator failed") == 2


def test_an_audit_of_many_images_takes_an_evenly_spaced_sample_and_says_so(labeled_run, monkeypatch):
    monkeypatch.setattr(run_audit, "AUDIT_IMAGES", 2)
    settings = labeled_run()
    audit = report(settings)["audit"]
    assert (audit["num_images"], audit["num_with_mask"]) == (2, 4)
    assert "(of 4, evenly spaced: an audit takes at most 2)" in Page(settings).text


def test_a_report_needs_pseudo_labels_of_this_run(labeled_run, make_settings):
    with pytest.raises(StoreError, match="prepare has not finished; run snakemake --cores 8 prepare --config"):
        report(make_settings())
    labeled_run()
    with pytest.raises(
        StoreError, match=r"prepare.json was made with other settings \(data.classes .*, or run snakemake"
    ):
        report(make_settings(classes=["background", "cat", "cow"]))
