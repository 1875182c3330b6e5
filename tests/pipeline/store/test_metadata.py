"""What is written beside the chunks is a function of the facts, is what zarr itself would write, and is proven."""

import json
import shutil

import pytest
import xarray
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from pipeline.datasets import Sample
from pipeline.errors import StoreError
from pipeline.receipt import fingerprint
from pipeline.store import (
    FAILED,
    OUTCOMES,
    arrays_of,
    create_store,
    open_for_inspection,
    open_labels,
    store_state,
)
from pipeline.store.arrays import SMALL
from pipeline.store.metadata import array_document, metadata_files

SAMPLES = [Sample(f"im{i}", f"{i}.png", None, "unlabeled", 9, 11) for i in range(3)]
COMMON = {"fingerprint": "f1", "class_names": ["sky", "Bäume", "dog"], "grid": [4, 5]}
CALIBRATION = COMMON | {
    "background": None,
    "alphas": [0.1, 0.3],
    "variant": "image",
    "variants": ["image", "pixel"],
    "rules": ["paper", "singleton"],
}
MAPS = {"kind": "probabilities", "maps": [3, 2, 2]}
FACTS = {
    "probabilities, fixed point": COMMON | MAPS | {"dtype": "uint16", "space": "probability"},
    "probabilities, logits": COMMON | MAPS | {"dtype": "float16", "space": "logits"},
    "calibration": CALIBRATION | {"kind": "calibration", "class_thresholds": "pooled"},
    "calibration, class-wise": CALIBRATION | {"kind": "calibration", "class_thresholds": "each", "variants": ["image"]},
    "labels": COMMON | {"kind": "labels", "background": 0, "alphas": [0.1], "rule": "paper"},
    "labels at two alphas": COMMON | {"kind": "labels", "background": None, "alphas": [0.1, 1e-05], "rule": "paper"},
}


def created(path, facts, is_finished):
    own = {name: value for name, value in facts.items() if name != "kind"}
    create_store(path, facts["kind"], own, SAMPLES)
    store = type(open_for_inspection(path))(path, store_state(path), is_writable=True)
    if is_finished:
        for index in range(3):
            store.mark(index, FAILED)
        store.finish()
    return store


def written_by_zarr(path, facts, is_finished):
    """The same metadata, written by zarr alone."""
    attributes = {"conformalsam": {**facts, "digest": fingerprint(facts)}}
    group = zarr.open_group(path, mode="w", attributes=attributes)
    fast, of_maps = {"cname": "lz4", "clevel": 5}, {"cname": "zstd", "clevel": 3}
    for name, spec in arrays_of(facts).items():
        compression = of_maps if name in ("logits", "probability") else fast
        group.create_array(
            name,
            shape=spec.shape,
            dtype=spec.dtype,
            chunks=spec.chunks,
            fill_value=spec.fill,
            compressors=[
                BloscCodec(**compression, shuffle="shuffle"),
                Crc32cCodec(),
            ],
            dimension_names=spec.dims,
            attributes=dict(spec.attributes),
        )
    if is_finished:
        zarr.consolidate_metadata(str(path))


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.filterwarnings("ignore:The data type")
@pytest.mark.parametrize("is_finished", [False, True])
@pytest.mark.parametrize("facts", FACTS.values(), ids=FACTS)
def test_metadata_are_those_that_zarr_writes(tmp_path, facts, is_finished):
    store = created(tmp_path / "ours", facts, is_finished)
    written_by_zarr(tmp_path / "theirs", store_state(store.path), is_finished)
    files = {file.relative_to(store.path) for file in store.path.rglob("zarr.json")}
    assert files == {file.relative_to(tmp_path / "theirs") for file in (tmp_path / "theirs").rglob("zarr.json")}
    for file in files:
        assert (tmp_path / "ours" / file).read_text() == (tmp_path / "theirs" / file).read_text()


def test_every_fact_is_part_of_the_digest(tmp_path):
    path = created(tmp_path / "probs.zarr", FACTS["probabilities, logits"], True).path
    text = (path / "zarr.json").read_text()
    state = store_state(path)
    for name, value in state.items():
        changed = json.loads(text)
        changed["attributes"]["conformalsam"][name] = "logitq" if value == "logits" else [value]
        (path / "zarr.json").write_text(json.dumps(changed, indent=2))
        with pytest.raises(StoreError, match=r"is damaged \(its facts do not have the digest .*; run snakemake "):
            store_state(path)
    (path / "zarr.json").write_text(text)
    assert store_state(path) == state


