"""Large images become tiles: every pixel counts once, and tiles follow their image when it changes."""

import shutil

import numpy as np
import pytest
import yaml
from image_files import blocked_tiff
from PIL import Image
from stage_runs import contents, kill_stage, run_stages

from pipeline.datasets import resize_nearest, units_of
from pipeline.errors import ConfigError, DatasetError
from pipeline.gallery.labeled_run import LabeledRun, known_truth
from pipeline.images import PixelLimit, read_image
from pipeline.report.inputs import Inputs
from pipeline.report.run_audit import audit_run
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.sources.true_masks import TrueMasks
from pipeline.stages.prepare import prepare

LARGE = [f"large{i}" for i in range(6)]
SMALL = [f"small{i}" for i in range(4)]
TILE = {"data.tile": {"size": 24, "overlap": 6}}
SPLITS = {"data.splits.num_labeled": 4, "data.splits.num_val": 3}


@pytest.fixture
def run(tmp_path, write_images, make_settings):
    """A prepared run with images of 40 x 56 pixels, cut into tiles of 24, and of 20 x 24, which are whole."""
    write_images(tmp_path / "data", LARGE, size=(40, 56))
    write_images(tmp_path / "data", SMALL, size=(20, 24), seed=1)
    settings = make_settings(**TILE, **SPLITS)
    run_stages(settings, "prepare")
    return Run(settings)


def prepared_whole(make_settings):
    """Facts and samples of the same run without tiles."""
    settings = make_settings(name="whole", **SPLITS)
    facts = prepare(settings)
    return facts, Run(settings).samples()


def test_tiles_are_samples_in_the_split_and_group_of_their_image(run, make_settings):
    index, (_, whole) = run.samples(), prepared_whole(make_settings)
    assert index.whole == whole
    assert len(index.cut) == 6
    for image in index.cut:
        tiles = [sample for sample in index.samples if sample.tile and sample.tile.image == image.id]
        assert [tile.id for tile in tiles] == [f"{image.id}@{y},{x}" for y in (0, 16) for x in (0, 18, 32)]
        assert {(tile.split, tile.group, tile.size) for tile in tiles} == {(image.split, image.id, (24, 24))}
    assert units_of(index.of("labeled")).max() + 1 == len(whole.of("labeled")) == 4


def test_tiles_hold_the_pixels_of_their_image_and_masks_count_each_pixel_once(run, make_settings):
    data, index = run.settings.data, run.samples()
    whole = index.whole
    for image in index.cut:
        pixels = read_image(index.root / image.image, PixelLimit(10**6))
        mask = None if image.mask is None else whole.mask(image, data)
        seen = np.zeros(image.size, int)
        for sample in index.samples:
            if sample.tile is None or sample.tile.image != image.id:
                continue
            top, left, height, width = sample.tile.window
            assert (index.image(sample) == pixels[top : top + height, left : left + width]).all()
            if mask is not None:
                of_tile = index.mask(sample, data)
                counted = of_tile != 255
                assert (of_tile == mask[top : top + height, left : left + width])[counted].all()
                seen[top : top + height, left : left + width] += counted
        if mask is not None:
            assert (seen == (mask != 255)).all()
    facts, _ = prepared_whole(make_settings)
    for name in ("labeled_images_per_class", "labeled_pixels_per_class"):
        assert run.recorded("prepare")[name] == facts[name]


def test_an_image_that_changes_gets_new_tiles_and_its_old_ones_are_removed(run):
    before, unchanged = contents(run.folder.tiles), run.samples()
    assert not run.has_other_sources("prepare")
    image = next(sample for sample in unchanged.cut if sample.split == "labeled")
    Image.fromarray(np.zeros((40, 56, 3), np.uint8)).save(unchanged.root / image.image)
    assert run.has_other_sources("prepare")
    prepare(run.settings)
    after = contents(run.folder.tiles)
    gone = {path for path in before if path not in after}
    assert {path.parts[0].partition("@")[0] for path in gone} == {image.id}
    assert len(gone) == 7  # six tiles and their list; those of the mask stay
    assert all(before[path] == after[path] for path in before.keys() & after.keys())
    tile = next(sample for sample in run.samples().samples if sample.id == f"{image.id}@16,18")
    assert not run.samples().image(tile).any()


