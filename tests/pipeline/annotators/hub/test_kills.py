"""kill -9 while prompted networks annotate: the next run goes on and ends with the bytes of an undisturbed run."""

import numpy as np
import pytest
from stage_runs import contents, forget_maps, kill_stage, run_stages
from tiny_networks import DETECTORS, SAM2, SAM3, write_network
from tiny_run import write_run_file

from pipeline.run_file import load_settings
from pipeline.stages.annotate import annotate
from pipeline.store import DONE, open_for_inspection

NETWORKS = {"sam3": SAM3["sam3"], "grounding_dino": DETECTORS["grounding_dino"]}
AFTER_TWO_BATCHES = 11  # because the rounding errors of Grounding DINO depend on the other images of a batch

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", NETWORKS)
def test_a_killed_annotate_goes_on_and_ends_with_the_same_bytes(name, tmp_path, write_images):
    write_images(tmp_path / "data", [f"im{i}" for i in range(13)])
    section = {"model": str(write_network(tmp_path / name, *NETWORKS[name]))}
    if name in DETECTORS:
        section["mask_model"] = str(write_network(tmp_path / "sam2", *SAM2["sam2"]))
    chosen = {"annotator": "transformers", "transformers": section, "class_check": "warn", "batch_size": 2}
    run_file = write_run_file(tmp_path, annotate=chosen)
    settings = load_settings(run_file)
    run_stages(settings, "prepare")
    path = settings.folder / "probs.zarr"
    annotate(settings)
    expected = contents(path)
    path.rename(tmp_path / "expected.zarr")
    forget_maps(settings)

    kill_stage(run_file, "annotate", "probs.zarr/probability/c", AFTER_TWO_BATCHES)
    half_done = open_for_inspection(path)
    done = np.flatnonzero(half_done.status == DONE)
    assert 6 < len(done) < 11
    assert not half_done.state["complete"]
    times = {i: (path / f"probability/c/{i}").stat().st_mtime_ns for i in done}
    annotate(settings)
    assert contents(path) == expected
    again = {i: (path / f"probability/c/{i}").stat().st_mtime_ns for i in done}
    assert again == times, "a finished image was made again"