def test_facts_are_read_although_the_copies_beside_them_are_damaged(tmp_path):
    path = created(tmp_path / "labels.zarr", FACTS["labels"], True).path
    state = store_state(path)
    (path / "zarr.json").write_text((path / "zarr.json").read_text().replace("best_foreground", 'best"foreground'))
    assert store_state(path) == state


def test_an_array_differs_for_every_part_of_its_specification():
    spec = arrays_of(FACTS["labels"] | {"num_samples": 3})["label"]
    changes = {"dims": ("a", "y", "x"), "shape": (2, 4, 5), "dtype": "float32", "fill": 0, "chunks": (1, 2, 5)}
    changes["compression"] = SMALL
    documents = [array_document(spec._replace(**{name: value})) for name, value in changes.items()]
    documents += [array_document(spec), array_document(spec._replace(attributes={}))]
    assert len({json.dumps(document) for document in documents}) == len(changes) + 2


def test_names_of_files_are_those_of_the_arrays():
    facts = FACTS["calibration"] | {"num_samples": 3, "complete": False}
    assert set(metadata_files(facts)) == {"zarr.json", *arrays_of(facts)}


def test_labels_are_opened_by_xarray_with_their_classes_sizes_and_outcomes(tmp_path):
    facts = FACTS["labels at two alphas"] | {"class_names": ["sky", "traffic  light"]}
    path = created(tmp_path / "labels.zarr", facts, True).path
    opened = xarray.open_zarr(path)
    for name in ("label", "label_by_alpha"):
        assert opened[name].attrs["flag_values"] == [0, 1]
        assert opened[name].attrs["flag_meanings"].split() == ["sky", "traffic_light"]
        assert opened[name].coords["height"].values.tolist() == [9, 9, 9]
        assert opened[name].coords["width"].values.tolist() == [11, 11, 11]
    assert opened["class"].values.tolist() == ["sky", "traffic  light"]
    assert opened["outcome_pixels"].sel(outcome="kept", sample="im1") == 0
    assert opened["outcome"].values.tolist() == list(OUTCOMES)


def as_written_before(path, layout):
    """Change a finished store into one whose version described labels otherwise and had no outcomes."""
    root = json.loads((path / "zarr.json").read_text())
    facts, arrays = root["attributes"]["conformalsam"], root["consolidated_metadata"]["metadata"]
    del facts["digest"], facts["layout"]
    facts |= {} if layout is None else {"layout": layout}
    facts["digest"] = fingerprint(facts)
    arrays["label"]["attributes"] = {}
    (path / "label/zarr.json").write_text(json.dumps(arrays["label"], indent=2))
    del arrays["outcome"]
    shutil.rmtree(path / "outcome")
    (path / "zarr.json").write_text(json.dumps(root, indent=2))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (None, r"an earlier version of conformalsam \(layout 0, this is 2\); run snakemake .* pseudo"),
        (7, r"a later version of conformalsam \(layout 7, this is 2\); run snakemake .* pseudolabel"),
    ],
)
def test_a_store_of_another_version_is_called_that_and_not_damaged(tmp_path, layout, message):
    path = created(tmp_path / "labels.zarr", FACTS["labels"], True).path
    as_written_before(path, layout)
    for opened in (open_labels, open_for_inspection):
        with pytest.raises(StoreError, match=message):
            opened(path)


@pytest.mark.parametrize("name", ["label", "outcome", ""])
def test_damage_of_one_copy_of_the_metadata_is_not_another_version(tmp_path, name):
    path = created(tmp_path / "labels.zarr", FACTS["labels"], True).path
    root = json.loads((path / "zarr.json").read_text())
    if name:
        (path / name / "zarr.json").unlink()
    else:
        del root["consolidated_metadata"]["metadata"]["label"]["attributes"]["coordinates"]
    del root["attributes"]["conformalsam"]["layout"], root["attributes"]["conformalsam"]["digest"]
    root["attributes"]["conformalsam"]["digest"] = fingerprint(root["attributes"]["conformalsam"])
    (path / "zarr.json").write_text(json.dumps(root, indent=2))
    with pytest.raises(StoreError, match=rf"{name or 'zarr.json'} is damaged \(its zarr.json"):
        open_labels(path)


def test_facts_without_a_digest_are_of_an_earlier_version(tmp_path):
    path = created(tmp_path / "labels.zarr", FACTS["labels"], True).path
    root = json.loads((path / "zarr.json").read_text())
    del root["attributes"]["conformalsam"]["digest"]
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match=r"was written by an earlier version of conformalsam \(its facts have no dig"):
        store_state(path)
