"""kill -9 in the middle of a stage: the next run goes on and ends with the bytes of an undisturbed run."""

import numpy as np
import pytest
from stage_runs import STAGES, contents, kill_stage

from pipeline.run import Run
from pipeline.store import DONE, open_for_inspection

CHUNKS = {
    "annotate": ("probs.zarr", "logits/c"),
    "calibrate": ("calibration.zarr", "score/c"),
    "pseudolabel": ("labels.zarr", "label/c"),
}


def run_until(settings, last):
    for name, stage in STAGES.items():
        Run(settings).finish(name, stage(settings))
        if name == last:
            return


@pytest.mark.parametrize("stage", CHUNKS)
@pytest.mark.parametrize("moment", [2, *(pytest.param(moment, marks=pytest.mark.slow) for moment in (1, 5))])
def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(tmp_path, write_images, make_settings, stage, moment):
    write_images(tmp_path / "data", [f"im{i:02d}" for i in range(14)])
    store, fragment = CHUNKS[stage]
    undisturbed = make_settings()
    run_until(undisturbed, stage)
    expected = contents(undisturbed.folder / store)
    undisturbed.folder.rename(tmp_path / "expected")

    settings = make_settings()
    run_until(settings, list(STAGES)[list(STAGES).index(stage) - 1])
    Run(settings).finish(stage, {"fingerprint": "of an earlier run"})
    kill_stage(tmp_path / "tiny.yaml", stage, fragment, moment)
    assert not (settings.folder / f"{stage}.json").exists(), "Snakemake would find nothing to be done"
    half_done = open_for_inspection(settings.folder / store)
    done = int((half_done.status == DONE).sum())
    assert done < moment + 1
    assert not half_done.state["complete"]

    finished = [settings.folder / store / f"{fragment}/{i}" for i in np.flatnonzero(half_done.status == DONE)]
    times = [chunk.stat().st_mtime_ns for chunk in finished]
    STAGES[stage](settings)
    assert contents(settings.folder / store) == expected
    assert [chunk.stat().st_mtime_ns for chunk in finished] == times, "a finished image was made again"