@pytest.mark.parametrize("damage", [b"damaged", None])
def test_a_tile_that_changes_or_is_missing_is_written_again(run, damage):
    before, samples = contents(run.folder.tiles), run.folder.samples.read_bytes()
    path = sorted(run.folder.tiles.rglob("*.png"))[3]
    path.unlink() if damage is None else path.write_bytes(damage)
    assert run.has_other_sources("prepare")
    prepare(run.settings)
    assert contents(run.folder.tiles) == before
    assert run.folder.samples.read_bytes() == samples
    assert not run.has_other_sources("prepare")


def test_a_killed_prepare_continues_and_ends_alike(run, tmp_path):
    expected = contents(run.folder.tiles)
    shutil.rmtree(run.folder.path)
    tree = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    tree["data"] |= {"tile": {"size": 24, "overlap": 6}, "splits": {"num_labeled": 4, "num_val": 3}, "workers": 1}
    (tmp_path / "tiles.yaml").write_text(yaml.safe_dump({**tree, "name": "tiny"}))
    kill_stage(tmp_path / "tiles.yaml", "prepare", f"{run.folder.tiles}/", 25)
    finished = {path: path.stat().st_mtime_ns for path in run.folder.tiles.rglob("*.json")}
    assert finished
    assert not run.folder.samples.exists()
    prepare(load_settings(tmp_path / "tiles.yaml"))
    assert contents(run.folder.tiles) == expected
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_tiffs_above_the_limit_are_cut_band_by_band_into_the_same_tiles(run, make_settings):
    root = run.samples().root
    for folder in ("images", "masks"):
        for path in (root / folder).glob("large*.png"):
            array = np.array(Image.open(path))
            values = array if array.ndim == 3 else array[:, :, None]
            block = (16, 32) if folder == "images" else (8, 56)
            path.with_suffix(".tif").write_bytes(blocked_tiff(values, block, has_tiles=folder == "images"))
            path.unlink()
    tiles = {}
    for name, limit in {"at_once": 40 * 56, "bands": 40 * 56 - 1}.items():
        settings = make_settings(name=name, **TILE, **SPLITS, **{"data.max_pixels": limit})
        facts = prepare(settings)
        assert facts["labeled_pixels_per_class"] == run.recorded("prepare")["labeled_pixels_per_class"]
        tiles[name] = contents(Run(settings).folder.tiles)
    assert tiles["bands"] == tiles["at_once"]
    before = contents(run.folder.tiles)
    assert images_of(tiles["bands"]) == images_of(before)


def images_of(files):
    return sorted(content for path, content in files.items() if path.suffix == ".png")


def test_other_files_above_the_limit_are_refused_with_two_ways_out(run, make_settings):
    with pytest.raises(DatasetError, match=r"set data.max_pixels: 2240; a TIFF of tiles or strips is read in bands"):
        prepare(make_settings(**TILE, **SPLITS, **{"data.max_pixels": 2000}))


@pytest.mark.parametrize("value", [-3, 70000, 300])
def test_masks_keep_values_of_any_size(run, make_settings, value):
    path = run.samples().root / next(sample for sample in run.samples().cut if sample.split == "val").mask
    values = np.zeros((40, 56), np.int32)
    values[5, 50] = value
    tiff = path.with_suffix(".tif")
    Image.fromarray(values).save(tiff)
    path.unlink()
    settings = make_settings(**TILE, **SPLITS, **{"data.unknown_values": "ignore"})
    prepare(settings)
    index = Run(settings).samples()
    masks = [index.mask(one, settings.data) for one in index.of("val") if one.mask and tiff.stem in one.mask]
    assert sum((mask == 0).sum() for mask in masks) == 40 * 56 - 1


