"""A receipt goes before its stage changes anything, and stays as long as the stage has changed nothing."""

import shutil

import pytest
from stage_runs import STAGES, digest_of, run_stages

from pipeline.errors import UserError
from pipeline.run import Run
from pipeline.stages.report import report

STORES = {"annotate": "probs.zarr", "calibrate": "calibration.zarr", "pseudolabel": "labels.zarr"}


@pytest.fixture
def finished(tmp_path, write_images, make_settings):
    """Settings of a run with labels."""
    write_images(tmp_path / "data", [f"im{i:02d}" for i in range(12)])
    settings = make_settings()
    run_stages(settings)
    return settings


def test_a_stage_that_refuses_its_inputs_keeps_its_receipt_and_its_store(finished):
    inputs = {"annotate": "prepare", "calibrate": "annotate", "pseudolabel": "calibrate"}
    for stage, before in inputs.items():
        receipt, digest = Run(finished).folder.receipt(before), digest_of(finished.folder / STORES[stage])
        content = receipt.read_text()
        receipt.unlink()
        with pytest.raises(UserError, match=rf"{before}\.json"):
            STAGES[stage](finished)
        receipt.write_text(content)
        assert Run(finished).has_receipt(stage)
        assert digest_of(finished.folder / STORES[stage]) == digest


def test_prepare_keeps_its_receipt_and_its_samples_if_a_file_is_broken(finished, tmp_path):
    samples = (finished.folder / "samples.json").read_text()
    (tmp_path / "data/images/im00.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="im00"):
        STAGES["prepare"](finished)
    assert Run(finished).has_receipt("prepare")
    assert (finished.folder / "samples.json").read_text() == samples


def test_annotate_keeps_its_receipt_if_all_maps_are_there(finished):
    STAGES["annotate"](finished)
    assert Run(finished).has_receipt("annotate")


@pytest.mark.parametrize("stage", ["prepare", "calibrate", "pseudolabel"])
def test_a_stage_that_makes_its_results_again_removes_its_receipt(finished, stage):
    STAGES[stage](finished)
    assert not Run(finished).has_receipt(stage)


def test_the_report_removes_its_receipt_when_it_writes_its_page(finished):
    Run(finished).finish("report", {})
    labels = Run(finished).folder.receipt("pseudolabel")
    labels.rename(labels.with_name("elsewhere"))
    with pytest.raises(UserError, match="pseudolabel"):
        report(finished)
    assert Run(finished).has_receipt("report")
    labels.with_name("elsewhere").rename(labels)
    report(finished)
    assert not Run(finished).has_receipt("report")


def test_labels_whose_maps_are_gone_are_not_replaced(tmp_path, write_images, make_settings):
    write_images(tmp_path / "data", [f"im{i:02d}" for i in range(12)])
    settings = make_settings(**{"calibrate.class_thresholds": "each", "calibrate.variant": "image"})
    run_stages(settings)
    digest = digest_of(settings.folder / "labels.zarr")
    shutil.rmtree(settings.folder / "probs.zarr")
    with pytest.raises(UserError, match=r"no probabilities store at"):
        STAGES["pseudolabel"](settings)
    assert Run(settings).has_receipt("pseudolabel")
    assert digest_of(settings.folder / "labels.zarr") == digest
