"""What the report says about imported masks: counted pixel by pixel, and compared with the receipts."""

import numpy as np
import pytest
from PIL import Image
from report_run import Page
from stage_runs import run_stages

from pipeline.datasets import load_samples
from pipeline.exchange import export_labels
from pipeline.exchange.import_masks import import_masks
from pipeline.record import read_record, write_record
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.stages.report import report

SIZE = (24, 32)


def held_out(run):
    """The held-out row of the labels in use."""
    labels = run.recorded("pseudolabel")
    rows = run.recorded("calibrate")["held_out"]["rows"]
    (row,) = [r for r in rows if (r["alpha"], r["rule"]) == (labels["alpha"], labels["rule"])]
    return row


@pytest.mark.slow
def test_the_new_masks_are_compared_with_the_labels_and_the_numbers_with_those_before(
    make_settings, write_images, tmp_path
):
    write_images(tmp_path / "data", [f"im{i:02}" for i in range(12)], size=SIZE)
    settings = make_settings(alpha=0.7, variant="image")
    run_stages(settings)
    run, index = Run(settings), load_samples(settings.folder / "samples.json")
    before, chosen = held_out(run), [sample.id for sample in index.of("unlabeled")][:2]
    folder = export_labels(run.folder.labels, "png").folder
    counts = np.zeros(3, int)
    for seed, sample_id in enumerate(chosen):
        path = folder / f"{sample_id}.png"
        with Image.open(path) as picture:
            label, palette = np.array(picture), picture.getpalette()
        mask = np.where(np.random.default_rng(seed).random(SIZE) < 0.3, 1, label).astype(np.uint8)
        for true, one in zip(mask.flat, label.flat, strict=True):
            counts += [true != 255, true != 255 and one != 255, true != 255 and true == one]
        picture = Image.fromarray(mask)
        picture.putpalette(palette)
        picture.save(path)
    imported = import_masks(settings.origin.run, ["alpha=0.7", "variant=image"], folder)

    record = read_record(run.folder.imported, "")
    pixels, labeled, right = counts.tolist()
    assert record["labels"] == {"num_images": 2, "pixels": pixels, "labeled": labeled, "right": right}
    assert 0 < right < labeled < pixels
    assert record["ids"] == chosen
    assert record["before"]["precision"] == before["precision"]["value"]
    assert record["before"]["miou"] is None

    corrected = load_settings(imported.run)
    run_stages(corrected)
    report(corrected)
    page = Page(corrected)
    assert "The last import added 2 masks. In 2 of these images" in page.text
    assert f"{100 * right / labeled:.1f} % of the labels were right" in page.text
    assert "on the 6 images that were labeled before, too" in page.text
    # with all images of now, the numbers of now are those of the receipt
    everything = [sample.id for sample in load_samples(corrected.folder / "samples.json").of("labeled")]
    write_record(run.folder.imported, record | {"before": record["before"] | {"labeled": everything}})
    report(corrected)
    row = held_out(Run(corrected))
    shown = {cells[0]: cells[1:] for cells in Page(corrected).rows if len(cells) == 3}
    for name, key in {"labels that are right": "precision", "pixels that are labeled": "keep_rate"}.items():
        assert shown[name] == [f"{100 * one[key]['value']:.1f} %" for one in (before, row)]

    write_record(run.folder.imported, record | {"ids": ["im99"]})  # the run does not use these masks
    report(corrected)
    assert "What the new masks changed" not in Page(corrected).text


def test_an_import_before_any_label_exists_has_nothing_to_compare(make_settings, write_images, tmp_path):
    write_images(tmp_path / "data", [f"im{i:02}" for i in range(12)], size=SIZE)
    settings = make_settings()
    run_stages(settings, "prepare")
    (tmp_path / "masks").mkdir()
    chosen = load_samples(settings.folder / "samples.json").of("unlabeled")[0].id
    Image.fromarray(np.eye(*SIZE, dtype=np.uint8)).save(tmp_path / f"masks/{chosen}.png")
    import_masks(settings.origin.run, [], tmp_path / "masks", "png")
    record = read_record(Run(settings).folder.imported, "")
    assert (record["labels"], record["before"]["precision"], record["ids"]) == (None, None, [chosen])
