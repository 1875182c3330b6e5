"""Annotator maps from Zarr: every layout gives the maps that were written, and others are refused in one line."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from label_store import write_label_store
from stage_runs import run_stages
from tiny_run import CLASSES, write_run_file

from pipeline.annotators.build import build_annotator
from pipeline.errors import AnnotatorError, UserError
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.stages.annotate import annotate
from pipeline.store import open_probabilities

DOCS = Path(__file__).parents[3] / "docs/annotators.md"
IDS = [*(f"im{i:02d}" for i in range(11)), "é.v2"]
SIZE = (8, 12)

# xarray's own ways to store coordinates and metadata in Zarr 3
pytestmark = [
    pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
]


def maps_of(ids=IDS, size=SIZE):
    drawn = np.random.default_rng(0).random((len(ids), 3, *size), np.float32) + 0.1
    return drawn / drawn.sum(axis=1, keepdims=True)


@pytest.fixture
def make(tmp_path, write_images):
    """Function that makes the settings of a prepared run, whose maps are in data/maps.zarr: (section, overrides)."""
    write_images(tmp_path / "data", IDS)

    def make_settings(section=None, **overrides):
        chosen = {"annotator": "maps", "maps": {"folder": "maps.zarr"} | (section or {}), "class_check": "warn"}
        settings = load_settings(write_run_file(tmp_path, annotate=chosen), overrides)
        if not Run(settings).has_receipt("prepare"):
            run_stages(settings, "prepare")
        return settings

    return make_settings


def read(settings, ids=IDS):
    return build_annotator(settings, ids)(None, ids)


def write_array(path, values, **options):
    array = zarr.create_array(path, shape=values.shape, dtype=values.dtype, chunks=(1, *values.shape[1:]), **options)
    array[:] = values
    return array


@pytest.mark.parametrize("version", [2, 3])
def test_an_array_with_an_attribute_of_ids(make, tmp_path, version):
    maps = maps_of()
    array = write_array(tmp_path / "data/maps.zarr", maps[::-1], zarr_format=version)
    array.attrs["ids"] = IDS[::-1]
    assert np.array_equal(read(make()), maps)


@pytest.mark.parametrize("version", [2, 3])
def test_a_data_array_of_xarray_with_a_coordinate(make, tmp_path, version):
    maps = maps_of().astype(np.float16)
    named = xarray.DataArray(maps, {"image": IDS, "class": CLASSES}, ("image", "class", "y", "x"), name="p")
    named.to_zarr(tmp_path / "data/maps.zarr", zarr_format=version, encoding={"p": {"chunks": (1, 3, *SIZE)}})
    assert np.array_equal(read(make()), maps.astype(np.float32))


def test_a_group_with_an_attribute_or_a_list_of_ids(make, tmp_path):
    maps = maps_of()
    group = zarr.open_group(tmp_path / "data/maps.zarr", mode="w")
    write_array(tmp_path / "data/maps.zarr/prob", maps)
    (tmp_path / "data/order.txt").write_text("\n".join(IDS))
    assert np.array_equal(read(make({"ids": "order.txt"})), maps)
    group.attrs["ids"] = IDS
    assert np.array_equal(read(make()), maps)
    (tmp_path / "data/order.txt").write_text("\n".join(IDS[::-1]))
    assert np.array_equal(read(make({"ids": "order.txt"})), maps[::-1])


def test_a_group_with_an_array_for_each_image(make, tmp_path):
    maps = maps_of()
    zarr.open_group(tmp_path / "data/maps.zarr", mode="w")
    for name, values in zip(IDS, maps, strict=True):
        write_array(tmp_path / "data/maps.zarr" / name, values)
    assert np.array_equal(read(make()), maps)


def test_a_folder_with_a_zarr_for_each_image_beside_other_files(make, tmp_path):
    maps, folder = maps_of(), tmp_path / "data/maps"
    folder.mkdir()
    write_array(folder / f"{IDS[0]}.zarr", maps[0])
    xarray.DataArray(maps[1], dims=("class", "y", "x"), name="p").to_zarr(folder / f"{IDS[1]}.zarr")
    for name, values in zip(IDS[2:], maps[2:], strict=True):
        np.save(folder / f"{name}.npy", values)
    settings = make({"folder": "maps"})
    assert np.array_equal(read(settings), maps)
    annotate(settings)
    assert np.abs(open_probabilities(settings.folder / "probs.zarr").probabilities(0).maps).max() > 0


def test_only_images_whose_maps_have_changed_are_stored_again(make, tmp_path, caplog):
    maps = maps_of()
    array = write_array(tmp_path / "data/maps.zarr", maps)
    array.attrs["ids"] = IDS
    settings = make()
    annotate(settings)
    changed = Run(settings).samples().of("unlabeled")[0].id
    array[IDS.index(changed)] = maps[IDS.index(changed)][::-1]
    caplog.set_level("INFO")
    assert annotate(settings)["cache"]["num_made"] == 1
    store = open_probabilities(settings.folder / "probs.zarr")
    for index, name in enumerate(store.sample_ids):
        expected = maps[IDS.index(name)][:: -1 if name == changed else 1]
        assert np.abs(store.probabilities(index).maps - expected).max() <= 1e-5


def test_other_chunks_other_versions_and_other_layouts_are_the_same_maps(make, tmp_path):
    maps, path = maps_of(), tmp_path / "data/maps.zarr"
    write_array(path, maps).attrs["ids"] = IDS
    first = build_annotator(make(), IDS)
    (tmp_path / "data/maps").mkdir()
    for name, values in zip(IDS, maps, strict=True):
        other = zarr.create_array(
            tmp_path / f"data/maps/{name}.zarr", shape=values.shape, dtype=values.dtype, chunks=(1, 5, 5), zarr_format=2
        )
        other[:] = values
    second = build_annotator(make({"folder": "maps"}), IDS)
    assert first.fingerprint == second.fingerprint
    assert [first.image_fingerprint(name) for name in IDS] == [second.image_fingerprint(name) for name in IDS]


def test_an_array_that_changes_while_annotate_runs_is_refused(make, tmp_path):
    array = write_array(tmp_path / "data/maps.zarr", maps_of())
    array.attrs["ids"] = IDS
    annotator = build_annotator(make(), IDS)
    array[3] = maps_of()[4]
    with pytest.raises(AnnotatorError, match=r"maps.zarr\[3\] has changed since annotate started; run annotate again"):
        annotator(None, IDS[2:4])


def no_ids(path, maps):
    write_array(path, maps)


def few_ids(path, maps):
    write_array(path, maps).attrs["ids"] = IDS[:5]


def other_ids(path, maps):
    write_array(path, maps).attrs["ids"] = [f"{name}.png" for name in IDS]


def same_ids(path, maps):
    write_array(path, np.concatenate([maps[:1], maps])).attrs["ids"] = [IDS[0], *IDS]


def three_axes(path, maps):
    write_array(path, maps[0])


def two_arrays(path, maps):
    zarr.open_group(path, mode="w")
    for name in ("a", "b"):
        write_array(path / name, maps)


def nothing(path, maps):
    zarr.open_group(path, mode="w")


def classes_last(path, maps):
    write_array(path, np.moveaxis(maps, 1, -1)).attrs["ids"] = IDS


def logits(path, maps):
    write_array(path, np.log(maps)).attrs["ids"] = IDS


def integers(path, maps):
    write_array(path, (255 * maps).astype(np.uint8)).attrs["ids"] = IDS


def not_a_number(path, maps):
    maps[4, 1, 2, 3] = np.nan
    write_array(path, maps).attrs["ids"] = IDS


def two_missing_chunks(path, maps):
    write_array(path, maps).attrs["ids"] = IDS
    for index in (3, 4):
        (path / f"c/{index}/0/0/0").unlink()


def nan_where_missing(path, maps):
    write_array(path, maps, fill_value=np.nan).attrs["ids"] = IDS
    (path / "c/3/0/0/0").unlink()


def cut_chunk(path, maps):
    write_array(path, maps).attrs["ids"] = IDS
    chunk = path / "c/3/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-9])


def damaged_metadata(path, maps):
    write_array(path, maps).attrs["ids"] = IDS
    (path / "zarr.json").write_text("{")


def unknown_codec(path, maps):
    write_array(path, maps).attrs["ids"] = IDS
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace('"zstd"', '"made-up"'))


def unsuitable_coordinate(path, maps):
    xarray.DataArray(maps, dims=("image", "class", "y", "x"), name="p").to_zarr(path)


LIST = r"the attribute ids, a list .*, or a coordinate, as xarray writes it, or set annotate.maps.ids to a list file"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (no_ids, rf"maps.zarr has the maps of 12 images, but no ids of them; give it {LIST}"),
        (unsuitable_coordinate, rf"maps.zarr/p has the maps of 12 images, but no ids of them; give it {LIST}"),
        (few_ids, r"has the maps of 12 images, but 5 ids beside it; write one id for each"),
        (other_ids, r"no maps of 12 of 12 images .*, but those of 12 ids \(im00.png, .*; write their maps under"),
        (same_ids, r"has several files for an image: .*maps.zarr\[0\], .*maps.zarr\[1\]; keep one"),
        (three_axes, r"maps.zarr has an array \[3, 8, 12\], expected one array \[N, K, h, w\] .*docs/annotators.md"),
        (two_arrays, r"has a \[12, 3, 8, 12\], b \[12, 3, 8, 12\], expected one array \[N, K, h, w\]"),
        (nothing, r"maps.zarr has no arrays, expected one array"),
        (classes_last, r"maps.zarr\[0\] has shape \[8, 12, 3\].* its classes are the last axis; write maps.transpose"),
        (logits, r"maps.zarr\[0\] has values from -.*; if they are logits, write their softmax"),
        (integers, r"maps.zarr\[0\] has values of uint8, expected floats in \[0, 1\]"),
        (not_a_number, r"maps.zarr\[4\] has NaN or infinite values"),
        (two_missing_chunks, r"of 2 of 12 .* \(im03, im04\): .*\[3\] has the array's fill value 0.0 everywhere, as"),
        (nan_where_missing, r"maps.zarr\[3\] has the array's fill value nan everywhere, as where chunks are missing"),
        (cut_chunk, r"maps.zarr\[3\] cannot be read by zarr \(.*\); write it again"),
        (damaged_metadata, r"maps.zarr/zarr.json is damaged: it is no JSON object; write .*maps.zarr again"),
        (unknown_codec, r"maps.zarr cannot be opened by zarr \(.*made-up.*\); write it again"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(make, tmp_path, write, message):
    write(tmp_path / "data/maps.zarr", maps_of())
    with pytest.raises(AnnotatorError, match=message) as refused:
        read(make())
    assert "\n" not in str(refused.value)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_pickles_in_filters_are_never_executed(make, tmp_path, place):
    path, sentinel = tmp_path / "data/maps.zarr", tmp_path / "executed"
    array = zarr.create_array(path, shape=(12, 3, *SIZE), dtype="f4", zarr_format=2, compressors=None)
    array.attrs["ids"] = IDS
    content = json.loads((path / ".zarray").read_text())
    codec = {"id": "pickle", "protocol": 5}
    (path / ".zarray").write_text(json.dumps(content | {place: [codec] if place == "filters" else codec}))
    for index in range(12):
        (path / f"{index}.0.0.0").write_bytes(pickle.dumps(Payload(sentinel)))
    with pytest.raises(AnnotatorError, match=r"maps.zarr is stored with pickle, which can run code; write it without"):
        read(make())
    assert not sentinel.exists()


def test_a_list_of_ids_needs_an_array_without_names_and_one_line_for_each_image(make, tmp_path):
    (tmp_path / "data/few.txt").write_text("im00\nim01\n")
    (tmp_path / "data/maps").mkdir()
    with pytest.raises(AnnotatorError, match=r"maps.ids is set, but .*maps is no Zarr; remove annotate.maps.ids"):
        read(make({"folder": "maps", "ids": "few.txt"}))
    write_array(tmp_path / "data/maps.zarr", maps_of())
    with pytest.raises(AnnotatorError, match=r"12 images, but 2 ids in the list annotate.maps.ids; write one id for"):
        read(make({"ids": "few.txt"}))
    with pytest.raises(UserError, match=r"data/gone.txt cannot be read \(No such file or directory\)"):
        read(make({"ids": "gone.txt"}))


def test_another_store_of_a_run_is_refused(make, tmp_path):
    path = write_label_store(tmp_path / "other", np.zeros((1, 1, 2, 2), np.float32), [(2, 2)])
    with pytest.raises(AnnotatorError, match=r"labels.zarr is the store of labels of a run, expected that of maps"):
        read(make({"folder": str(path)}))


def test_a_folder_that_is_called_zarr_and_is_none_is_refused(make, tmp_path):
    folder = tmp_path / "data/maps"
    for name in IDS:
        (folder / f"{name}.zarr").mkdir(parents=True)
    with pytest.raises(AnnotatorError, match=r"maps of 12 of 12 .*im00.zarr is no Zarr: it has no zarr.json"):
        read(make({"folder": "maps"}))


@pytest.mark.parametrize("space", ["logits", "probability"])
def test_the_maps_of_another_run_are_taken_as_they_are(make, tmp_path, space):
    python = {"factory": "noisy_annotator:build", "arguments": {"space": space}}
    chosen = {"annotator": "python", "python": python, "class_check": "warn"}
    path = write_run_file(tmp_path, annotate=chosen)
    other = load_settings(path, {"name": "other"})
    run_stages(other, "prepare", "annotate")
    settings = make({"folder": str(other.folder / "probs.zarr"), "sums": "one"})
    annotate(settings)
    first, second = (open_probabilities(one.folder / "probs.zarr") for one in (other, settings))
    for index, name in enumerate(first.sample_ids):
        expected = first.probabilities(index).rows(slice(None))
        found = second.probabilities(second.sample_ids.index(name)).rows(slice(None))
        assert np.abs(found - expected).max() <= 2e-5
    renamed = make({"folder": str(other.folder / "probs.zarr")})
    classes = [{"name": name} for name in ("background", "dog", "cat")]
    data = renamed.data.model_copy(update={"classes": [type(renamed.data.classes[0])(**one) for one in classes]})
    with pytest.raises(AnnotatorError, match=r"has the classes background, cat, dog, expected background, dog, cat"):
        read(renamed.model_copy(update={"data": data}))
    chunk = open_probabilities(other.folder / "probs.zarr").chunk(0)
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"!")
    with pytest.raises(
        UserError, match=r"probs.zarr: (logits|probability) of .* is damaged .*; run conformalsam inspect"
    ):
        read(make({"folder": str(other.folder / "probs.zarr")}), [s.id for s in Run(other).samples().of("labeled")])


def test_the_code_of_the_documentation_writes_maps_that_annotate_reads(make, tmp_path, monkeypatch):
    section = DOCS.read_text().partition("\n### Zarr")[2].partition("\n## ")[0]
    codes = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(codes) == 2
    settings, maps = make(), maps_of()
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"root": "photos"})})
    (tmp_path / "data").rename(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    for code in codes:
        path = Path("photos/maps.zarr")
        if path.exists():
            path.rename("other.zarr")
        exec(code, {"maps": maps, "ids": IDS, "predict": lambda name: maps[IDS.index(name)]})  # the page's own code
        assert np.abs(read(settings) - maps).max() <= 1e-3
