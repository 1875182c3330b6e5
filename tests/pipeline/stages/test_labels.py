"""calibrate and pseudolabel, on real stores: equal to Eq. 3 and Eq. 4 written out word for word."""

import numpy as np
import onnx
import pytest
from distributed import LocalCluster
from literal import literal_labels, literal_q_hat
from onnx import TensorProto, helper
from stage_runs import digest_of, labels_of, probabilities_of, run_stages

from pipeline.datasets import load_samples, resize_nearest
from pipeline.errors import ConfigError, StoreError
from pipeline.run import Run
from pipeline.stages.calibrate import calibrate
from pipeline.stages.pseudolabel import pseudolabel
from pipeline.store import open_calibration, open_labels


@pytest.fixture
def data(tmp_path, write_images):
    write_images(tmp_path / "data", [f"im{i:02d}" for i in range(13)])


CASES = {
    "background, exact": {},
    "background, paper": {"quantile": "paper"},
    "no background": {"data.background": None, "quantile": "paper"},
    "background is not the first class": {"data.background": "dog"},
    "argmax": {"rule": "argmax"},
    "no background in the rule": {"rule": "no_background"},
    "singleton": {"rule": "singleton", "alpha": 0.5},
    "too few scores, abstain": {"alpha": 0.15},
    "too few scores, accept": {"alpha": 0.15, "uncalibrated": "accept"},
    "probabilities with ties": {"python.arguments": {"space": "probability", "decimals": 1}},
    "a class that no mask names": {
        "ignore_values": [255, 1],
        "classes": ["background", {"name": "cat", "values": [9]}, {"name": "dog", "values": [2]}],
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_stores_equal_the_literal_equations(data, make_settings, case):
    settings = make_settings(tile_megabytes=1, **CASES[case])
    run_stages(settings)
    index = load_samples(settings.folder / "samples.json")
    grid, method = settings.data.grid, settings.calibrate.quantile
    masks = np.stack([resize_nearest(index.mask(s, settings.data), grid) for s in index.of("labeled")])
    assert (masks == 255).any()
    q_hat = literal_q_hat(probabilities_of(settings, index.of("labeled")), masks, settings.calibrate.alpha, method)
    calibration = open_calibration(settings.folder / "calibration.zarr")
    assert np.array_equal(calibration.q_hat(settings.calibrate.alpha), q_hat, equal_nan=True)
    assert np.array_equal(calibration.n_valid, (masks != 255).sum(axis=0))

    labels = open_labels(settings.folder / "labels.zarr")
    background = settings.data.background_index
    uncalibrated = "accept" if settings.calibrate.uncalibrated == "accept" else "abstain"
    unlabeled = index.of("unlabeled")
    for i, probabilities in enumerate(probabilities_of(settings, unlabeled)):
        expected = literal_labels(probabilities, q_hat, background, settings.pseudolabel.rule, uncalibrated)
        assert np.array_equal(labels.label(i), expected, equal_nan=True)
        assert labels.class_pixels[i].tolist() == [(expected == k).sum() for k in range(3)]
        assert np.array_equal(labels.raw_argmax(i), probabilities.argmax(axis=0))


def test_receipts_count_what_the_stores_hold(data, make_settings):
    settings = make_settings()
    run_stages(settings, "prepare", "annotate")
    Run(settings).finish("calibrate", calibrate(settings))
    facts = pseudolabel(settings)
    labels = open_labels(settings.folder / "labels.zarr")
    kept = np.stack([~np.isnan(labels.label(i)) for i in range(facts["num_images"])])
    assert facts["num_images"] == 5
    assert facts["pixels"]["kept"] == kept.sum()
    assert facts["keep_rate"] == pytest.approx(kept.mean())
    assert facts["keep_rate_deciles"][0] == pytest.approx(kept.mean(axis=(1, 2)).min())


def test_the_receipt_compares_unlabeled_images_with_labeled_ones(data, make_settings):
    """Every labeled image is labeled with the thresholds of the seven others; void pixels count as all others do."""
    settings = make_settings()
    run_stages(settings)
    index = load_samples(settings.folder / "samples.json")
    labeled, unlabeled = (np.stack(list(probabilities_of(settings, index.of(s)))) for s in ("labeled", "unlabeled"))
    masks = np.stack([resize_nearest(index.mask(s, settings.data), settings.data.grid) for s in index.of("labeled")])
    calibrate, background = settings.calibrate, settings.data.background_index
    kept = []
    for i in range(len(labeled)):
        others = np.arange(len(labeled)) != i
        q_hat = literal_q_hat(labeled[others], masks[others], calibrate.alpha, calibrate.quantile)
        kept.append(~np.isnan(literal_labels(labeled[i], q_hat, background, settings.pseudolabel.rule, "abstain")))
    labels = open_labels(settings.folder / "labels.zarr")
    shift = Run(settings).receipt("pseudolabel")["shift"]
    tests = shift["tests"]
    assert tests["keep rate"]["labeled"] == pytest.approx(np.mean(kept))
    assert tests["keep rate"]["unlabeled"] == pytest.approx(np.mean([~np.isnan(labels.label(i)) for i in range(5)]))
    for name, maps in {"labeled": labeled, "unlabeled": unlabeled}.items():
        assert tests["mean confidence"][name] == pytest.approx(maps.max(axis=1).mean())
        fractions = [(maps.argmax(axis=1) == k).mean() for k in range(3)]
        assert list(tests["class fractions"][name].values()) == pytest.approx(fractions)
    assert shift["is_shift"] == any(test["adjusted"] <= 0.05 for test in tests.values())
    assert (shift["images"] != []) == shift["is_shift"]


def test_the_masks_of_unlabeled_images_change_no_byte(data, make_settings, tmp_path):
    settings = make_settings()
    run_stages(settings)
    before = {name: digest_of(settings.folder / name) for name in ("probs.zarr", "calibration.zarr", "labels.zarr")}
    for sample in load_samples(settings.folder / "samples.json").of("unlabeled"):
        (tmp_path / f"data/masks/{sample.id}.png").unlink()
    again = make_settings(name="again")
    run_stages(again)
    assert {name: digest_of(again.folder / name) for name in before} == before


def test_tiles_and_threads_change_no_byte(data, make_settings):
    small = make_settings(name="small", tile_megabytes=1, **{"compute.workers": 1})
    large = make_settings(name="large", tile_megabytes=500, **{"compute.workers": 4})
    run_stages(small)
    run_stages(large)
    for name in ("calibration.zarr", "labels.zarr"):
        assert digest_of(small.folder / name) == digest_of(large.folder / name)


def test_a_running_cluster_gives_the_same_bytes(data, make_settings):
    local = make_settings(name="local")
    run_stages(local)
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        remote = make_settings(name="remote", scheduler=cluster.scheduler_address)
        run_stages(remote)
    for name in ("calibration.zarr", "labels.zarr"):
        assert digest_of(local.folder / name) == digest_of(remote.folder / name)


def test_a_cluster_that_does_not_answer_is_named(data, make_settings, monkeypatch):
    monkeypatch.setattr("pipeline.dask_tasks.SECONDS_TO_CONNECT", 1)
    settings = make_settings(scheduler="tcp://127.0.0.1:9")
    run_stages(settings, "prepare", "annotate")
    with pytest.raises(ConfigError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9"):
        calibrate(settings)


def test_alpha_without_enough_labels_can_be_made_an_error(data, make_settings):
    settings = make_settings(alpha=0.01, uncalibrated="raise")
    run_stages(make_settings(), "prepare", "annotate")  # prepare refuses such an alpha itself
    with pytest.raises(ConfigError, match=r"calibrate.alpha 0.01: alpha is too small for .* the smallest alpha"):
        calibrate(settings)


def test_a_stage_without_its_input_says_what_to_run(data, make_settings):
    settings = make_settings()
    run_stages(settings, "prepare")
    with pytest.raises(StoreError, match="annotate has not finished; run snakemake --cores 8 annotate --config"):
        calibrate(settings)
    run_stages(settings, "annotate")
    with pytest.raises(StoreError, match="the stage calibrate has not finished"):
        pseudolabel(settings)


def test_another_mask_changes_the_thresholds_but_not_the_cache(data, make_settings, tmp_path):
    settings = make_settings()
    run_stages(settings)
    before = digest_of(settings.folder / "probs.zarr"), digest_of(settings.folder / "calibration.zarr")
    masks = sorted((tmp_path / "data/masks").glob("*.png"))
    labeled = load_samples(settings.folder / "samples.json").of("labeled")[0]
    other = next(path for path in masks if path.stem != labeled.id)
    (tmp_path / f"data/masks/{labeled.id}.png").write_bytes(other.read_bytes())
    run_stages(settings)
    assert digest_of(settings.folder / "probs.zarr") == before[0]
    assert digest_of(settings.folder / "calibration.zarr") != before[1]


@pytest.mark.parametrize("rule", ["paper", "argmax", "singleton"])
def test_a_class_that_the_annotator_has_no_word_for_scores_1_and_is_never_labeled(tmp_path, data, make_settings, rule):
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["B", 3, 16, 24])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 3, 16, 24])
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["logits"])], "net", [image], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "data/net.onnx")
    section = {"model": "net.onnx", "class_map": {"background": [0], "cat": [], "dog": [1]}}
    settings = make_settings(annotator="onnx", rule=rule, alpha=0.5, **{"annotate.onnx": section})
    run_stages(settings)
    calibration = open_calibration(settings.folder / "calibration.zarr")
    maps = calibration.maps(["score", "truth"], range(6), slice(None))
    scores, truth = maps["score"], maps["truth"]
    assert (scores[truth == 1] == 1).all()
    assert (scores[truth == 0] < 1).all()
    labeled = labels_of(settings)
    assert set(np.unique(labeled[~np.isnan(labeled)])) <= {0, 2}
    assert (~np.isnan(labeled)).any()