def test_tiles_share_thresholds_by_default(make_settings):
    settings = make_settings(**TILE, **{"pseudolabel.rule": "auto"})
    assert (settings.calibrate.variant, settings.variants) == ("image", ["image"])
    assert make_settings(**{"data.tile": 512}).data.tile.overlap_pixels == 64
    assert make_settings(**{"data.tile.size": 512}).data.tile.size == 512


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"calibrate.variant": "pixel"}, r"calibrate.variant has pixel, .* set calibrate.variant: image"),
        ({"calibrate.variants": ["kmeans"]}, r"calibrate.variants has kmeans, .* or remove data.tile"),
        ({"data.tile.overlap": 24}, "overlap is 24, but tiles have 24 pixels; set overlap to less than size"),
        ({"data.tile.size": 8}, "data.tile.size"),
        ({"data.tile": "large"}, "data.tile"),
    ],
)
def test_settings_that_do_not_fit_tiles_are_refused(make_settings, setting, message):
    with pytest.raises(ConfigError, match=message):
        make_settings(**{**({"data.tile.size": 24} if "data.tile" not in setting else {}), **setting})


def test_true_masks_of_unlabeled_tiles_are_cut_from_those_of_their_images_and_count_each_pixel_once(run):
    run_stages(run.settings, "annotate", "calibrate", "pseudolabel")
    data, index, labels = run.settings.data, run.samples(), run.open_labels()
    reader = TrueMasks.like_labeled(index, data)
    seen = {image.id: np.zeros(image.size, int) for image in index.cut}
    pixels = right = labeled = 0
    calibration = run.open_calibration()
    gallery = LabeledRun(run.settings, {}, index, calibration, labels, None, (), None, reader)
    for i, sample in enumerate(index.of("unlabeled")):
        name = sample.id if sample.tile is None else sample.tile.image
        whole = np.array(Image.open(index.root / f"masks/{name}.png"))
        top, left, height, width = (0, 0, *sample.size) if sample.tile is None else sample.tile.window
        truth = reader.of(sample).read(reader.path(sample), sample)
        counted = truth != 255
        assert (truth == whole[top : top + height, left : left + width])[counted].all()
        if sample.tile is not None:
            seen[name][top : top + height, left : left + width] += counted
            assert (seen[name] <= (whole != 255)).all()
        on_grid, label = resize_nearest(truth, data.grid), labels.label(i)
        assert (known_truth(gallery, sample) == on_grid).all()
        pixels += (on_grid != 255).sum()
        labeled += ((on_grid != 255) & ~np.isnan(label)).sum()
        right += ((on_grid != 255) & (on_grid == label)).sum()
    unlabeled = [image for image in index.cut if image.split == "unlabeled"]
    assert unlabeled
    for image in unlabeled:
        assert (seen[image.id] == (np.array(Image.open(index.root / f"masks/{image.id}.png")) != 255)).all()

    facts = audit_run(Inputs({}, index, reader, run.open_probabilities(), calibration, labels), run.settings)
    assert (facts["pixels"], facts["num_images"], facts["num_unreadable"]) == (pixels, len(index.of("unlabeled")), 0)
    assert facts["kept"]["precision"] == pytest.approx(right / labeled)
    assert facts["kept"]["keep_rate"] == pytest.approx(labeled / pixels)

    path = index.root / f"masks/{unlabeled[0].id}.png"
    Image.fromarray(np.zeros((40, 55), np.uint8)).save(path)
    tile = next(sample for sample in index.samples if sample.tile and sample.tile.image == unlabeled[0].id)
    with pytest.raises(DatasetError, match=rf"{path.name} has 40 x 55 pixels, its image 40 x 56; make them equal"):
        reader.read(path, tile)
