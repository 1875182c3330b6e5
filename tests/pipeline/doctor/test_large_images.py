"""Images that prepare cuts: doctor counts their tiles, tries the annotator on them, and reads what prepare reads."""

import numpy as np
from image_files import blocked_tiff
from PIL import Image

from pipeline.doctor import examine
from pipeline.doctor.trial import try_annotator
from pipeline.sources import find_samples
from pipeline.stages.prepare import prepare

TILE = {"data.tile": {"size": 24, "overlap": 6}, "data.max_pixels": 40 * 56 - 1}


def test_tiles_are_counted_and_large_tiffs_are_no_error(tmp_path, write_images, make_settings):
    write_images(tmp_path / "data", [f"im{i}" for i in range(7)], size=(40, 56))
    write_images(tmp_path / "data", [f"small{i}" for i in range(4)], size=(20, 24), seed=1)
    for folder in ("images", "masks"):
        for path in (tmp_path / "data" / folder).glob("im*.png"):
            array = np.array(Image.open(path))
            path.with_suffix(".tif").write_bytes(blocked_tiff(array.reshape(40, 56, -1), (8, 56), has_tiles=False))
            path.unlink()
    settings = make_settings(**TILE)
    found = examine(settings)
    assert [finding for finding in found if finding.level == "error"] == []
    number = prepare(settings)["num_samples"]
    expected = f"samples: {number['labeled']} labeled, {number['unlabeled']} unlabeled, {number['val']} val"
    assert f"{expected}, tiles included" in [finding.what for finding in found]
    assert sum(number.values()) == 7 * 6 + 4
    trial = try_annotator(settings, find_samples(settings.data)[0])
    assert trial.num_images == 4
    assert any("24 x 24" in finding.what for finding in found if finding.what.startswith("images are"))


def test_far_too_large_images_are_to_be_cut(tmp_path, write_images, make_settings):
    write_images(tmp_path / "data", [f"im{i}" for i in range(8)], size=(90, 110))
    settings = make_settings(**{"data.grid": [16, 16], "data.splits.num_labeled": 4})
    fixes = [finding.fix for finding in examine(settings) if "small objects are lost" in finding.what]
    assert fixes == ["set data.tile: 16, which cuts images, or a larger data.grid"]
    cut = make_settings(**{"data.grid": [16, 16], "data.splits.num_labeled": 4, "data.tile": 16})
    assert not any("small objects are lost" in finding.what for finding in examine(cut))
