"""Annotator maps: `annotate` stores what the files of the images hold, and refuses folders that do not fit the run."""

import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from stage_runs import digest_of, run_stages
from tiny_run import CLASSES, write_run_file
from unprivileged import without_privileges

from pipeline.annotators.build import build_annotator
from pipeline.doctor import examine
from pipeline.doctor.trial import try_annotator
from pipeline.errors import AnnotatorError, DatasetError
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.sources import find_samples
from pipeline.stages.annotate import annotate
from pipeline.store import DONE, open_probabilities

DOCS = Path(__file__).parents[3] / "docs/annotators.md"
GUIDE = DOCS.parent / "howto/large-images.md"
IDS = [*(f"im{i:02d}" for i in range(13)), "é.v2"]


def maps_for(position, size=(8, 12)):
    maps = np.random.default_rng(position).random((3, *size), np.float32)
    return maps / maps.sum(axis=0)


@pytest.fixture
def own(tmp_path, write_images):
    """Function that makes the settings of a prepared run, whose images have maps in data/maps: (folder, settings)."""
    write_images(tmp_path / "data", IDS)
    folder = tmp_path / "data/maps"
    folder.mkdir()
    for position, name in enumerate(IDS):
        np.savez(folder / f"{unicodedata.normalize('NFD', name)}.npz", maps_for(position))

    def make(section=None, **overrides):
        chosen = {"annotator": "maps", "maps": {"folder": "maps"} | (section or {}), "batch_size": 4}
        settings = load_settings(write_run_file(tmp_path, annotate=chosen | {"class_check": "warn"} | overrides))
        run_stages(settings, "prepare")
        return settings

    return folder, make


def file_of(folder, name):
    """The file of an image, whose name is in another normal form than its id."""
    return folder / f"{unicodedata.normalize('NFD', name)}.npz"


def samples_of(settings):
    return Run(settings).samples().of("labeled", "unlabeled")


def stored(settings):
    store = open_probabilities(settings.folder / "probs.zarr")
    return {name: store.probabilities(i).maps for i, name in enumerate(store.sample_ids)}


def test_the_store_holds_the_maps_of_the_files_at_their_own_size(own):
    _, make = own
    settings = make()
    facts = annotate(settings)
    assert (facts["annotator"], facts["maps"], facts["num_done"]) == ("maps of maps", [12, 3, 8, 12], 12)
    found = stored(settings)
    assert sorted(found) == sorted(sample.id for sample in samples_of(settings))
    for name, maps in found.items():
        assert np.abs(maps - maps_for(IDS.index(name))).max() <= 1e-5


def test_files_of_several_sizes_or_larger_than_the_grid_are_resized_to_it(own):
    folder, make = own
    settings = make()
    names = [sample.id for sample in samples_of(settings)]
    np.savez(file_of(folder, names[0]), np.repeat(maps_for(0), 4, axis=1))
    annotator = build_annotator(settings, names)
    assert annotator(None, names[:3]).shape == (3, 3, 16, 24)
    for position, name in enumerate(IDS):
        np.savez(file_of(folder, name), maps_for(position, (40, 60)))
    assert build_annotator(settings, names)(None, names[:2]).shape == (2, 3, 16, 24)


def test_missing_several_and_unusable_files_are_listed_before_anything_is_stored(own):
    folder, make = own
    settings = make()
    names = [sample.id for sample in samples_of(settings)]

    def refused(message):
        with pytest.raises(AnnotatorError, match=message):
            annotate(settings)
        assert not (settings.folder / "probs.zarr").exists()
        found = [f"{f.what}; {f.fix}" for f in examine(settings, timed=True) if f.level == "error"]
        assert len(found) == 1
        assert re.search(message, found[0])

    good = file_of(folder, names[1]).read_bytes()
    np.save(folder / f"{names[1]}.npy", maps_for(1))
    refused(rf"maps has several files for an image: {names[1]}.npy, {names[1]}.npz; keep one")
    (folder / f"{names[1]}.npy").unlink()
    for name in names[1:3]:
        np.savez(file_of(folder, name), maps_for(0).transpose(1, 2, 0))
    refused(rf"the maps of 2 of 12 images cannot be used \({names[1]}, {names[2]}\): .*{names[1]}.npz .* last axis; ")
    for name in names[1:3]:
        file_of(folder, name).unlink()
    refused(rf"maps has no file for 2 of 12 images \({names[1]}, {names[2]}\), expected ID.npz, .*; write their files")
    for name in names[1:3]:
        file_of(folder, name).write_bytes(good)
    assert annotate(settings)["num_done"] == 12


