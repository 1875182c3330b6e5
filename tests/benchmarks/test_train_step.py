"""benchmarks/train_step.py, and with it benchmarks/gpu.sh, takes our trainer's steps on the data that it writes."""

from itertools import islice

import numpy as np
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["paper stage1", "paper stage2", "plus stage2"])
def test_a_step_of_every_stage_has_losses(tmp_path, stage):
    import train_step  # which imports torch and transformers

    train_step.write_data(tmp_path, 3, 3)
    way = train_step.our_way(train_step.Job(str(tmp_path), "ours", "tiny", 65, stage, "cpu", 0, None))
    for batch in islice(way.batches, 2):
        way.step(batch)
    losses = way.read()
    assert len(losses) == 2
    assert np.isfinite(losses).all()
