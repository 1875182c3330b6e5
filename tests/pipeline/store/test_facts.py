"""Stores of strangers: nothing of their metadata is executed or believed beyond bounds, and no id leaves a folder."""

import contextlib
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from label_store import write_label_store

from pipeline.datasets import load_samples, save_samples
from pipeline.errors import StoreError
from pipeline.exchange import export_labels
from pipeline.exchange.formats import FORMATS
from pipeline.receipt import fingerprint
from pipeline.store import metadata_damage, open_for_inspection, open_labels, store_state
from pipeline.store.facts import MAX_BYTES, fact_problem
from pipeline.store.metadata import metadata_files

LABELS = np.array([[[[0, 1], [2, np.nan]], [[1, 1], [0, 2]]]], np.float32)
SIZES = [(2, 2), (3, 4)]


@pytest.fixture
def path(tmp_path):
    return write_label_store(tmp_path, LABELS, SIZES)


def write_facts(path, state):
    """Facts with their own right digest, as a stranger can write them."""
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["conformalsam"] = {**state, "digest": fingerprint(state)}
    (path / "zarr.json").write_text(json.dumps(document, indent=2))


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (self.file, "w"))


@pytest.mark.parametrize("is_complete", [True, False])
def test_pickles_behind_metadata_of_version_2_are_never_executed(path, is_complete, tmp_path):
    sentinel = tmp_path / "executed"
    array = {
        "zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "|O", "fill_value": None, "order": "C",
        "compressor": None, "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    state = {**store_state(path), "complete": is_complete}
    document = {
        "attributes": {"conformalsam": {**state, "digest": fingerprint(state)}},
        "zarr_format": 3,
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": {"sample": array}},
        "node_type": "group",
    }
    (path / "zarr.json").write_text(json.dumps(document, indent=2))
    (path / ".zmetadata").write_text(json.dumps({"metadata": {"sample/.zarray": array}, "zarr_consolidated_format": 1}))
    for name in ("sample", "class"):
        (path / name / "zarr.json").write_text(json.dumps(array))
        (path / name / ".zarray").write_text(json.dumps(array))
        for chunk in (path / name / "0", path / name / "c/0"):
            chunk.write_bytes(pickle.dumps(Payload(str(sentinel))))
    store = open_for_inspection(path)
    assert {damage.array for damage in metadata_damage(store)} >= {"sample", "class"}
    for read in (lambda: store.sample_ids, lambda: store.class_names, lambda: open_labels(path)):
        with pytest.raises(StoreError):
            read()
    relaxed = replace(store, is_strict=False, opened={})
    with pytest.raises(StoreError, match="sample is damaged"):
        _ = relaxed.sample_ids
    assert not sentinel.exists()


FACTS = {
    "kind": ("labels2", "its kind is 'labels2', expected one of probabilities"),
    "kind of a list": ([], r"its kind is \[\]"),
    "fingerprint": ("../x", "its fact fingerprint: "),
    "num_samples": (10**12, "its fact num_samples: "),
    "class_names": ([1], "its fact class_names.0: "),
    "grid": ([2**20, 2**20], "its maps or its grid have more than"),
    "grid of text": (["2", "2"], "its fact grid.0: "),
    "alphas": ([], "its fact alphas: "),
    "background": (-1, "its fact background"),
    "complete": (1, "its fact complete: "),
}


@pytest.mark.parametrize(("value", "message"), FACTS.values(), ids=FACTS)
def test_facts_out_of_bounds_are_refused_although_they_have_their_digest(path, value, message, request):
    name = request.node.callspec.id.split(" ")[0]
    write_facts(path, {**store_state(path), name: value})
    with pytest.raises(StoreError, match=f"is not that of a store of conformalsam .{message}") as error:
        open_labels(path)
    assert "\n" not in str(error.value)


def test_variants_that_leave_the_folder_are_refused():
    facts = {
        "kind": "calibration", "fingerprint": "f1", "complete": False, "num_samples": 1, "class_names": ["a"],
        "grid": [2, 2], "background": None, "alphas": [0.1], "class_thresholds": "pooled", "variant": "pixel",
        "variants": ["pixel"],
        "rules": ["paper"],
    }  # fmt: skip
    assert fact_problem(facts) is None
    assert "variants.0" in fact_problem(facts | {"variants": ["../../x"]})


def test_a_class_with_a_line_break_is_refused(tmp_path):
    path = write_label_store(tmp_path, LABELS, SIZES, names=["background", "cat", "dog\n#evil:0,0,0::"])
    for name in FORMATS:
        with pytest.raises(StoreError, match=r"has the class 'dog\\n#evil:0,0,0::', expected a name without control"):
            export_labels(path, name, tmp_path / "out" / name)


def test_a_zarr_json_without_end_is_not_read(path):
    with (path / "zarr.json").open("ab") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(StoreError, match=rf"it has {MAX_BYTES + 1} bytes, expected at most {MAX_BYTES}"):
        open_labels(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("../x"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_changed_fact_causes_a_traceback_or_a_path_outside(path, data):
    text = (path / "zarr.json").read_text()
    state = store_state(path)
    name = data.draw(st.sampled_from(sorted(state)))
    changed = {**state, name: data.draw(JSON)}
    write_facts(path, json.loads(json.dumps(changed)))
    with contextlib.suppress(StoreError):
        facts = store_state(path)
        assert all("/" not in array and ".." not in array for array in metadata_files(facts))
        open_labels(path)
    (path / "zarr.json").write_text(text)


@pytest.mark.parametrize("sample_id", ["../evil", "/etc/evil", "..", "", "a/b"])
def test_an_id_that_is_no_file_name_is_refused_in_every_export(path, sample_id, tmp_path):
    samples = tmp_path / "samples.json"
    index = load_samples(samples)
    save_samples(samples, replace(index, samples=(replace(index.samples[0], id=sample_id), *index.samples[1:])))
    for name in FORMATS:
        with pytest.raises(StoreError, match=r"has the image id '.*', which is no file name"):
            export_labels(path, name, tmp_path / "out" / name)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil.png").exists()


@pytest.mark.parametrize("image", ["../secret.png", "{}/secret.png", "images/../../secret.png"])
def test_an_image_outside_the_data_root_is_refused_in_every_export(path, image, tmp_path):
    samples = tmp_path / "samples.json"
    index = load_samples(samples)
    first = replace(index.samples[0], image=image.format(tmp_path.parent))
    save_samples(samples, replace(index, samples=(first, *index.samples[1:])))
    for name in FORMATS:
        with pytest.raises(StoreError, match=r"lists the image .*secret.png outside its data root"):
            export_labels(path, name, tmp_path / "out" / name)


def test_a_data_root_other_than_that_of_the_run_is_refused(path, tmp_path):
    with pytest.raises(
        StoreError, match=r"samples.json lists images in .*, but data.root is .*elsewhere; run snakemake"
    ):
        export_labels(path, "png", tmp_path / "out", root=tmp_path / "elsewhere")