def test_a_folder_that_does_not_exist_is_named(own):
    _, make = own
    with pytest.raises(AnnotatorError, match=r"no folder .*data/gone; correct annotate.maps.folder, which is relative"):
        build_annotator(make({"folder": "gone"}))
    with pytest.raises(AnnotatorError, match=r"no folder .*gone; correct annotate.maps.confidence"):
        build_annotator(make({"confidence": "gone"}))


def test_a_folder_or_file_without_permission_is_named(own):
    folder, make = own
    settings = make()
    denied = rf"^{folder.parent}\S* cannot be read \(Permission denied\); make it readable for you"
    for path in (folder, folder / "im03.npz", folder.parent):
        mode = path.stat().st_mode
        path.chmod(0)
        try:
            with without_privileges(), pytest.raises(AnnotatorError, match=denied):
                build_annotator(settings, IDS)
        finally:
            path.chmod(mode)


def test_a_changed_file_is_not_mixed_into_a_half_made_store(own, tmp_path):
    folder, make = own
    settings = make()
    names = [sample.id for sample in samples_of(settings)]
    image = tmp_path / f"data/images/{names[-1]}.png"
    whole = image.read_bytes()
    image.write_bytes(b"other")
    with pytest.raises(DatasetError, match="is not the file that prepare read"):
        annotate(settings)
    image.write_bytes(whole)
    assert open_probabilities(settings.folder / "probs.zarr", writable=True).status.tolist().count(DONE) == 10
    first = file_of(folder, names[0])
    content = first.read_bytes()
    np.savez(first, maps_for(99))
    assert annotate(settings)["num_done"] == 12
    assert np.abs(stored(settings)[names[0]] - maps_for(99)).max() <= 1e-5
    first.write_bytes(content)
    annotate(settings)
    resumed = digest_of(settings.folder / "probs.zarr")
    for path in sorted((settings.folder / "probs.zarr").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (settings.folder / "probs.zarr").rmdir()
    annotate(settings)
    assert digest_of(settings.folder / "probs.zarr") == resumed


def test_a_file_that_changes_while_annotate_runs_is_refused(own):
    folder, make = own
    annotator = build_annotator(make(), IDS[:2])
    np.savez(folder / f"{IDS[1]}.npz", maps_for(99))
    assert annotator(None, IDS[:1]).shape == (1, 3, 8, 12)
    with pytest.raises(AnnotatorError, match=r"im01.npz has changed since annotate started; run annotate again"):
        annotator(None, IDS[:2])


def test_only_images_whose_files_are_new_or_have_changed_are_stored_again(own, tmp_path, caplog, write_images):
    folder, make = own
    settings = make()
    annotate(settings)
    names = [sample.id for sample in samples_of(settings)]
    before = stored(settings)
    np.savez(file_of(folder, names[3]), maps_for(99))
    write_images(tmp_path / "data", [*IDS, "more"])
    np.savez(folder / "more.npz", maps_for(77))
    caplog.set_level("INFO")
    settings = make()
    facts = annotate(settings)
    assert (facts["num_done"], facts["cache"]["num_made"]) == (13, 2)
    after = stored(settings)
    changed = {names[3]: maps_for(99), "more": maps_for(77)}
    for name, maps in after.items():
        assert np.array_equal(maps, before[name]) if name not in changed else np.abs(maps - changed[name]).max() <= 1e-5
    caplog.clear()
    annotate(settings)
    assert "annotate: all maps are in" in caplog.text


def test_maps_of_another_size_are_those_of_another_annotator(own):
    folder, make = own
    settings = make()
    annotate(settings)
    np.savez(
        file_of(folder, samples_of(settings)[0].id), maps_for(0, (4, 6))
    )  # sizes differ: all are resized to the grid
    facts = annotate(settings)
    assert (facts["maps"], facts["cache"]["num_made"]) == ([12, 3, 16, 24], 12)


def test_the_fingerprints_are_those_of_the_content_and_not_of_names_of_folders_or_other_files(own):
    folder, make = own

    def prints(names, section=None):
        annotator = build_annotator(make(section), names)
        return [annotator.fingerprint, *map(annotator.image_fingerprint, names)]

    first = prints(IDS[:3])
    assert len(set(first)) == 4
    assert prints(IDS[:2]) == first[:3]
    folder.rename(folder.with_name("moved"))
    moved = folder.with_name("moved")
    np.savez(moved / f"{IDS[4]}.npz", maps_for(99))
    assert prints(IDS[:3], {"folder": "moved"}) == first
    np.savez(moved / f"{IDS[0]}.npz", maps_for(99))
    changed = prints(IDS[:3], {"folder": "moved"})
    assert changed[1] != first[1]
    assert [changed[0], *changed[2:]] == [first[0], *first[2:]]


def write_masks(root, ids, values):
    for folder in ("named", "sure"):
        (root / folder).mkdir()
    for name in ids:
        Image.fromarray(values).save(root / f"named/{name}.png")
        Image.fromarray(np.full(values.shape, 51, np.uint8)).save(root / f"sure/{name}.png")


def test_index_masks_with_confidences_are_probabilities(own, tmp_path):
    """Confidence 51 / 255 = 0.2, so each of the two other classes has 0.4."""
    _, make = own
    write_masks(tmp_path / "data", IDS, np.ones((16, 24), np.uint8))
    settings = make({"folder": "named", "confidence": "sure"})
    sure = build_annotator(settings, IDS)
    assert np.allclose(sure(None, IDS[:1])[0, :, 0, 0], [0.4, 0.2, 0.4], atol=1e-6)
    certain = build_annotator(make({"folder": "named"}), IDS)
    assert certain(None, IDS[:1])[0, :, 0, 0].tolist() == [0, 1, 0]
    assert certain.image_fingerprint(IDS[0]) != sure.image_fingerprint(IDS[0])
    (tmp_path / f"data/sure/{IDS[0]}.png").unlink()
    with pytest.raises(AnnotatorError, match=r"sure has no file for 1 of 14 images \(im00\), expected ID.png; "):
        build_annotator(settings, IDS)
    with pytest.raises(AnnotatorError, match=r"is no index mask, but annotate.maps.confidence is set; remove it, or"):
        build_annotator(make({"confidence": "sure"}), IDS[1:])


def test_masks_in_colours_are_read_by_the_table_of_colours(own, tmp_path):
    """Two pixels of each class, and two that are ignored, as RGB and with a palette in another order."""
    _, make = own
    colours = {"background": [9, 9, 9], "cat": [200, 0, 0], "dog": [0, 0, 255]}
    values = np.repeat(np.uint8([[0, 1, 2, 3]]), 2, axis=0)
    table = np.uint8([*colours.values(), [255, 255, 255]])
    (tmp_path / "data/painted").mkdir()
    Image.fromarray(table[values]).save(tmp_path / f"data/painted/{IDS[0]}.png")
    palette = Image.fromarray(3 - values)
    palette.putpalette(table[::-1].tobytes())
    palette.save(tmp_path / f"data/painted/{IDS[1]}.png")
    section = {"folder": "painted", "colours": colours, "ignore_colours": [[255, 255, 255]]}
    annotator = build_annotator(make(section), IDS[:2])
    maps = annotator(None, IDS[:2])
    assert maps[0, :, 0].T.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], pytest.approx([1 / 3] * 3)]
    assert np.array_equal(maps[1], maps[0])
    assert annotator.without_prompt == []
    del section["colours"]["dog"]
    other = section | {"ignore_colours": [[255, 255, 255], [0, 0, 255]]}
    changed = build_annotator(make(other), IDS[:1])
    assert changed.without_prompt == ["dog"]
    assert changed.image_fingerprint(IDS[0]) != annotator.image_fingerprint(IDS[0])
    for wrong, message in [
        (section, r"im00.png has the colours #0000ff, which neither annotate.maps.colours nor .*lists; add them"),
        (section | {"colours": {"cut": [1, 1, 1]}}, r"names 'cut', .*; did you mean cat\?; correct or remove it"),
        (section | {"ignore_colours": [[9, 9, 9]]}, r"annotate.maps.colours has \[9, 9, 9\] twice"),
        ({"folder": "painted", "ignore_colours": [[9, 9, 9]]}, r"annotate.maps.colours is not; add the colours"),
        (section | {"folder": "masks"}, r"masks/im00.png has values and no colours, but annotate.maps.colours is set"),
    ]:
        with pytest.raises(AnnotatorError, match=message):
            build_annotator(make(wrong), IDS[:1])


