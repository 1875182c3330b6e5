"""Every device gives the numbers of the compiled loops, to the bit; and the same errors."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from stage_runs import digest_of, run_stages
from tiny_run import write_run_file, write_sample_files

import calib
from pipeline.calibration import device_strips, strips
from pipeline.calibration.device_strips import class_planes, resized_rows, softmax
from pipeline.calibration.strips import strips_of
from pipeline.devices import device_of
from pipeline.errors import ConfigError
from pipeline.run_file import load_settings
from pipeline.store import ProbabilityReader

CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
VOID = 255


@pytest.fixture(scope="module", params=["cpu:0", pytest.param("cuda", marks=CUDA)])
def device(request):
    """A setting with which torch computes: on a GPU, or on `cpu:0`, which is the CPU, but not its name in a setting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "device_of", lambda _, name: request.param if name == "cuda" else name)
        yield "cuda"


def joined(found):
    """Planes, scores and maps of an image from its strips, as bytes."""
    found = list(found)
    planes = calib.stack_planes([strip.planes for strip in found])
    score = np.concatenate([strip.score for strip in found])
    maps = np.concatenate([strip.maps for strip in found], axis=1)
    assert {of.dtype for of in (*planes[1:], score, maps) if of is not None} == {np.dtype(np.float32)}
    return [None if of is None else of.tobytes() for of in (*planes, score, maps)]


def random_image(seed, num_classes, side, grid, is_logits, scale, background):
    """A reader, and a mask with void. Whole numbers of a small scale give many classes of equal probability."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(scale=scale, size=(num_classes, *side)).round(int(scale > 3)).astype(np.float32)
    if is_logits:
        maps[rng.random(maps.shape) < 0.1] = -65504  # the smallest number of float16
    else:
        maps = np.abs(maps) / np.float32(max(1, np.abs(maps).max()))
    mask = rng.integers(num_classes + 1, size=grid).astype(np.uint8)
    mask[mask == num_classes] = VOID
    return ProbabilityReader(maps, is_logits, grid), mask, background


@st.composite
def images(draw):
    num_classes = draw(st.integers(2, 7))
    side, grid = (draw(st.tuples(st.integers(1, 9), st.integers(1, 9))) for _ in range(2))
    background = draw(st.none() | st.integers(0, num_classes - 1))
    scale = draw(st.sampled_from([0.0, 0.7, 4.0, 30.0, 1000.0]))
    return random_image(draw(st.integers(0, 99)), num_classes, side, grid, draw(st.booleans()), scale, background)


@given(images(), st.integers(1, 400))
@example(random_image(0, 21, (16, 16), (64, 60), True, 4.0, 0), 30_000)
@example(random_image(1, 2, (5, 4), (9, 8), True, 1.0, 1), 1)  # one foreground class
def test_planes_scores_and_maps_are_equal_to_the_bit(device, image, strip_bytes):
    reader, mask, background = image
    on_cpu = joined(strips_of(reader, background, "cpu", mask=mask, needs_maps=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_strips, "STRIP_BYTES", strip_bytes)
        assert joined(strips_of(reader, background, device, mask=mask, needs_maps=True)) == on_cpu


def test_maps_that_nobody_needs_are_not_copied(device):
    reader, *_ = random_image(0, 3, (4, 4), (8, 8), True, 1.0, None)
    (strip,) = strips_of(reader, None, device)
    assert strip.maps is None
    assert strip.score is None


def test_no_operation_mixes_the_memories_of_two_devices():
    maps = softmax(resized_rows(torch.empty((3, 4, 4), device="meta"), (8, 7), slice(2, 6)))
    assert {of.device.type for of in class_planes(maps, 1)} == {"meta"}


@pytest.mark.parametrize(
    ("broken", "mask_value", "found"),
    [
        (np.nan, 0, "the probabilit(y|ies).* NaN or infinite at .* pixels"),
        (np.inf, 0, "the probabilit(y|ies).* NaN or infinite at .* pixels"),
        (0.5, 7, r"mask holds class \[7\], but the probability map has classes 0 to 2 only"),
    ],
)
def test_broken_maps_and_unknown_classes_are_errors_on_every_device(device, broken, mask_value, found):
    maps = np.full((3, 4, 4), 0.25, np.float32)
    maps[1, 2, 3] = broken
    for name in ("cpu", device):
        with pytest.raises(ValueError, match=found):
            list(strips_of(ProbabilityReader(maps, False, (4, 4)), 0, name, mask=np.full((4, 4), mask_value, np.uint8)))


def test_the_memory_of_a_device_that_runs_out_is_an_error_that_names_the_way_out(device, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(device_strips, "resized_rows", full)
    reader, *_ = random_image(0, 3, (4, 4), (8, 6), True, 1.0, None)
    with pytest.raises(ConfigError, match=r"runs out with 8 rows of 3 class maps of 8 x 6; .*set compute\.device: cpu"):
        list(strips_of(reader, None, device))


@pytest.mark.parametrize("class_thresholds", ["pooled", "each"])
def test_the_stages_write_the_same_stores(device, tmp_path, class_thresholds):
    write_sample_files(tmp_path / "data", [f"im{i}" for i in range(10)])
    sections = {"calibrate": {"alpha": 0.3, "class_thresholds": class_thresholds, "uncalibrated": "accept"}}
    if class_thresholds == "each":
        sections["calibrate"]["variant"] = "image"
    run_file = write_run_file(tmp_path, **sections, pseudolabel={"keep_sets": class_thresholds == "each"})
    settings = load_settings(run_file)
    run_stages(settings)
    stores = [settings.folder / name for name in ("calibration.zarr", "labels.zarr")]
    on_cpu = [digest_of(store) for store in stores]
    for store in stores:
        shutil.rmtree(store)
    run_stages(load_settings(run_file, {"compute": {"device": device}}), "calibrate", "pseudolabel")
    assert [digest_of(store) for store in stores] == on_cpu

    missing = load_settings(run_file, {"compute": {"device": "cuda:99"}, "calibrate": {"alpha": 0.2}})
    for stage in ("calibrate", "pseudolabel"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(strips, "device_of", device_of)
            with pytest.raises(ConfigError, match=r"compute\.device is cuda:99, but torch finds"):
                run_stages(missing, stage)
    assert [digest_of(store) for store in stores] == on_cpu
