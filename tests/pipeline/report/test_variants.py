"""The report of every variant and rule, end to end: its numbers are those of the receipts and of a loop over pixels."""

import functools
import re

import pytest
from report_run import Page, naive_audit, run_with_receipts
from tiny_run import write_run_file, write_sample_files

from pipeline.calibration.shift import shift_sentence
from pipeline.errors import StoreError
from pipeline.receipt import read_receipt
from pipeline.record import write_record
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.stages.calibrate import calibrate
from pipeline.stages.report import report

IDS = [f"im{i:02}" for i in range(12)]  # 6 labeled, 2 val, 4 unlabeled
NAMES = ["background", "cat", "dog"]

CASES = {
    "several alphas": {"alpha": 0.3, "alphas": [0.4, 0.25]},
    "image": {"variant": "image", "alpha": 0.3},
    "image, a threshold a class": {"variant": "image", "class_thresholds": "each", "rule": "argmax", "alpha": 0.3},
    "kmeans, a threshold a class": {"variant": "kmeans", "class_thresholds": "each", "regions": 2, "alpha": 0.3},
    "image, classes partly pooled": {"variant": "image", "class_thresholds": "partial", "rule": "argmax", "alpha": 0.3},
    "kernel": {"variant": "kernel", "alpha": 0.3},
    "genann": {"variant": "genann", "regions": 2, "alpha": 0.3},
    "risk": {"variant": "risk", "rule": "argmax", "alpha": 0.4},
    "auto": {"rule": "auto", "alpha": 0.3, "alphas": [0.4, 0.6], "target_precision": 0.9},
    "auto, a threshold a class": {
        "rule": "auto", "variant": "image", "class_thresholds": "each", "alpha": 0.3, "alphas": [0.6],
        "target_precision": 0.2,
    },
}  # fmt: skip
ALWAYS = ("image, a threshold a class", "auto")  # the other cases are slow tests
every_case = pytest.mark.parametrize(
    "case", [case if case in ALWAYS else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)


def reported_in(folder, masked=None, **overrides):
    """Run all stages up to the report; returns settings, the audit, and the receipts of calibrate and pseudolabel."""
    write_sample_files(folder / "data", IDS, masked=masked)
    settings = load_settings(write_run_file(folder), overrides)
    run_with_receipts(settings)
    audit = report(settings)["audit"]
    return settings, audit, *(read_receipt(settings.folder / f"{s}.json", s) for s in ("calibrate", "pseudolabel"))


@pytest.fixture
def reported(tmp_path):
    return functools.partial(reported_in, tmp_path)


@pytest.fixture(scope="module")
def reported_case(tmp_path_factory):
    """Run a case once for all tests that read it."""
    return functools.cache(lambda case: reported_in(tmp_path_factory.mktemp("case"), **CASES[case]))


def percent(fraction):
    return "–" if fraction is None else f"{100 * fraction:.1f} %"


def shown(estimate):
    if estimate is None:
        return "–"
    value, low, high = (percent(estimate[name]) for name in ("value", "low", "high"))
    return f"{value} {low} to {high}"


def row_of(calibrated, labels):
    """The held-out row of the labels, found without the code under test."""
    own = labels["variant"], labels["alpha"]
    rows = [r for r in calibrated["held_out"]["rows"] if (r["variant"], r["alpha"]) == own]
    if labels["rule"] == "raw":
        return rows[0] | calibrated["held_out"]["raw"]
    (row,) = [r for r in rows if r["rule"] == labels["rule"]]
    return row


def same_keep_of(row):
    """Precision of the annotator's argmax at the keep rate of a row."""
    return row["against_raw"] and row["against_raw"]["same_keep"]


@every_case
def test_the_audit_uses_the_thresholds_that_made_the_labels(reported_case, case):
    settings, audit, *_ = reported_case(case)
    expected = naive_audit(settings)
    assert audit["coverage"]["coverage"] == pytest.approx(expected["covered"] / expected["pixels"])
    assert audit["kept"]["precision"] == pytest.approx(expected["kept_right"] / expected["kept"])
    assert 0 < expected["covered"] < expected["pixels"]
    assert 0 < expected["kept_right"] < expected["kept"]


@every_case
def test_held_out_coverage_and_precision_stand_beside_those_of_the_audit(reported_case, case):
    settings, audit, calibrated, labels = reported_case(case)
    page, row = Page(settings), row_of(calibrated, labels)
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", page.text)
    marked = [cells for cells in page.rows if cells[-1] == "← in use"]
    assert len(marked) == (1 if labels["rule"] == "raw" else 2)  # of the candidates, and of the variant in use
    for cells in marked:
        assert cells[-4:-1] == [shown(row["precision"]), shown(same_keep_of(row)), shown(row["keep_rate"])]
    assert marked[0][-5] == shown(row["miou"])
    raw = calibrated["held_out"]["raw"]
    assert f"the annotator's own argmax of {percent(raw['precision']['value'])} (all pixels)" in page.text
    assert labels["verdict"] in page.text
    assert shift_sentence(labels["shift"]) in page.text
    summary = page.text[: page.text.index("mIoU: intersection")]
    if labels["rule"] == "raw":
        assert f"The labels are those of the raw annotator, {percent(raw['precision']['value'])} right on" in summary
    else:
        right, of_raw = (percent(one["precision"]["value"]) for one in (row, raw))
        assert (
            f"Calibrated labels are {right} right on 6 held-out labeled images, the raw annotator {of_raw}" in summary
        )
    for where, fraction in (("held-out", row["precision"]["value"]), ("unlabeled", audit["kept"]["precision"])):
        assert f"precision, {where} images: {100 * fraction:.1f}".removesuffix(".0") in page.text
    for name in NAMES:
        held_out = [shown(row["coverage_per_class"][name])]
        held_out += [shown(r[f"{what}_per_class"][name]) for what in ("precision", "recall") for r in (row, raw)]
        held_out += [percent(row["fractions_per_class"][name][of]) for of in ("labels", "masks")]
        true = percent(audit["classes"][name]["kept"]["precision"])
        assert [*held_out, true] in [cells[2:] for cells in page.rows if cells[:1] == [name]]


@every_case
def test_the_labels_of_the_held_out_images_are_those_that_calibrate_judged(reported_case, case):
    settings, _, calibrated, labels = reported_case(case)
    row, page = row_of(calibrated, labels), Page(settings)
    (head,) = [i for i, cells in enumerate(page.rows) if cells == ["labeled as", *NAMES]]
    table = {cells[0]: [float(cell) for cell in cells[1:]] for cells in page.rows[head + 1 : head + 1 + len(NAMES)]}
    for k, name in enumerate(NAMES):
        assert table[name][k] == pytest.approx(100 * row["precision_per_class"][name]["value"], abs=0.051)
        assert sum(table[name]) == pytest.approx(100, abs=0.16)


@every_case
def test_every_alpha_and_rule_has_a_row(reported_case, case):
    settings, _, calibrated, labels = reported_case(case)
    page = Page(settings)
    printed = [tuple(cells[-4:-1]) for cells in page.rows]
    for row in calibrated["held_out"]["rows"]:
        if row["variant"] != labels["variant"]:
            continue
        assert (shown(row["precision"]), shown(same_keep_of(row)), shown(row["keep_rate"])) in printed
        sets = [shown(row["set_sizes"][size]) for size in ("empty", "one", "several")]
        (spread,) = [cells for cells in page.rows if cells[:4] == [f"{row['alpha']:g}", *sets]]
        assert spread[-5:] == [percent(row["coverage_per_image"][decile]) for decile in (0, 1, 5, 9, 10)]


def test_under_risk_the_page_speaks_of_wrong_labels_and_sets_no_target_for_coverage(reported_case):
    settings, _, calibrated, labels = reported_case("risk")
    text, row = Page(settings).text, row_of(calibrated, labels)
    assert "On average over new images, at most 40 % of an image's pixels are labeled wrong." in text
    wrong = row["keep_rate"]["value"] * (1 - row["precision"]["value"])
    assert f"{percent(wrong)} of all pixels are labeled wrong (guaranteed: at most 40 %)" in text
    counted = naive_audit(settings)
    truly_wrong = (counted["kept"] - counted["kept_right"]) / counted["pixels"]
    assert f"Of all pixels, {percent(truly_wrong)} are labeled wrong" in text
    assert "at most 40 % of all pixels labeled wrong" in text  # beside the line of the chart
    assert not re.search(r"target coverage|\(target|target \d", text)
    assert "The threshold is the same at every location, from 6 labeled images" in text


def test_folds_that_can_only_label_nothing_to_keep_the_guarantee_label_nothing_wrong(reported):
    settings, _, calibrated, labels = reported(variant="risk", rule="argmax", alpha=0.15)
    assert row_of(calibrated, labels)["precision"] is None
    text = Page(settings).text
    assert "0.0 % of all pixels are labeled wrong (guaranteed: at most 15 %) on the held-out images." in text
    assert "No pixel is labeled; the raw annotator is" in text
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", text)


def test_class_wise_thresholds_are_shown_by_their_median_and_class_by_class(reported_case):
    settings, *_ = reported_case("kmeans, a threshold a class")
    page = Page(settings)
    assert "Median over the classes of the finite thresholds q̂, by location" in page.text
    assert "each compared with the threshold of its true class" in page.text
    assert ["class", "lowest", "median", "highest", "without threshold"] in page.rows


def test_the_page_shows_the_target_and_the_choice_of_auto(reported_case):
    settings, _, _, labels = reported_case("auto")
    text = Page(settings).text
    assert labels["alpha"] != settings.calibrate.alpha  # so it matters whose alpha the page takes
    chosen = f"variant {labels['variant']}, α = {labels['alpha']:g}, rule {labels['rule']}"
    sentence = re.search(
        r"Rule auto compared (\d+) candidates, including the annotator's argmax, and chose (.*?): (.{60})", text
    )
    assert (int(sentence[1]) > 10, sentence[2]) == (True, chosen)
    assert sentence[3].startswith("no candidate reaches a precision (macro) of 90 %")
    assert ", and this one has the highest" in text
    assert f"A coverage of {100 * (1 - labels['alpha']):g} % does not mean" in text
    assert f"; {labels['runner_up']}." in text


def test_auto_that_reaches_its_target_says_so(reported_case):
    settings, *_ = reported_case("auto, a threshold a class")
    text = Page(settings).text
    assert "the largest mIoU of labels on held-out images among those with a precision (macro) of 20 % or more" in text


def test_a_single_labeled_image_leaves_nothing_to_hold_out(reported):
    settings, audit, calibrated, _ = reported(**{"splits.num_labeled": 1, "alpha": 0.5})
    assert calibrated["held_out"] is None
    page = Page(settings)
    assert "Coverage and precision could not be estimated" in page.text
    assert "precision, held-out images" not in page.text
    assert f"precision, unlabeled images: {100 * audit['kept']['precision']:.1f}".removesuffix(".0") in page.text


def test_without_masks_precision_is_that_of_the_held_out_images(reported):
    settings, audit, calibrated, labels = reported(masked=IDS[:8], **CASES["several alphas"])
    text, precision = Page(settings).text, row_of(calibrated, labels)["precision"]
    assert audit is None
    assert f"Calibrated labels are {percent(precision['value'])} right on 6 held-out labeled images" in text


def test_an_alpha_that_the_folds_cannot_judge_is_shown_without_numbers(reported):
    settings, _, calibrated, _ = reported(alpha=0.15, variant="image")  # 6 images allow it, 5 do not
    assert calibrated["held_out"]["rows"][0]["coverage"] is None
    page = Page(settings)
    assert "At α = 0.15 there are no estimates: without the images of a fold, too few are left" in page.text
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", page.text)


def test_locations_that_took_a_pooled_threshold_are_counted(reported):
    settings, _, calibrated, _ = reported(alpha=0.4, n_min=4)
    assert calibrated["fallen_back"] > 0
    counted = f"fewer than 4 labeled images ({calibrated['fallen_back']} locations)"
    assert f"{counted} use the threshold of their neighbourhood" in Page(settings).text


def test_labels_of_other_thresholds_are_refused(reported, make_settings):
    reported(alpha=0.3)
    for changed in (make_settings(alpha=0.4), make_settings(alpha=0.3, variant="image")):
        Run(changed).finish("calibrate", calibrate(changed))
        with pytest.raises(StoreError, match=r"made with other settings .*, or run snakemake --cores 8 pseudolabel"):
            report(changed)


def test_states_the_guarantee_of_the_labels_and_warns_of_a_shift_at_its_head(reported):
    settings, *_, labels = reported(rule="argmax", alpha=0.3, guarantee={"precision": 0.1, "confidence": 0.3})
    page = Page(settings)
    assert f"Guaranteed: {' '.join(labels['guarantee'].split())}." in page.text
    assert "With a confidence of 30 %, at least 10 % of the labels of new images are right" in page.text
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", page.text)
    marked = [cells for cells in page.rows if cells[-1] == "← in use"]
    assert len(marked) == 2  # of the candidates, and of the variant in use
    in_the_section = f"Unlabeled images: {shift_sentence(labels['shift'])}."
    assert page.text.count(in_the_section) == 1
    shift = labels["shift"] | {"is_shift": True, "images": ["im05"]}
    write_record(settings.folder / "pseudolabel.json", labels | {"shift": shift})
    report(settings)
    head = Page(settings).text.partition("mIoU: intersection")[0]
    assert f"Unlabeled images: {shift_sentence(shift)}." in head