def test_channels_in_another_order_than_the_classes_are_refused(tmp_path):
    mask = np.repeat(np.array([[0] * 32, [1] * 16 + [2] * 16], np.uint8), 12, axis=0)
    names = [str(i) for i in range(21)]
    for folder in ("images", "masks", "maps"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for i, name in enumerate(names):
        noise = np.random.default_rng(i).integers(0, 9, (*mask.shape, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"data/images/{name}.png")
        Image.fromarray(mask).save(tmp_path / f"data/masks/{name}.png")
        Image.fromarray(np.array([0, 2, 1], np.uint8)[mask]).save(tmp_path / f"data/maps/{name}.png")
    settings = load_settings(
        write_run_file(tmp_path, annotate={"annotator": "maps", "maps": {"folder": "maps"}}), {"splits.num_labeled": 16}
    )
    run_stages(settings, "prepare")
    with pytest.raises(
        AnnotatorError, match=r"contradict the masks, .*cat is found in none of the 16 .*order of the channels of the"
    ):
        annotate(settings)


def test_the_code_of_the_documentation_writes_maps_that_annotate_reads(own, tmp_path, monkeypatch):
    """Probabilities of a network, and detections with one mask per concept."""
    _, make = own
    settings = make()
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"root": "photos"})})
    (tmp_path / "data").rename(tmp_path / "photos")
    section = DOCS.read_text().partition("\n## `maps`")[2].partition("\n## ")[0]
    network, detections, glamm_code, *_ = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)

    def predict(image):
        return np.moveaxis(image[:6, :8].astype(np.float32) + 1, -1, 0)

    def detect(image):
        yield "cat", 0.8, image[..., 0] > 128
        yield "cat", 0.5, image[..., 0] > 64
        yield "dog", 0.3, image[..., 1] > 128

    for code, size in ((network, (6, 8)), (detections, (24, 32))):
        for path in Path("photos/maps").glob("*"):
            path.unlink()
        exec(code, {"predict": predict, "detect": detect, "classes": CLASSES})  # the documentation's own code
        annotator = build_annotator(settings, IDS)
        image = np.asarray(Image.open(f"photos/images/{IDS[0]}.png"))
        maps = np.load(f"photos/maps/{IDS[0]}.npz")["arr_0"]
        assert maps.shape == (3, *size)
        if code == detections:
            red, green = image[20, 30, :2]
            cat, dog = 0.8 if red > 128 else 0.5 if red > 64 else 0, 0.3 if green > 128 else 0
            total = max(1, cat + dog)
            expected = [max(0, 1 - cat - dog), cat / total, dog / total]
            assert np.allclose(maps[:, 20, 30], expected, atol=1e-3)
        assert annotator(None, IDS[:1]).shape == (1, 3, *(size if size == (6, 8) else (16, 24)))

    def glamm(image, question):
        return [np.full((24, 32), logit) for logit in ([-np.log(3), 0.0] if "the cat in" in question else [])]

    names = {"glamm": glamm, "classes": CLASSES}
    exec(glamm_code, names)  # two masks of a cat, of probability 1 / 4 and 1 / 2
    exec(detections, names)
    assert np.load(f"photos/maps/{IDS[0]}.npz")["arr_0"][:, 5, 7].tolist() == [0.5, 0.5, 0]


def test_maps_of_tiles_are_read_and_those_of_whole_images_are_refused_and_cut_as_the_guide_says(
    tmp_path, write_images, monkeypatch
):
    names = [f"im{i}" for i in range(6)]
    write_images(tmp_path / "data", names, size=(24, 40))
    write_images(tmp_path / "data", ["small"], size=(20, 24), seed=1)
    section = {"annotator": "maps", "maps": {"folder": "maps"}, "class_check": "warn"}
    tree = yaml.safe_load(write_run_file(tmp_path, annotate=section).read_text())
    tree["data"] |= {"tile": {"size": 24, "overlap": 8}, "grid": [24, 24], "splits": {"num_labeled": 3, "num_val": 2}}
    (tmp_path / "config").mkdir()
    (tmp_path / "config/mine.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "photos").symlink_to("data")
    monkeypatch.chdir(tmp_path)
    maps = {name: maps_for(i, (24, 40)) for i, name in enumerate(names)} | {"small": maps_for(9, (20, 24))}
    for folder in ("photos/whole", "photos/maps"):
        Path(folder).mkdir()
        for name, of_image in maps.items():
            np.save(f"{folder}/{name}.npy", of_image)
    settings = load_settings("mine")
    run_stages(settings, "prepare")

    def errors_of(settings):
        return [one.what for one in examine(settings) if one.level == "error" and "maps" in one.what]

    refused = (
        r"maps of \d whole images \(.*im\d.*\), which data.tile .* e.g. im\d@0,0; cut them .*large-images.md, or remove"
    )
    with pytest.raises(AnnotatorError, match=refused):
        annotate(settings)
    assert re.search(refused.partition("; ")[0], "".join(errors_of(settings)))

    exec(re.search(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)[1], {})
    assert errors_of(settings) == []
    assert try_annotator(settings, find_samples(settings.data)[0]).map_size == (24, 24)
    annotate(settings)
    samples = {sample.id: sample for sample in samples_of(settings)}
    found = stored(settings)
    assert found.keys() == samples.keys()
    tiles = [sample for sample in samples.values() if sample.tile is not None]
    assert len(tiles) >= 8
    for sample in tiles:
        top, left = map(int, sample.id.rpartition("@")[2].split(","))
        expected = maps[sample.tile.image][:, top : top + 24, left : left + 24]
        assert np.abs(found[sample.id] - expected).max() <= 1e-4
